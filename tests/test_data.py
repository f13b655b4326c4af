"""Prompts and answers: what is accepted, what is left out, and how errors name the place."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sarashina_grpo.data import (
    DatasetError,
    LeftOut,
    Source,
    describe_left_out,
    drop_overlong,
    extract_answer,
    load_dataset,
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


def solved(path: "Path | Dataset") -> Source:
    return Source(path=path, prompt_column="question", answer_column="answer")


def typed(folder: Path, name: str | None, answers: list[Any]) -> "Path | Dataset":
    """Numbered questions with these answers, in a file of this name or else in memory."""
    from datasets import Dataset

    questions = [f"Question {number}" for number in range(1, len(answers) + 1)]
    dataset = Dataset.from_dict({"question": questions, "answer": answers})
    if name is None:
        return dataset
    path = folder / name
    if path.suffix == ".parquet":
        dataset.to_parquet(path)
    else:
        dataset.to_json(path, lines=path.suffix == ".jsonl")
    return path


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


@pytest.mark.parametrize(
    ("content", "place", "value"),
    [
        ("text,lang\n雨,ja\n", ": column 'prompt' is missing", "['text', 'lang']"),
        ("prompt\n雨\n", ": column 'lang' is missing", "['prompt']"),
        ("prompt,lang\n雨,ja\n,ja\n", ", row 3, column 'prompt'", "got ''"),
        ("prompt,lang\n雨,ja\n風,\n", ", row 3, column 'lang'", "got ''"),
        ("prompt,lang\n雨,ja\nPluie,fr\n", ", row 3, column 'lang'", "got 'fr'"),
        ("prompt,lang\n雨, ja\n", ", row 2, column 'lang'", "got ' ja'"),
        ("prompt,lang\n雨,JA\n", ", row 2, column 'lang'", "got 'JA'"),
        ("prompt,lang\n雨,j\0a\n", ", row 2, column 'lang'", r"got 'j\x00a'"),
    ],
    ids=[
        "missing prompt column",
        "missing lang column",
        "empty prompt",
        "empty lang",
        "unknown lang",
        "lang with a space",
        "lang in upper case",
        "NUL in lang",
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
    "content",
    ["prompt,lang\n", "prompt,lang", "prompt,lang\n\n,\n", "prompt,lang\nRain,en\n"],
    ids=["header only", "header without newline", "rows without content", "another language"],
)
def test_a_file_that_leaves_no_prompt_is_refused(tmp_path: Path, content: str) -> None:
    assert "no prompt is left to train on" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("3+4=7 #### 7", "7"),
        ("3+4=7\n#### 7\n", "7"),
        ("####7", "7"),
        ("a #### 6 #### 7", "7"),
        ("#### 1,000 円", "1,000 円"),
        ("月曜の次。 #### 火曜日", "火曜日"),
        ("3+4=7 ####", ""),
        ("3+4=7 ### 7", None),
        ("7", None),
        ("", None),
    ],
)
def test_the_answer_is_what_stands_behind_the_last_mark(solution: str, answer: str | None) -> None:
    assert extract_answer(solution) == answer


def test_answers_stand_beside_their_prompts_and_open_questions_have_none(tmp_path: Path) -> None:
    lines = ["question,answer", "1+2?,3だ。 #### 3", "朝?,東。 #### 東", "なぜ?,", "何?,さあ"]
    dataset, _ = load_dataset(solved(write(tmp_path, "\n".join(lines))), "Think first.")
    prompts = [messages[1]["content"] for messages in dataset["prompt"]]
    assert prompts == ["1+2?", "朝?", "なぜ?", "何?"]
    assert dataset["answer"][:] == ["3", "東", None, None]


@pytest.mark.parametrize("name", ["a.parquet", "a.json", "a.jsonl", None], ids=str)
def test_a_missing_answer_makes_an_open_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    source = typed(tmp_path, name, ["1+2=3 #### 3", None, "さあ", ""])
    assert load_dataset(solved(source), "")[0]["answer"][:] == ["3", None, None, None]


def test_answers_may_all_be_missing(tmp_path: Path) -> None:
    source = solved(typed(tmp_path, None, [None, None]))
    assert load_dataset(source, "")[0]["answer"][:] == [None, None]


def test_without_an_answer_column_there_are_no_answers(tmp_path: Path) -> None:
    source = Source(path=typed(tmp_path, None, ["#### 3"]), prompt_column="question")
    assert load_dataset(source, "")[0].column_names == ["prompt"]


def test_rows_left_out_take_their_answers_with_them(tmp_path: Path) -> None:
    path = write(tmp_path, "question,answer\nA,#### 1\na,#### 2\nB,#### 3\n")
    dataset, left_out = load_dataset(solved(path), "")
    assert dataset["answer"][:] == ["1", "3"]
    assert left_out == [LeftOut(3, "a", "same prompt as row 2")]


@pytest.mark.parametrize("name", ["a.parquet", "a.json", "a.jsonl", None], ids=str)
@pytest.mark.parametrize(
    ("answers", "row", "problem"),
    [
        ([3, 4], 1, "a worked solution ending in '#### <value>' is needed, got 3"),
        ([None, 4.5], 2, "a worked solution ending in '#### <value>' is needed, got 4.5"),
        (["#### 3", "3だ。 #### "], 2, "a value is needed after '####', got '3だ。 #### '"),
    ],
    ids=["whole numbers", "numbers", "no value"],
)
def test_an_answer_without_a_value_is_refused_with_its_row(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    answers: list[Any],
    row: int,
    problem: str,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    source = solved(typed(tmp_path, name, answers))
    with pytest.raises(DatasetError) as refused:
        load_dataset(source, "")
    assert str(refused.value) == f"{source.name}, row {row}, column 'answer': {problem}"


def test_an_answer_without_a_value_in_a_csv_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, "question,answer\nA,#### 1\nB,2だ。 ####\n")
    with pytest.raises(DatasetError) as refused:
        load_dataset(solved(path), "")
    assert str(refused.value).startswith(f"{path}, row 3, column 'answer': a value is needed")


def test_a_missing_answer_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "question,solution\nA,#### 1\n")
    with pytest.raises(DatasetError, match="column 'answer' is missing"):
        load_dataset(solved(path), "")


def test_a_source_says_its_name_and_the_columns_it_reads(tmp_path: Path) -> None:
    source = Source(path="owner/name:config", prompt_column="a", lang_column="c")
    assert (source.name, source.columns) == ("owner/name:config", ["a", "c"])
    source = Source(path=typed(tmp_path, None, ["b"]), prompt_column="a", answer_column="b")
    assert (source.name, source.columns) == ("the dataset", ["a", "b"])


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
