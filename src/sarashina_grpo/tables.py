"""A CSV, Parquet or JSON file, a folder or a Hub dataset -> one table, or a clear error.

Rows are counted as their readers count them: in a CSV as a spreadsheet does, the header
being row 1; elsewhere the first row is row 1.
"""

import csv
import io
import re
import warnings
from collections.abc import Sequence
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
    or the only one.

    Raises:
        DatasetError: there is no such file or dataset, it cannot be read, or it lacks one of
            `columns`.
    """
    if not isinstance(source, str | Path):
        return _with_columns(source.to_pandas(), columns, describe(source), first_row=1)
    path = _find(Path(source))
    kind = path.suffix.lower()
    if path.is_dir():
        table = _load(path, str(path))
    elif kind == ".csv":
        return _with_columns(_read_csv(path), columns, path, first_row=2)
    elif kind in BUILDERS:
        raw = _check_file(path)
        if kind != ".parquet" and not _decode(raw, path).strip():
            raise DatasetError("the file is empty", path)
        table = _load(path, BUILDERS[kind], data_files=str(path))
    elif (hub := HUB_NAME.fullmatch(str(source))) and not path.exists():
        table = _load(source, hub["name"], hub["config"])
    else:
        raise DatasetError(f"this is no dataset; {ADVICE}", path)
    return _with_columns(table, columns, source, first_row=1)


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


def _with_columns(
    table: pd.DataFrame, columns: Sequence[str], source: Path | str, first_row: int
) -> pd.DataFrame:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        problem = f"column {missing[0]!r} is missing, got the columns {list(table.columns)}"
        raise DatasetError(problem, source)
    table.index += first_row
    blank = table.map(lambda value: is_missing(value) or (isinstance(value, str) and value == ""))
    return table[~blank.all(axis=1)][list(columns)]


def _load(source: Path | str, *what: Any, **options: Any) -> pd.DataFrame:
    """What `datasets.load_dataset` finds; its tracebacks become one sentence."""
    import datasets

    try:
        found = datasets.load_dataset(*what, **options)
    except (
        OSError,
        ValueError,
        RuntimeError,
        StopIteration,
        datasets.exceptions.DatasetsError,
    ) as error:
        cause = one_line(str(error.__cause__ or error)) or type(error).__name__
        advice = ADVICE if Path(source).exists() else f"check its name and the network, or {ADVICE}"
        problem = f"cannot be loaded ({shorten(cause, CAUSE_LENGTH_SHOWN)}); {advice}"
        raise DatasetError(problem, source) from error
    splits = sorted(found)
    if "train" not in found and len(splits) > 1:
        raise DatasetError(f"a split named 'train' is needed, got {splits}", source)
    return found["train" if "train" in found else splits[0]].to_pandas()


def _check_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"cannot be read ({reason}); {ADVICE}", path) from error


def _read_csv(path: Path) -> pd.DataFrame:
    """The file as text with nothing guessed; a byte order mark is accepted."""
    text = _decode(_check_file(path), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                io.StringIO(text),
                dtype=str,
                keep_default_na=False,
                index_col=False,
                skip_blank_lines=False,
            )
        except pd.errors.EmptyDataError as error:
            raise DatasetError("the file is empty", path) from error
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            raise _csv_error(text, path, str(error)) from error


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        seen = raw[error.start : error.start + 8]
        raise DatasetError(f"not UTF-8 (got {seen!r}); save it as UTF-8", path, row) from error


def _csv_error(text: str, path: Path, message: str) -> DatasetError:
    """Say where a CSV breaks: pandas counts rows from 0, or does not say."""
    opened = re.search(r"EOF inside string starting at row (\d+)", message)
    if opened:
        return DatasetError("a quotation mark is left open", path, int(opened[1]) + 1)
    try:
        rows = csv.reader(io.StringIO(text))
        width = len(next(rows))
        for row, fields in enumerate(rows, start=2):
            if len(fields) > width:
                problem = (
                    f"{width} columns are expected, got {len(fields)}: "
                    f"{shorten(str(fields))}; a text with a comma needs quotation marks"
                )
                return DatasetError(problem, path, row)
    except csv.Error:
        pass
    return DatasetError(f"not a CSV that can be read ({one_line(message)})", path)


def one_line(text: str) -> str:
    """The text with each white space as one blank."""
    return " ".join(text.split())
