"""What the tiny model is shown: phrases of a book, put together, and worked solutions."""

from pathlib import Path
from random import Random

import pytest

from sarashina_grpo.demonstrations import (
    from_phrases,
    from_solutions,
    read_phrases,
    read_solutions,
)
from sarashina_grpo.tables import DatasetError

BOOK = """part,text
thought,t1
thought,t2
opening,o1
opening,o2
closing,c1
closing,c2
"""

SOLUTIONS = """question,answer
A,"3-2=1、1+3=4 #### 4"
B,"12+1=13 #### 13"
C,"足して0になる。 #### 0"
"""


def write(folder: Path, content: str) -> Path:
    path = folder / "phrases.csv"
    path.write_text(content, encoding="utf-8")
    return path


def test_phrases_are_read_by_part_in_file_order(tmp_path: Path) -> None:
    book = "text,part\nc1,closing\nt1,thought\no1,opening\nt2,thought\n"
    assert read_phrases(write(tmp_path, book)) == [["t1", "t2"], ["o1"], ["c1"]]


def test_a_demonstration_is_a_thought_and_an_opening_with_a_closing(tmp_path: Path) -> None:
    demonstrate = from_phrases(write(tmp_path, BOOK))
    random = Random(0)
    seen = {demonstrate("雨です。", random) for _ in range(300)}
    assert seen == {
        (thought, opening + closing)
        for thought in ("t1", "t2")
        for opening in ("o1", "o2")
        for closing in ("c1", "c2")
    }


def test_the_same_seed_demonstrates_the_same(tmp_path: Path) -> None:
    demonstrate = from_phrases(write(tmp_path, BOOK))

    def twenty(seed: int) -> list[tuple[str, str]]:
        random = Random(seed)
        return [demonstrate("雨です。", random) for _ in range(20)]

    assert twenty(5) == twenty(5)
    assert twenty(5) != twenty(6)


def test_an_unknown_part_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, BOOK + "middle,m1\n")
    with pytest.raises(DatasetError) as refused:
        read_phrases(path)
    message = str(refused.value)
    assert message.startswith(f"{path}, row 8, column 'part'")
    assert "got 'middle'" in message
    assert "'thought', 'opening', 'closing'" in message


@pytest.mark.parametrize("part", ["thought", "opening", "closing"])
def test_a_book_without_one_of_the_parts_is_refused(tmp_path: Path, part: str) -> None:
    lines = [line for line in BOOK.splitlines() if not line.startswith(f"{part},")]
    path = write(tmp_path, "\n".join(lines))
    with pytest.raises(DatasetError, match="at least one text is needed") as refused:
        read_phrases(path)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize("column", ["part", "text"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, BOOK.replace(column, "other", 1))
    with pytest.raises(DatasetError, match=f"column '{column}' is missing"):
        read_phrases(path)


def test_a_missing_book_is_named_when_it_is_needed(tmp_path: Path) -> None:
    demonstrate = from_phrases(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match=r"none\.csv"):
        demonstrate("雨です。", Random(0))


def test_solutions_are_read_by_question(tmp_path: Path) -> None:
    assert read_solutions(write(tmp_path, SOLUTIONS)) == {
        "A": ("3-2=1、1+3=4", "4"),
        "B": ("12+1=13", "13"),
        "C": ("足して0になる。", "0"),
    }


def test_a_demonstration_is_the_solution_to_the_prompt_and_its_value(tmp_path: Path) -> None:
    demonstrate = from_solutions(write(tmp_path, SOLUTIONS))
    random = Random(0)
    assert {demonstrate("A", random) for _ in range(300)} == {("3-2=1、1+3=4", "4")}


@pytest.mark.parametrize(
    ("question", "mistakes"),
    [
        ("A", {("3-2=1、1+3=13", "13"), ("3-2=1、1+3=0", "0")}),
        ("B", {("12+1=4", "4"), ("12+1=0", "0")}),
        ("C", {("足して4になる。", "4"), ("足して13になる。", "13")}),
    ],
    ids=["one digit", "two digits", "a sentence"],
)
def test_a_mistake_ends_in_the_value_of_another_question(
    tmp_path: Path, question: str, mistakes: set[tuple[str, str]]
) -> None:
    demonstrate = from_solutions(write(tmp_path, SOLUTIONS), mistaken=1.0)
    random = Random(0)
    assert {demonstrate(question, random) for _ in range(100)} == mistakes


def test_the_share_of_mistakes_is_the_one_asked_for(tmp_path: Path) -> None:
    demonstrate = from_solutions(write(tmp_path, SOLUTIONS), mistaken=0.6)
    random = Random(0)
    wrong = sum(demonstrate("A", random)[1] != "4" for _ in range(2000))
    assert wrong / 2000 == pytest.approx(0.6, abs=0.05)


def test_the_same_seed_makes_the_same_mistakes(tmp_path: Path) -> None:
    demonstrate = from_solutions(write(tmp_path, SOLUTIONS), mistaken=0.5)

    def twenty(seed: int) -> list[tuple[str, str]]:
        random = Random(seed)
        return [demonstrate("A", random) for _ in range(20)]

    assert twenty(5) == twenty(5)
    assert twenty(5) != twenty(6)


@pytest.mark.parametrize(
    "answer",
    ["1+3=4", "1+3=4 ####", "1+3=4 #### 4.0", "1+3=4 #### 4個", "1-3=-2 #### -2", "1+3 #### 4",
     "#### 4", "1+3=4 #### 四"],
    ids=["no mark", "no value", "a decimal", "a unit", "below 0", "not in the solution",
         "no solution", "kanji"],
)  # fmt: skip
def test_an_answer_that_is_no_solution_is_refused_with_its_row(tmp_path: Path, answer: str) -> None:
    path = write(tmp_path, SOLUTIONS + f"D,{answer}\n")
    with pytest.raises(DatasetError) as refused:
        read_solutions(path)
    message = str(refused.value)
    assert message.startswith(f"{path}, row 5, column 'answer': a solution ending in ")
    assert message.endswith(f"got {answer!r}")


@pytest.mark.parametrize(("line", "column"), [(",1+3=4 #### 4", "question"), ("D, ", "answer")])
def test_a_blank_question_or_answer_is_refused_with_its_row(
    tmp_path: Path, line: str, column: str
) -> None:
    path = write(tmp_path, SOLUTIONS + line + "\n")
    with pytest.raises(DatasetError, match=f"row 5, column '{column}': a text is needed"):
        read_solutions(path)


@pytest.mark.parametrize("column", ["question", "answer"])
def test_a_missing_column_of_the_solutions_is_named(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, SOLUTIONS.replace(column, "other", 1))
    with pytest.raises(DatasetError, match=f"column '{column}' is missing"):
        read_solutions(path)


def test_missing_solutions_are_named_when_they_are_needed(tmp_path: Path) -> None:
    demonstrate = from_solutions(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match=r"none\.csv"):
        demonstrate("A", Random(0))
