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
BATCH = 10_000
"""Prompts that become part of the dataset at once: a million would take 5 GB on their way."""


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
            answer without a value or an unknown language, has questions and answers swapped,
            or leaves nothing to train on.
    """
    table = read_table(source.path, source.columns)
    check_texts(table, [source.prompt_column], source.name)
    _check_languages(table, source)
    reasons = _reasons_to_leave_out(table, source)
    left_out = [
        LeftOut(int(row), text, reason)
        for row, text, reason in zip(table.index, table[source.prompt_column], reasons, strict=True)
        if reason
    ]
    kept = table[[not reason for reason in reasons]]
    if kept.empty:
        raise DatasetError("no prompt is left to train on", source.name)
    texts = kept[source.prompt_column].tolist()
    if source.answer_column is None:
        return _conversations(texts, None, system_prompt), left_out
    answers = _answers(kept[source.answer_column], source)
    _check_order(texts, answers, source)
    return _conversations(texts, answers, system_prompt), left_out


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


def _check_order(texts: list[str], answers: list[str | None], source: Source) -> None:
    """Answers that all lack the mark, where most questions have it, are the questions."""
    marked = sum(ANSWER_MARK in text for text in texts)
    if not any(answers) and marked * 2 > len(texts):
        problem = (
            f"{marked} of {len(texts)} prompts hold {ANSWER_MARK!r} and no answer does; "
            f"are the columns {source.prompt_column!r} and {source.answer_column!r} swapped?"
        )
        raise DatasetError(problem, source.name)


def _reasons_to_leave_out(table: pd.DataFrame, source: Source) -> list[str]:
    """Why each row is left out, "" for those that are kept."""
    texts = table[source.prompt_column]
    languages = table[source.lang_column] if source.lang_column else [source.language] * len(texts)
    first_rows: dict[str, int] = {}
    reasons = []
    for row, text, language in zip(table.index, texts, languages, strict=True):
        if language != source.language:
            reasons.append(f"lang is {language}")
            continue
        first = first_rows.setdefault(_normalise(text), row)
        reasons.append("" if first == row else f"same prompt as row {first}")
    return reasons


def _conversations(
    texts: list[str], answers: list[str | None] | None, system_prompt: str
) -> "Dataset":
    from datasets import Dataset, Features, Value, concatenate_datasets

    system = {"role": "system", "content": system_prompt}
    features = Features({"prompt": [{"role": Value("string"), "content": Value("string")}]})
    if answers is not None:
        features["answer"] = Value("string")
    batches = []
    for start in range(0, len(texts), BATCH):
        batch = slice(start, start + BATCH)
        columns: dict[str, list[Any]] = {
            "prompt": [[system, {"role": "user", "content": text}] for text in texts[batch]]
        }
        if answers is not None:
            columns["answer"] = answers[batch]
        batches.append(Dataset.from_dict(columns, features=features))
    return concatenate_datasets(batches)


def _normalise(text: str) -> str:
    return one_line(unicodedata.normalize("NFKC", text).casefold())
