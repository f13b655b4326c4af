"""A CSV, Parquet or JSON file, a folder or a Hub dataset -> one table, or a clear error.

Rows are counted as their readers count them: in a CSV as a spreadsheet does, its first line
being row 1; elsewhere, and through several CSVs, the first row of data is row 1.
"""

import csv
import io
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sarashina_grpo import PROJECT_ROOT
from sarashina_grpo.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
"""The builder of `datasets` that reads a kind of file."""
HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?")
ADVICE = (
    "give a CSV, Parquet, JSON or JSONL file, a folder of them, or a dataset on the Hub such as "
    "'openai/gsm8k:main'"
)
FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or a ZIP archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "a gzip archive",
}
"""What a file is that begins with these bytes, whatever its name says."""
VALUE_LENGTH_SHOWN = 60
CAUSE_LENGTH_SHOWN = 200


class DatasetError(UserError):
    """Bad data. Names the file, the row and column where there is one, and the value seen."""

    def __init__(
        self, problem: str, file: Path | str, row: int | None = None, column: str | None = None
    ):
        place = [str(file)]
        place += [f"row {row}"] if row is not None else []
        place += [f"column {column!r}"] if column is not None else []
        super().__init__(f"{', '.join(place)}: {problem}")


def read_table(source: "Path | str | Dataset", columns: Sequence[str]) -> pd.DataFrame:
    """Read these columns, indexed by row; lines without any content are passed over.

    A relative path starts from the working directory or else from the project's folder. Of a
    folder or a Hub dataset, "owner/name" or "owner/name:config", the split "train" is read,
    or the only one. The header of a CSV is its first line with content.

    Raises:
        DatasetError: there is no such file or dataset, it cannot be read, or it lacks one of
            `columns` or has it twice.
    """
    if not isinstance(source, str | Path):
        return _with_columns(source.to_pandas(), columns, describe(source))
    path = _find(Path(source))
    kind = path.suffix.lower()
    if path.is_dir():
        return _read_folder(path, columns)
    if kind == ".csv":
        return _read_csv(path, columns)
    if kind in BUILDERS:
        raw = _check_file(path)
        if kind != ".parquet" and not _decode(raw, path).strip():
            raise DatasetError("the file is empty", path)
        table = _load(path, BUILDERS[kind], data_files=str(path))
    elif (hub := HUB_NAME.fullmatch(str(source))) and not path.exists():
        table = _load(source, hub["name"], hub["config"])
    else:
        raise DatasetError(f"this is no dataset; {ADVICE}", path)
    return _with_columns(table, columns, source)


def describe(source: "Path | str | Dataset") -> str:
    """What errors call a source."""
    return str(source) if isinstance(source, str | Path) else "the dataset"


def check_texts(table: pd.DataFrame, columns: Sequence[str], file: Path | str) -> None:
    """Make sure that each of these columns holds a text in every row.

    Raises:
        DatasetError: a value is missing, blank or no text.
    """
    for column in columns:
        for row, value in zip(table.index, table[column], strict=True):
            if not isinstance(value, str) or not value.strip():
                seen = "nothing" if is_missing(value) else shorten(repr(value))
                raise DatasetError(f"a text is needed, got {seen}", file, row, column)


def is_missing(value: Any) -> bool:
    """Whether a table's cell holds None or NaN.

    >>> is_missing(float("nan")), is_missing("")
    (True, False)
    """
    return value is None or (isinstance(value, float) and value != value)


def shorten(text: str, length: int = VALUE_LENGTH_SHOWN) -> str:
    """The text, cut where an error message would become hard to read."""
    return text if len(text) <= length else text[:length] + "…"


def _find(path: Path) -> Path:
    in_project = PROJECT_ROOT / path
    return in_project if in_project.exists() and not path.exists() else path


def _with_columns(table: pd.DataFrame, columns: Sequence[str], source: Path | str) -> pd.DataFrame:
    _check_columns(list(table.columns), columns, source)
    table.index += 1
    blank = table.map(lambda value: is_missing(value) or (isinstance(value, str) and value == ""))
    return table[~blank.all(axis=1)][list(columns)]


