"""Reading prompts: what is accepted, what is left out, and how errors name the place."""

import csv
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sarashina_grpo.data import (
    DatasetError,
    LeftOut,
    Source,
    describe_left_out,
    drop_overlong,
    load_dataset,
    read_table,
    split_dataset,
)

if TYPE_CHECKING:
    from datasets import Dataset


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "prompts.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def bilingual(path: Path) -> Source:
    return Source(path=path, lang_column="lang", language="ja")


def load(folder: Path, content: str | bytes) -> tuple[list[str], list[LeftOut]]:
    """The user prompts of a `prompt,lang` file, and the rows left out."""
    dataset, left_out = load_dataset(bilingual(write(folder, content)), "Think first.")
    return [messages[1]["content"] for messages in dataset["prompt"]], left_out


def refusal(folder: Path, content: str | bytes) -> str:
    """What the error about a `prompt,lang` file says."""
    path = write(folder, content)
    with pytest.raises(DatasetError) as refused:
        load_dataset(bilingual(path), "Think first.")
    message = str(refused.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def numbered(count: int) -> "Dataset":
    from datasets import Dataset

    prompts = [[{"role": "user", "content": "x" * number}] for number in range(1, count + 1)]
    return Dataset.from_dict({"prompt": prompts})


def contents(dataset: "Dataset") -> list[str]:
    return [messages[0]["content"] for messages in dataset["prompt"]]


def test_each_prompt_stands_behind_the_system_prompt(tmp_path: Path) -> None:
    dataset, _ = load_dataset(bilingual(write(tmp_path, "prompt,lang\n雨です。,ja\n")), "Think.")
    assert dataset["prompt"][0] == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "雨です。"},
    ]


def test_prompts_without_a_language_column_are_all_kept(tmp_path: Path) -> None:
    source = Source(path=write(tmp_path, "prompt\n雨です。\nRain.\n"))
    dataset, left_out = load_dataset(source, "Think first.")
    assert len(dataset) == 2
    assert left_out == []


def test_the_columns_may_have_other_names_and_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path, "id,sprache,text\n1,en,Rain.\n2,ja,雨\n")
    source = Source(path=path, prompt_column="text", lang_column="sprache", language="en")
    dataset, left_out = load_dataset(source, "Think first.")
    assert dataset["prompt"][0][1]["content"] == "Rain."
    assert left_out == [LeftOut(3, "雨", "lang is ja")]


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ("\ufeffprompt,lang\n雨,ja\n", ["雨"]),
        ("prompt,lang\r\n雨,ja\r\n風,ja\r\n", ["雨", "風"]),
        ("prompt,lang\n雨,ja", ["雨"]),
        ("prompt,lang\n雨,ja\n\n,\n風,ja\n\n", ["雨", "風"]),
        ('prompt,lang\n"雨、\n風",ja\n', ["雨、\n風"]),
        ('prompt,lang\n"rain, wind",ja\n', ["rain, wind"]),
        ('prompt,lang\n"a ""b"" c",ja\n', ['a "b" c']),
        ("prompt,lang\nNA,ja\nnull,ja\n1.0,ja\nTrue,ja\n", ["NA", "null", "1.0", "True"]),
        ("prompt,lang\n  雨 ,ja\n", ["  雨 "]),
        ("prompt,lang\na\0b,ja\n", ["a\0b"]),
    ],
    ids=[
        "byte order mark",
        "CRLF",
        "no final newline",
        "lines without content",
        "quoted newline",
        "quoted comma",
        "doubled quotation mark",
        "nothing guessed",
        "outer white space",
        "NUL does not cut a prompt off",
    ],
)
def test_the_text_is_read_as_it_stands(tmp_path: Path, content: str, prompts: list[str]) -> None:
    assert load(tmp_path, content) == (prompts, [])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    values=st.lists(st.text(st.characters(codec="utf-8")).filter(str.strip), min_size=1, max_size=5)
)
def test_what_the_csv_module_writes_is_read_back(values: list[str]) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([["prompt"], *([v] for v in values)])
    with tempfile.TemporaryDirectory() as folder:
        table = read_table(write(Path(folder), buffer.getvalue()), ["prompt"])
    assert table["prompt"].tolist() == values


def test_rows_of_another_language_are_left_out_and_reported(tmp_path: Path) -> None:
    prompts, left_out = load(tmp_path, "prompt,lang\n雨,ja\nRain,en\n風,ja\n")
    assert prompts == ["雨", "風"]
    assert left_out == [LeftOut(3, "Rain", "lang is en")]


