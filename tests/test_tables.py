"""Reading files, folders and Hub datasets: what is accepted, and how errors name the place."""

import csv
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sarashina_grpo.tables import DatasetError, check_texts, describe, read_table

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ["question", "answer"]
ROWS = [
    {"question": "1+2は?", "answer": "1+2=3 #### 3"},
    {"question": "りんごが2個、\n梨が1個。", "answer": "足して、3個。 #### 3"},
]
EACH_KIND = pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.json", "a.jsonl"])
EACH_TYPED_KIND = pytest.mark.parametrize("name", ["a.parquet", "a.json", "a.jsonl"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write the rows to a file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    match path.suffix:
        case ".csv":
            table.to_csv(path, index=False)
        case ".parquet":
            table.to_parquet(path)
        case kind:
            table.to_json(path, orient="records", lines=kind == ".jsonl")
    return path


def write(folder: Path, content: str | bytes, name: str = "prompts.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def records(source: "Path | str | Dataset") -> list[dict[Any, Any]]:
    return read_table(source, COLUMNS).to_dict("records")


def complaint(source: "Path | str | Dataset", columns: list[str]) -> str:
    """What the error about a source says, in one line behind the source's name."""
    with pytest.raises(DatasetError) as refused:
        check_texts(read_table(source, columns), columns, describe(source))
    message = str(refused.value)
    assert message.startswith(describe(source))
    assert "\n" not in message
    return message.removeprefix(describe(source))


def refusal(folder: Path, content: str | bytes) -> str:
    """What the error about a `prompt,lang` file says."""
    return complaint(write(folder, content), ["prompt", "lang"])


def answer_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let every question to the Hub end in this error."""

    def load_dataset(*what: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)


@EACH_KIND
def test_each_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert records(save(tmp_path / name, ROWS)) == ROWS


@EACH_KIND
def test_a_folder_gives_the_rows_of_its_file(tmp_path: Path, name: str) -> None:
    assert records(save(tmp_path / "folder" / name, ROWS).parent) == ROWS


@EACH_TYPED_KIND
def test_a_folder_of_two_files_gives_the_rows_of_both(tmp_path: Path, name: str) -> None:
    for part in ("1", "2"):
        save(tmp_path / "folder" / f"{part}{name}", ROWS)
    table = read_table(tmp_path / "folder", COLUMNS)
    assert table.index.tolist() == [1, 2, 3, 4]
    assert table.to_dict("records") == ROWS * 2


def test_a_dataset_in_memory_gives_its_rows() -> None:
    from datasets import Dataset

    assert records(Dataset.from_list(ROWS)) == ROWS


@EACH_KIND
def test_a_path_may_be_a_text_and_its_suffix_in_upper_case(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, ROWS)
    assert records(str(path.rename(path.with_suffix(path.suffix.upper())))) == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.json", "folder/a.parquet"])
def test_a_relative_path_starts_from_the_projects_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save(tmp_path / "project" / "data" / name, ROWS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("sarashina_grpo.tables.PROJECT_ROOT", tmp_path / "project")
    assert records(Path("data", name.removesuffix("/a.parquet"))) == ROWS


def test_the_working_directory_comes_before_the_projects_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "project" / "a.csv", ROWS[:1])
    save(tmp_path / "here" / "a.csv", ROWS[1:])
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sarashina_grpo.tables.PROJECT_ROOT", tmp_path / "project")
    assert records("a.csv") == ROWS[1:]


@pytest.mark.parametrize(
    ("names", "count"),
    [(["train", "test"], 1), (["test", "train", "validation"], 2), (["test"], 1)],
    ids=["train first", "train in between", "the only split"],
)
def test_the_split_train_is_read_or_the_only_one(
    tmp_path: Path, names: list[str], count: int
) -> None:
    for number, name in enumerate(names, start=1):
        save(tmp_path / f"{name}.parquet", ROWS[:1] * number)
    assert records(tmp_path) == ROWS[:1] * count


def test_splits_without_train_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("validation", "test"):
        save(tmp_path / f"{name}.parquet", ROWS)
    expected = ": a split named 'train' is needed, got ['test', 'validation']"
    assert complaint(tmp_path, COLUMNS) == expected


@EACH_KIND
def test_other_columns_are_left_behind(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, [{"id": 7, **row, "level": 1.5} for row in ROWS])
    assert list(read_table(path, ["answer", "question"]).columns) == ["answer", "question"]


@EACH_TYPED_KIND
def test_other_columns_may_hold_lists(tmp_path: Path, name: str) -> None:
    rows = [{**row, "choices": ["2", "3"], "level": None} for row in ROWS]
    assert records(save(tmp_path / name, rows)) == ROWS


@EACH_TYPED_KIND
def test_rows_without_any_content_are_passed_over_and_counted(tmp_path: Path, name: str) -> None:
    nothing = {"question": None, "answer": None}
    table = read_table(save(tmp_path / name, [ROWS[0], nothing, ROWS[1]]), COLUMNS)
    assert table.index.tolist() == [1, 3]


@EACH_TYPED_KIND
def test_an_answer_may_be_missing(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, [ROWS[0], {"question": "なぜ?", "answer": None}])
    assert read_table(path, COLUMNS)["answer"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "row"), [("a.csv", 3), ("a.parquet", 2), ("a.json", 2), ("a.jsonl", 2)]
)
def test_rows_are_counted_as_the_readers_of_a_kind_count_them(
    tmp_path: Path, name: str, row: int
) -> None:
    path = save(tmp_path / name, [ROWS[0], {"question": " ", "answer": "#### 3"}])
    message = complaint(path, COLUMNS)
    assert message == f", row {row}, column 'question': a text is needed, got ' '"


@EACH_TYPED_KIND
@pytest.mark.parametrize(
    ("values", "place", "seen"),
    [
        ([3, 4], "row 1", "3"),
        ([1.5, 4], "row 1", "1.5"),
        ([True, False], "row 1", "True"),
        (["a", None], "row 2", "nothing"),
        (["a", ""], "row 2", "''"),
    ],
    ids=["whole numbers", "numbers", "yes and no", "nothing", "empty"],
)
def test_what_is_no_text_is_refused_with_row_column_and_value(
    tmp_path: Path, name: str, values: list[Any], place: str, seen: str
) -> None:
    path = save(tmp_path / name, [{"question": "?", "answer": value} for value in values])
    assert complaint(path, COLUMNS) == f", {place}, column 'answer': a text is needed, got {seen}"


@EACH_KIND
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, ROWS)
    expected = ": column 'prompt' is missing, got the columns ['question', 'answer']"
    assert complaint(path, ["question", "prompt"]) == expected


def test_a_missing_column_of_a_dataset_in_memory_is_named() -> None:
    from datasets import Dataset

    message = complaint(Dataset.from_list(ROWS), ["prompt"])
    assert message == ": column 'prompt' is missing, got the columns ['question', 'answer']"


@pytest.mark.parametrize("name", ["no.csv", "no.parquet", "no.json", "no.jsonl", "no", "no.txt"])
def test_a_missing_file_is_refused_with_what_is_accepted(tmp_path: Path, name: str) -> None:
    message = complaint(tmp_path / name, COLUMNS)
    assert ("No such file" if name not in ("no", "no.txt") else "no dataset") in message
    assert "CSV, Parquet, JSON or JSONL file" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "question,answer\n"),
        ("a", "question,answer\n"),
        ("a.json", '[{"question": '),
        ("a.json", "question,answer\n"),
        ("a.json", "[]"),
        ("a.jsonl", '{"question": "a", "answer": "b"}\n{"question'),
        ("a.parquet", "question,answer\n"),
        ("a.parquet", b"PAR1\0\0\0\0PAR1"),
        ("a.parquet", ""),
    ],
    ids=[
        "unknown suffix",
        "no suffix",
        "broken JSON",
        "JSON that is none",
        "JSON without rows",
        "broken JSONL",
        "Parquet that is none",
        "broken Parquet",
        "empty Parquet",
    ],
)
def test_a_file_that_cannot_be_loaded_is_refused_with_what_is_accepted(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    message = complaint(write(tmp_path, content, name), COLUMNS)
    assert message.startswith((": this is no dataset; ", ": cannot be loaded ("))
    assert "give a CSV, Parquet, JSON or JSONL file" in message


@pytest.mark.parametrize("name", [None, "README.md", "a.py"], ids=["empty", "README", "program"])
def test_a_folder_without_data_is_refused_with_what_is_accepted(
    tmp_path: Path, name: str | None
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    if name:
        write(folder, "# nothing\n", name)
    message = complaint(folder, COLUMNS)
    assert message.startswith(": cannot be loaded (")
    assert "give a CSV, Parquet, JSON or JSONL file" in message


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
@pytest.mark.parametrize("content", ["", "\ufeff", "\n\n"], ids=["empty", "mark only", "newlines"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    assert complaint(write(tmp_path, content, name), COLUMNS) == ": the file is empty"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/name:config", ("owner/name", "config")),
        ("o-w.n/na_me:2024.v1-ja", ("o-w.n/na_me", "2024.v1-ja")),
    ],
)
def test_a_hub_name_and_its_configuration_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, asked: tuple[str, str | None]
) -> None:
    from datasets import load_dataset

    folder, calls = save(tmp_path / "train.parquet", ROWS).parent, []

    def from_folder(*what: Any, **options: Any) -> Any:
        calls.append((what, options))
        return load_dataset(str(folder))

    monkeypatch.setattr("datasets.load_dataset", from_folder)
    assert records(name) == ROWS
    assert calls == [(asked, {})]


@pytest.mark.parametrize("name", ["owner/name", "owner/name.v2"])
def test_a_folder_comes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save(tmp_path / name / "a.parquet", ROWS)
    monkeypatch.chdir(tmp_path)
    assert records(name) == ROWS


def hub_error(name: str) -> Exception:
    from datasets import exceptions

    errors = {
        "no network": ConnectionError("Couldn't reach 'owner/name' on the Hub (ConnectError)"),
        "no dataset": exceptions.DatasetNotFoundError("'owner/name' doesn't exist\non the Hub"),
        "no configuration": ValueError("Config name is missing.\nPlease pick one: ['a', 'b']"),
        "a program": RuntimeError("Dataset scripts are no longer supported, but found name.py"),
        "no reason": ValueError(),
    }
    return errors[name]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("no network", "Couldn't reach 'owner/name' on the Hub (ConnectError)"),
        ("no dataset", "'owner/name' doesn't exist on the Hub"),
        ("no configuration", "Config name is missing. Please pick one: ['a', 'b']"),
        ("a program", "Dataset scripts are no longer supported, but found name.py"),
        ("no reason", "ValueError"),
    ],
)
@pytest.mark.parametrize("name", ["owner/name", "owner/name:config"])
def test_a_hub_dataset_that_cannot_be_loaded_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, error: str, cause: str
) -> None:
    answer_with(monkeypatch, hub_error(error))
    message = complaint(name, COLUMNS)
    assert message.startswith(f": cannot be loaded ({cause}); check its name and the network, or ")
    assert message.endswith("a dataset on the Hub such as 'openai/gsm8k:main'")


def test_the_configurations_to_choose_from_are_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = "Please pick one among the available configs: ['main', 'socratic']"
    answer_with(monkeypatch, ValueError(f"Config name is missing.\n{choice}\n{'usage ' * 500}"))
    message = complaint("owner/name", COLUMNS)
    assert choice in message
    assert len(message) < 500


@pytest.mark.parametrize("name", ["/none/name", "a/b/c", "owner/name:", "name", "owner/name:a:b"])
def test_what_is_no_hub_name_is_not_looked_for_there(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    answer_with(monkeypatch, AssertionError("the Hub was asked"))
    assert complaint(name, COLUMNS).startswith(": this is no dataset; ")


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
        ("id,lang,prompt\n1,ja,雨\n", ["雨"]),
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
        "columns in another order",
    ],
)
def test_a_csv_is_read_as_it_stands(tmp_path: Path, content: str, prompts: list[str]) -> None:
    assert read_table(write(tmp_path, content), ["prompt"])["prompt"].tolist() == prompts


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


@pytest.mark.parametrize(
    ("content", "place", "value"),
    [
        ("text,lang\n雨,ja\n", ": column 'prompt' is missing", "['text', 'lang']"),
        ("prompt\n雨\n", ": column 'lang' is missing", "['prompt']"),
        ("Prompt,lang\n雨,ja\n", ": column 'prompt' is missing", "'Prompt'"),
        ("prompt;lang\n雨;ja\n", ": column 'prompt' is missing", "'prompt;lang'"),
        ("prompt,lang\n雨,ja\n,ja\n", ", row 3, column 'prompt'", "got ''"),
        ("prompt,lang\n雨,ja\n   ,ja\n", ", row 3, column 'prompt'", "got '   '"),
        ("prompt,lang\n\u3000,ja\n", ", row 2, column 'prompt'", r"got '\u3000'"),
        ("prompt,lang\n雨,ja\n風,\n", ", row 3, column 'lang'", "got ''"),
        ("prompt,lang\n雨,ja\n風\n", ", row 3, column 'lang'", "got "),
        ("lang,prompt\nja\nja,風\n", ", row 2, column 'prompt'", "got "),
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
        "rows are counted as a spreadsheet does",
    ],
)
def test_an_error_in_a_csv_names_row_column_and_value(
    tmp_path: Path, content: str, place: str, value: str
) -> None:
    message = refusal(tmp_path, content)
    assert message.startswith(place)
    assert value in message


@EACH_TYPED_KIND
def test_a_long_value_is_shortened_in_the_error(tmp_path: Path, name: str) -> None:
    rows = [{"question": "?", "answer": ["x" * 5000]}]
    message = complaint(save(tmp_path / name, rows), COLUMNS)
    assert "xxx…" in message
    assert len(message) < 200


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", "prompt,lang\nrain,ja\n雨,ja\n".encode("cp932"), ", row 3: not UTF-8"),
        ("a.csv", "prompt,lang\n雨,ja\n".encode("utf-16"), ", row 1: not UTF-8"),
        ("a.json", '[{"prompt": "雨"}]'.encode("cp932"), ", row 1: not UTF-8"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "雨"}\n'.encode("cp932"), ", row 2: not UTF-8"),
    ],
    ids=["Shift-JIS", "UTF-16", "JSON in Shift-JIS", "JSONL in Shift-JIS"],
)
def test_another_encoding_is_refused_with_the_row_and_the_bytes(
    tmp_path: Path, name: str, content: bytes, place: str
) -> None:
    message = complaint(write(tmp_path, content, name), ["prompt"])
    assert message.startswith(place)
    assert "got b'" in message
    assert "save it as UTF-8" in message


def test_utf_16_without_a_byte_order_mark_is_refused_and_seen(tmp_path: Path) -> None:
    message = refusal(tmp_path, "prompt,lang\nrain,ja\n".encode("utf-16-le"))
    assert message.startswith(": column 'prompt' is missing")
    assert r"'p\x00r\x00o\x00m\x00p\x00t\x00'" in message


@pytest.mark.parametrize(
    "content",
    ['prompt,lang\n雨,ja\n"風,ja\n雪,ja\n', 'prompt,lang\n雨,ja\n風,"ja\n'],
    ids=["in the prompt", "in the last field"],
)
def test_an_unclosed_quotation_mark_is_refused_with_its_row(tmp_path: Path, content: str) -> None:
    message = refusal(tmp_path, content)
    assert message == ", row 3: a quotation mark is left open"


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
    assert message.startswith(f", row {row}: 2 columns are expected, got 3: ")
    assert "a text with a comma needs quotation marks" in message


def test_a_dataset_error_is_a_value_error_that_names_what_it_is_given() -> None:
    path = Path("a.csv")
    assert isinstance(DatasetError("bad", path), ValueError)
    assert str(DatasetError("bad", path)) == "a.csv: bad"
    assert str(DatasetError("bad", path, 3)) == "a.csv, row 3: bad"
    assert str(DatasetError("bad", path, 3, "lang")) == "a.csv, row 3, column 'lang': bad"