def _check_columns(found: list[str], columns: Sequence[str], source: Path | str) -> None:
    seen = f"got the columns {shorten(str(found), CAUSE_LENGTH_SHOWN)}"
    for column in columns:
        if (count := found.count(column)) > 1:
            raise DatasetError(f"column {column!r} is there {count} times, {seen}", source)
        if not count:
            problem = f"column {column!r} is missing, {seen}"
            if len(found) == 1 and re.search("[;\t]", found[0]):
                problem += "; put commas between the columns"
            raise DatasetError(problem, source)


def _read_folder(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """What `datasets` finds in a folder; CSV files are read like one alone, in their order."""
    import datasets

    with _in_one_sentence(path):
        found = datasets.load_dataset_builder(str(path)).config.data_files
    files = [Path(file) for file in found[_choose_split(found, path)]]
    if any(file.suffix.lower() != ".csv" for file in files):
        return _with_columns(_load(path, str(path)), columns, path)
    tables = [_read_csv(file, columns) for file in files]
    if len(tables) == 1:
        return tables[0]
    table = pd.concat(tables, ignore_index=True)
    table.index += 1
    return table


def _load(source: Path | str, *what: Any, **options: Any) -> pd.DataFrame:
    import datasets

    with _in_one_sentence(source):
        found = datasets.load_dataset(*what, **options)
    return found[_choose_split(found, source)].to_pandas()


def _choose_split(found: Mapping[str, Any], source: Path | str) -> str:
    splits = sorted(map(str, found))
    if "train" not in found and len(splits) > 1:
        raise DatasetError(f"a split named 'train' is needed, got {splits}", source)
    return "train" if "train" in found else splits[0]


@contextmanager
def _in_one_sentence(source: Path | str) -> Iterator[None]:
    """Of the tracebacks of `datasets`, tell the cause and what is accepted."""
    import datasets

    try:
        yield
    except (
        OSError,
        ValueError,
        RuntimeError,
        StopIteration,
        zipfile.BadZipFile,
        datasets.exceptions.DatasetsError,
    ) as error:
        cause = one_line(str(error.__cause__ or error)) or type(error).__name__
        advice = ADVICE if Path(source).exists() else f"check its name and the network, or {ADVICE}"
        problem = f"cannot be loaded ({shorten(cause, CAUSE_LENGTH_SHOWN)}); {advice}"
        raise DatasetError(problem, source) from error


def _check_file(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"cannot be read ({reason}); {ADVICE}", path) from error
    for start, kind in FOREIGN.items():
        if raw.startswith(start):
            raise DatasetError(f"this is {kind}; {ADVICE}", path)
    return raw


def _read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """These columns as text with nothing guessed; a byte order mark is accepted."""
    rows = _csv_rows(_decode(_check_file(path), path), path)
    if not rows:
        raise DatasetError("the file is empty", path)
    header = rows.pop(next(iter(rows)))
    _check_columns(header, columns, path)
    for row, fields in rows.items():
        if len(fields) > len(header):
            problem = (
                f"{len(header)} columns are expected, got {len(fields)}: "
                f"{shorten(str(fields))}; a text with a comma needs quotation marks"
            )
            raise DatasetError(problem, path, row)
        fields += [""] * (len(header) - len(fields))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=header, dtype=str)
    return table[list(columns)]


def _csv_rows(text: str, path: Path) -> dict[int, list[str]]:
    """The rows with any content by their numbers; each quotation mark has to be in its place.

    A stray one would open a text that swallows rows, up to the next stray one.
    """
    csv.field_size_limit(sys.maxsize)
    rows = {}
    row = 0
    try:
        for row, fields in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
            if any(fields):
                rows[row] = fields
    except csv.Error as error:
        problem = "a quotation mark is left open"
        if "end of data" not in str(error):
            problem = "behind a closing quotation mark only a comma or a new row is accepted; "
            problem += "write a quotation mark within a text twice"
        raise DatasetError(problem, path, row + 1) from error
    return rows


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode().lstrip("\ufeff")
    except UnicodeDecodeError as error:
        row = len(raw[: error.start + 1].splitlines())
        seen = raw[error.start : error.start + 8]
        raise DatasetError(f"not UTF-8 (got {seen!r}); save it as UTF-8", path, row) from error


def one_line(text: str) -> str:
    """The text with each white space as one blank."""
    return " ".join(text.split())