@pytest.mark.parametrize(
    "duplicate",
    ["Rain ABC", "rain abc", "Ｒａｉｎ ABC", '"  Rain\n  ABC "', "Rain　ABC"],
    ids=["same", "case", "full width", "white space", "ideographic space"],
)
def test_duplicates_are_left_out_with_the_row_of_the_first(tmp_path: Path, duplicate: str) -> None:
    content = f"prompt,lang\nWind,ja\nRain ABC,ja\n{duplicate},ja\n{duplicate},ja\n"
    prompts, left_out = load(tmp_path, content)
    assert prompts == ["Wind", "Rain ABC"]
    assert [(item.row, item.reason) for item in left_out] == [
        (4, "same prompt as row 3"),
        (5, "same prompt as row 3"),
    ]
    assert left_out[0].text == duplicate.strip('"')


def test_the_first_is_counted_among_the_rows_that_are_kept(tmp_path: Path) -> None:
    prompts, left_out = load(tmp_path, "prompt,lang\nHi,en\nHi,ja\nhi,ja\n")
    assert prompts == ["Hi"]
    assert [(item.row, item.reason) for item in left_out] == [
        (2, "lang is en"),
        (4, "same prompt as row 3"),
    ]


def test_rows_left_out_are_counted_by_reason() -> None:
    left_out = [
        LeftOut(3, "Hi", "lang is en"),
        LeftOut(5, "雨", "same prompt as row 2"),
        LeftOut(6, "風", "same prompt as row 4"),
        LeftOut(7, "Oh", "lang is en"),
    ]
    assert describe_left_out(left_out) == {"lang is en": 2, "duplicate": 2}


@pytest.mark.parametrize("name", ["missing.csv", "."], ids=["missing file", "directory"])
def test_a_path_that_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(DatasetError, match="CSV file is needed") as refused:
        read_table(path, ["prompt"])
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "place", "value"),
    [
        ("text,lang\n雨,ja\n", ", row 1: column 'prompt' is missing", "['text', 'lang']"),
        ("prompt\n雨\n", ", row 1: column 'lang' is missing", "['prompt']"),
        ("Prompt,lang\n雨,ja\n", ", row 1: column 'prompt' is missing", "'Prompt'"),
        ("prompt;lang\n雨;ja\n", ", row 1: column 'prompt' is missing", "'prompt;lang'"),
        ("prompt,lang\n雨,ja\n,ja\n", ", row 3, column 'prompt'", "got ''"),
        ("prompt,lang\n雨,ja\n   ,ja\n", ", row 3, column 'prompt'", "got '   '"),
        ("prompt,lang\n\u3000,ja\n", ", row 2, column 'prompt'", r"got '\u3000'"),
        ("prompt,lang\n雨,ja\n風,\n", ", row 3, column 'lang'", "got ''"),
        ("prompt,lang\n雨,ja\n風\n", ", row 3, column 'lang'", "got ''"),
        ("lang,prompt\nja\nja,風\n", ", row 2, column 'prompt'", "got ''"),
        ("prompt,lang\n雨,ja\nPluie,fr\n", ", row 3, column 'lang'", "got 'fr'"),
        ("prompt,lang\n雨, ja\n", ", row 2, column 'lang'", "got ' ja'"),
        ("prompt,lang\n雨,JA\n", ", row 2, column 'lang'", "got 'JA'"),
        ("prompt,lang\n雨,j\0a\n", ", row 2, column 'lang'", r"got 'j\x00a'"),
        ('prompt,lang\n"雨\n\n風",ja\n\n,ja\n', ", row 4, column 'prompt'", "got ''"),
    ],
    ids=[
        "missing prompt column",
        "missing lang column",
        "column in another case",
        "semicolons",
        "empty prompt",
        "blank prompt",
        "prompt of an ideographic space",
        "empty lang",
        "too few fields",
        "too few fields in the first row",
        "unknown lang",
        "lang with a space",
        "lang in upper case",
        "NUL in lang",
        "rows are counted as a spreadsheet does",
    ],
)
def test_an_error_names_row_column_and_value(
    tmp_path: Path, content: str, place: str, value: str
) -> None:
    message = refusal(tmp_path, content)
    assert message.startswith(place)
    assert value in message


def test_a_long_value_is_shortened_in_the_error(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"prompt,lang\n雨,{'x' * 5000}\n")
    assert "xxx…'" in message
    assert len(message) < 200


