"""A table of prompts -> validated prompts, a seeded split, and every row left out with why."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sarashina_grpo.tables import (
    DatasetError,
    check_texts,
    describe,
    is_missing,
    one_line,
    read_table,
    shorten,
)

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["DatasetError", "LeftOut", "Source", "load_dataset"]

LANGUAGES = ("ja", "en")
ANSWER_MARK = "####"


@dataclass(frozen=True)
class LeftOut:
    """A row that is not trained on: where it stands, what it says and why it was left out."""

    row: int
    text: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a recipe's prompts are and which columns hold what.

    `path` is what `tables.read_table` reads. `answer_column` holds worked solutions that end
    in "#### <value>", as GSM8K's do; those without the mark are open questions.
    `lang_column` is None for data in one language; otherwise rows whose language is not
    `language` are left out.
    """

    path: "Path | str | Dataset"
    prompt_column: str = "prompt"
    answer_column: str | None = None
    lang_column: str | None = None
    language: str = "ja"

    @property
    def name(self) -> str:
        """What errors call the source."""
        return describe(self.path)

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(filter(None, [self.prompt_column, self.answer_column, self.lang_column]))


def load_dataset(source: Source, system_prompt: str) -> tuple["Dataset", list[LeftOut]]:
    """Read prompts and put each behind the system prompt.

    Returns:
        A dataset whose "prompt" is a list of two messages, system and user, and whose
        "answer", where the source has answers, is the value to find or None; and the rows
        that were left out, in file order, for another language or for being duplicates.

    Raises:
        DatasetError: the source cannot be read or lacks a column, holds an empty prompt, an
            answer without a value or an unknown language, or leaves nothing to train on.
    """
    from datasets import Dataset

    table = read_table(source.path, source.columns)
    check_texts(table, [source.prompt_column], source.name)
    _check_languages(table, source)
    reasons = _reasons_to_leave_out(table, source)
    kept = table[reasons == ""]
    if kept.empty:
        raise DatasetError("no prompt is left to train on", source.name)
    left_out = [
        LeftOut(int(row), text, reason)
        for row, text, reason in zip(table.index, table[source.prompt_column], reasons, strict=True)
        if reason
    ]
    columns: dict[str, list[Any]] = {
        "prompt": [
            [
                {"role": "system", "content": system_prompt},
                {"role": "user", "content": text},
            ]
            for text in kept[source.prompt_column]
        ]
    }
    if source.answer_column is not None:
        columns["answer"] = _answers(kept[source.answer_column], source)
    return Dataset.from_dict(columns), left_out


def extract_answer(solution: str) -> str | None:
    """The value behind the last "####" of a worked solution, None for an open question.

    >>> extract_answer("3+4=7 #### 7"), extract_answer("It depends.")
    ('7', None)
    """
    _, mark, value = solution.rpartition(ANSWER_MARK)
    return value.strip() if mark else None


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


def _check_languages(table: pd.DataFrame, source: Source) -> None:
    if source.lang_column is None:
        return
    check_texts(table, [source.lang_column], source.name)
    for row, value in zip(table.index, table[source.lang_column], strict=True):
        if value not in LANGUAGES:
            problem = f"language must be one of {LANGUAGES}, got {shorten(value)!r}"
            raise DatasetError(problem, source.name, row, source.lang_column)


def _answers(solutions: "pd.Series[Any]", source: Source) -> list[str | None]:
    answers: list[str | None] = []
    for row, solution in zip(solutions.index, solutions, strict=True):
        if is_missing(solution):
            answers.append(None)
            continue
        if not isinstance(solution, str):
            problem = f"a worked solution ending in '{ANSWER_MARK} <value>' is needed"
            problem += f", got {shorten(repr(solution))}"
            raise DatasetError(problem, source.name, row, source.answer_column)
        answer = extract_answer(solution)
        if answer == "":
            problem = f"a value is needed after {ANSWER_MARK!r}, got {shorten(solution)!r}"
            raise DatasetError(problem, source.name, row, source.answer_column)
        answers.append(answer)
    return answers


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
    return one_line(unicodedata.normalize("NFKC", text).casefold())
