"""The question set: its layout, its counts, and every checkable answer against a program."""

import csv
import io
import re
import unicodedata
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
QUESTIONS = ROOT / "datasets" / "qa.csv"
PROGRAMS = ROOT / "tests" / "fixtures" / "qa_programs.csv"

MARK = "####"
VERIFIED_ANSWER = re.compile(r"(?P<solution>[^#\n]+[。]) #### (?P<value>\S+)")
NUMERALS = re.compile(r"[0-9０-９〇一二三四五六七八九十百千万]")
TAG = re.compile(r"</?[A-Za-z!?][^>]*>")

# All the names that a program has: no imports and no files.
BUILTINS = (
    abs, all, any, divmod, enumerate, filter, float, int, len, list, map, max, min, next,
    range, reversed, round, set, sorted, str, sum, tuple, zip,
)  # fmt: skip
NAMESPACE: dict[str, object] = {
    "__builtins__": {function.__name__: function for function in BUILTINS},
    "date": date,
    "timedelta": timedelta,
    "Fraction": Fraction,
    "Decimal": Decimal,
}


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


ROWS = read(QUESTIONS)
VERIFIED = {row["question"]: row["answer"] for row in ROWS if MARK in row["answer"]}
OPEN = [row for row in ROWS if MARK not in row["answer"]]
PROGRAM_ROWS = read(PROGRAMS)


def run(program: str) -> object:
    # Copied, because eval may write to the namespace that it is given.
    return eval(program, dict(NAMESPACE))


def same(value: str, result: object) -> bool:
    """Whether the written value is the program's: as text, or as the same number."""
    if isinstance(result, str):
        return value == result
    if not isinstance(result, int | float | Decimal | Fraction) or isinstance(result, bool):
        return False
    try:
        number = Fraction(Decimal(value))
    except InvalidOperation:
        return False
    return number == (Fraction(str(result)) if isinstance(result, float) else Fraction(result))


def folded(text: str) -> str:
    """The text as a reader would call it the same: widths unified, white space gone."""
    return "".join(unicodedata.normalize("NFKC", text).split())


@pytest.mark.parametrize(
    ("path", "header"),
    [(QUESTIONS, ["question", "answer"]), (PROGRAMS, ["question", "program"])],
    ids=["questions", "programs"],
)
def test_the_file_has_two_columns_and_both_are_filled_in_every_row(
    path: Path, header: list[str]
) -> None:
    first, *rest = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))

    assert first == header
    assert [row for row in rest if len(row) != 2 or not all(map(str.strip, row))] == []


@pytest.mark.parametrize("path", [QUESTIONS, PROGRAMS], ids=["questions", "programs"])
def test_the_file_is_utf8_without_a_mark_and_ends_its_lines_with_one_line_feed(path: Path) -> None:
    content = path.read_bytes()

    content.decode("utf-8")
    assert not content.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in content
    assert content.endswith(b"\n")
    assert b"\n\n" not in content


@pytest.mark.parametrize("path", [QUESTIONS, PROGRAMS], ids=["questions", "programs"])
def test_the_file_quotes_only_what_needs_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(csv.reader(io.StringIO(text, newline="")))

    assert written.getvalue() == text


def test_there_are_enough_rows_of_each_kind() -> None:
    assert len(ROWS) >= 400
    assert len(VERIFIED) >= 350
    assert len(OPEN) >= 40


def test_no_question_comes_twice() -> None:
    counts = Counter(folded(row["question"]) for row in ROWS)

    assert [question for question, count in counts.items() if count > 1] == []


def test_no_more_than_five_questions_differ_only_in_their_numbers() -> None:
    counts = Counter(folded(NUMERALS.sub("", row["question"])) for row in ROWS)

    assert [question for question, count in counts.items() if count > 5] == []


def test_every_verified_answer_is_a_worked_solution_and_then_its_value_on_one_line() -> None:
    malformed = [answer for answer in VERIFIED.values() if not VERIFIED_ANSWER.fullmatch(answer)]

    assert malformed == []


def test_every_verified_question_has_one_program_and_every_program_its_question() -> None:
    assert Counter(row["question"] for row in PROGRAM_ROWS) == Counter(VERIFIED.keys())


def test_every_verified_answer_is_what_its_program_gives() -> None:
    wrong = []
    for row in PROGRAM_ROWS:
        value = VERIFIED[row["question"]].rpartition(f"{MARK} ")[2]
        result = run(row["program"])
        if not same(value, result):
            wrong.append((row["question"], value, result))

    assert wrong == []


@pytest.mark.parametrize(
    ("value", "result", "expected"),
    [
        ("9.9", Decimal("9.90"), True),
        ("5", Fraction(10, 2), True),
        ("2.5", 2.5, True),
        ("9.11", Decimal("9.9"), False),
        ("火曜日", "火曜日", True),
        ("火曜日", "水曜日", False),
        ("火曜日", 2, False),
        ("1", True, False),
    ],
)
def test_a_value_is_compared_as_a_number_or_as_text(
    value: str, result: object, expected: bool
) -> None:
    assert same(value, result) is expected


def test_a_program_cannot_reach_outside_its_names() -> None:
    with pytest.raises(NameError):
        run("open('/etc/hostname')")


def test_no_text_has_a_tag_in_it() -> None:
    assert [row for row in ROWS if any(TAG.search(text) for text in row.values())] == []


def test_questions_use_all_three_ways_to_write_numbers() -> None:
    questions = "".join(row["question"] for row in ROWS)

    assert re.search("[0-9]", questions)
    assert re.search("[０-９]", questions)
    assert re.search("[一二三四五六七八九十百千]", questions)