def test_an_error_says_which_languages_are_accepted(tmp_path: Path) -> None:
    assert "('ja', 'en')" in refusal(tmp_path, "prompt,lang\nPluie,fr\n")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("prompt,lang\nrain,ja\n雨,ja\n".encode("cp932"), ", row 3: not UTF-8"),
        ("prompt,lang\n雨,ja\n".encode("utf-16"), ", row 1: not UTF-8"),
    ],
    ids=["Shift-JIS", "UTF-16"],
)
def test_another_encoding_is_refused_with_the_row_and_the_bytes(
    tmp_path: Path, content: bytes, place: str
) -> None:
    message = refusal(tmp_path, content)
    assert message.startswith(place)
    assert "got b'" in message
    assert "save it as UTF-8" in message


def test_utf_16_without_a_byte_order_mark_is_refused_and_seen(tmp_path: Path) -> None:
    message = refusal(tmp_path, "prompt,lang\nrain,ja\n".encode("utf-16-le"))
    assert message.startswith(", row 1: column 'prompt' is missing")
    assert r"'p\x00r\x00o\x00m\x00p\x00t\x00'" in message


@pytest.mark.parametrize("content", ["", "\ufeff", "\n\n"], ids=["empty", "mark only", "newlines"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    assert "empty" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    ["prompt,lang\n", "prompt,lang", "prompt,lang\n\n,\n", "prompt,lang\nRain,en\n"],
    ids=["header only", "header without newline", "rows without content", "another language"],
)
def test_a_file_that_leaves_no_prompt_is_refused(tmp_path: Path, content: str) -> None:
    assert "no prompt is left to train on" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    ['prompt,lang\n雨,ja\n"風,ja\n雪,ja\n', 'prompt,lang\n雨,ja\n風,"ja\n'],
    ids=["in the prompt", "in the last field"],
)
def test_an_unclosed_quotation_mark_is_refused_with_its_row(tmp_path: Path, content: str) -> None:
    message = refusal(tmp_path, content)
    assert "quotation mark is left open" in message
    assert "row 3" in message


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ("prompt,lang\n雨,ja\n風,雪,ja\n", 3),
        ("prompt,lang\n風,雪,ja\n雨,ja\n", 2),
        ("prompt,lang\n雨,ja,\n風,ja,\n", 2),
    ],
    ids=["in a later row", "in the first row", "in every row"],
)
def test_too_many_fields_are_refused_with_their_row(tmp_path: Path, content: str, row: int) -> None:
    message = refusal(tmp_path, content)
    assert "comma" in message
    assert f"row {row}" in message or f"line {row}" in message


def test_a_dataset_error_is_a_value_error_that_names_what_it_is_given() -> None:
    path = Path("a.csv")
    assert isinstance(DatasetError("bad", path), ValueError)
    assert str(DatasetError("bad", path)) == "a.csv: bad"
    assert str(DatasetError("bad", path, 3)) == "a.csv, row 3: bad"
    assert str(DatasetError("bad", path, 3, "lang")) == "a.csv, row 3, column 'lang': bad"


def test_a_fifth_of_the_prompts_is_held_out() -> None:
    parts = split_dataset(numbered(50), seed=1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 40, "held_out": 10}


def test_another_share_can_be_held_out() -> None:
    assert len(split_dataset(numbered(50), seed=1, held_out=0.5)["held_out"]) == 25


def test_the_same_seed_splits_the_same_way() -> None:
    one, other = (split_dataset(numbered(50), seed=7) for _ in range(2))
    assert contents(one["train"]) == contents(other["train"])
    assert contents(one["held_out"]) == contents(other["held_out"])


def test_another_seed_splits_another_way() -> None:
    one, other = (split_dataset(numbered(50), seed=seed) for seed in (7, 8))
    assert set(contents(one["held_out"])) != set(contents(other["held_out"]))


def test_nothing_is_in_both_parts_and_nothing_is_lost() -> None:
    parts = split_dataset(numbered(50), seed=3)
    everything = contents(parts["train"]) + contents(parts["held_out"])
    assert sorted(everything) == contents(numbered(50))


def count_characters(prompt: list[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in prompt)


@pytest.mark.parametrize(("limit", "dropped"), [(10, 0), (9, 1), (4, 6), (1, 9)])
def test_overlong_prompts_are_dropped_and_counted(limit: int, dropped: int) -> None:
    kept, count = drop_overlong(numbered(10), count_characters, limit)
    assert count == dropped
    assert contents(kept) == ["x" * length for length in range(1, limit + 1)]


def test_a_limit_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_prompt_length=0"):
        drop_overlong(numbered(3), count_characters, 0)
