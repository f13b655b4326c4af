"""CSV -> validated prompts, a seeded split, and a report of every row left out and why.

Rows are counted as a spreadsheet counts them: the header is row 1, the first prompt row 2.
"""

import csv
import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

FIRST_ROW = 2
LANGUAGES = ("ja", "en")
VALUE_LENGTH_SHOWN = 60


class DatasetError(ValueError):
    """Bad data. Names the file, the row and column where there is one, and the value seen."""

    def __init__(
        self, problem: str, file: Path | str, row: int | None = None, column: str | None = None
    ):
        place = [str(file)]
        place += [f"row {row}"] if row is not None else []
        place += [f"column {column!r}"] if column is not None else []
        super().__init__(f"{', '.join(place)}: {problem}")


@dataclass(frozen=True)
class LeftOut:
    """A row that is not trained on: where it stands, what it says and why it was left out."""

    row: int
    text: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a recipe's prompts are and which columns hold what.

    `path` is a CSV file, or a dataset that was loaded already. `lang_column` is None for data
    in one language; otherwise rows whose language is not `language` are left out.
    """

    path: "Path | Dataset"
    prompt_column: str = "prompt"
    lang_column: str | None = None
    language: str = "ja"

    @property
    def name(self) -> str:
        """What errors call the source."""
        return str(self.path) if isinstance(self.path, Path) else "the dataset"

    @property
    def columns(self) -> list[str]:
        """The columns the file must have."""
        return [column for column in (self.prompt_column, self.lang_column) if column]


def load_dataset(source: Source, system_prompt: str) -> tuple["Dataset", list[LeftOut]]:
    """Read prompts and put each behind the system prompt.

    Returns:
        A dataset whose "prompt" is a list of two messages, system and user; and the rows
        that were left out, in file order, for another language or for being duplicates.

    Raises:
        DatasetError: the file is missing, not UTF-8, not a CSV, lacks a column, holds an
            empty prompt or an unknown language, or leaves nothing to train on.
    """
    from datasets import Dataset

    if isinstance(source.path, Path):
        table = read_table(source.path, source.columns)
    else:
        table = _with_columns(source.path.to_pandas(), source.columns, source.name)
    _check_values(table, source)
    reasons = _reasons_to_leave_out(table, source)
    kept = table.loc[reasons == "", source.prompt_column]
    if kept.empty:
        raise DatasetError("no prompt is left to train on", source.name)
    left_out = [
        LeftOut(int(row), text, reason)
        for row, text, reason in zip(table.index, table[source.prompt_column], reasons, strict=True)
        if reason
    ]
    prompts = [
        [
            {"role": "system", "content": system_prompt},
            {"role": "user", "content": text},
        ]
        for text in kept
    ]
    return Dataset.from_dict({"prompt": prompts}), left_out


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a UTF-8 CSV file as text, indexed by spreadsheet row, with nothing guessed.

    A byte order mark is accepted. Lines without any content are passed over.

    Raises:
        DatasetError: the file is missing, not UTF-8, not a CSV, or lacks one of `columns`.
    """
    text = _read_text(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table = pd.read_csv(
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
    return _with_columns(table, columns, path)


def check_texts(table: pd.DataFrame, columns: Sequence[str], file: Path | str) -> None:
    """Make sure that each of these columns holds a text in every row.

    Raises:
        DatasetError: a value is missing or blank.
    """
    for column in columns:
        for row, value in zip(table.index, table[column], strict=True):
            if not isinstance(value, str) or not value.strip():
                seen = repr(value) if isinstance(value, str) else "nothing"
                raise DatasetError(f"a text is needed, got {seen}", file, row, column)


def _with_columns(table: pd.DataFrame, columns: Sequence[str], file: Path | str) -> pd.DataFrame:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DatasetError(
            f"column {missing[0]!r} is missing, got the columns {list(table.columns)}", file, row=1
        )
    table.index += FIRST_ROW
    return table[(table.fillna("") != "").any(axis=1)]


def _csv_error(text: str, path: Path, message: str) -> DatasetError:
    """Say where a CSV breaks: pandas counts rows from 0, or does not say."""
    opened = re.search(r"EOF inside string starting at row (\d+)", message)
    if opened:
        return DatasetError("a quotation mark is left open", path, int(opened[1]) + 1)
    try:
        rows = csv.reader(io.StringIO(text))
        width = len(next(rows))
        for row, fields in enumerate(rows, FIRST_ROW):
            if len(fields) > width:
                problem = (
                    f"{width} columns are expected, got {len(fields)}: "
                    f"{_shorten(str(fields))}; a text with a comma needs quotation marks"
                )
                return DatasetError(problem, path, row)
    except csv.Error:
        pass
    return DatasetError(f"not a CSV that can be read ({_one_line(message)})", path)


def split_dataset(dataset: "Dataset", seed: int, held_out: float = 0.2) -> "DatasetDict":
    """Shuffle with `seed` and set a share of the prompts aside: "train" and "held_out"."""
    parts = dataset.train_test_split(test_size=held_out, seed=seed)
    parts["held_out"] = parts.pop("test")
    return parts


def drop_overlong(
    dataset: "Dataset", count_tokens: Callable[[list[dict[str, str]]], int], limit: int
) -> tuple["Dataset", int]:
    """Leave out the prompts of more than `limit` tokens; returns the rest and their number.

    Raises:
        ValueError: every prompt is longer than `limit`.
    """
    fits = [count_tokens(prompt) <= limit for prompt in dataset["prompt"]]
    if not any(fits):
        raise ValueError(f"every prompt is longer than max_prompt_length={limit} tokens")
    kept = dataset.select([index for index, fit in enumerate(fits) if fit])
    return kept, len(dataset) - len(kept)


def describe_left_out(left_out: Sequence[LeftOut]) -> dict[str, int]:
    """Count the rows left out by reason, duplicates together.

    >>> describe_left_out([LeftOut(3, "Hi", "lang is en")])
    {'lang is en': 1}
    """
    counts: dict[str, int] = {}
    for item in left_out:
        reason = "duplicate" if item.reason.startswith("same prompt") else item.reason
        counts[reason] = counts.get(reason, 0) + 1
    return counts


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"cannot be read ({reason}); a CSV file is needed", path) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        seen = raw[error.start : error.start + 8]
        raise DatasetError(f"not UTF-8 (got {seen!r}); save it as UTF-8", path, row) from error


def _check_values(table: pd.DataFrame, source: Source) -> None:
    check_texts(table, source.columns, source.name)
    if source.lang_column is None:
        return
    for row, value in zip(table.index, table[source.lang_column], strict=True):
        if value not in LANGUAGES:
            problem = f"language must be one of {LANGUAGES}, got {_shorten(value)!r}"
            raise DatasetError(problem, source.name, row, source.lang_column)


def _reasons_to_leave_out(table: pd.DataFrame, source: Source) -> "pd.Series[str]":
    reasons = pd.Series("", index=table.index, dtype=str)
    if source.lang_column is not None:
        languages = table[source.lang_column]
        reasons[languages != source.language] = "lang is " + languages
    candidates = table.loc[reasons == "", source.prompt_column].map(_normalise)
    first_rows: dict[str, int] = {}
    for row, text in zip(candidates.index, candidates, strict=True):
        first = first_rows.setdefault(text, row)
        if first != row:
            reasons[row] = f"same prompt as row {first}"
    return reasons


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _shorten(value: str) -> str:
    return value if len(value) <= VALUE_LENGTH_SHOWN else value[:VALUE_LENGTH_SHOWN] + "…"


def _one_line(text: str) -> str:
    return " ".join(text.split())
