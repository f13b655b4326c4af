"""What the embedded tiny model is taught to say, before GRPO teaches it to say it well.

A demonstration gives the contents of one good completion for a prompt; `tiny` spoils the
format of most of them. The texts are in `datasets`, where people can read and edit them.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from random import Random

from sarashina_grpo.data import ANSWER_MARK
from sarashina_grpo.tables import DatasetError, check_texts, read_table

Demonstrate = Callable[[str, Random], tuple[str, str]]
"""From a user's prompt to a thought and a reply that suit it."""

PARTS = ("thought", "opening", "closing")


def from_phrases(path: Path) -> Demonstrate:
    """Demonstrate with the phrases of a CSV file with `part,text`, whatever the prompt is.

    The thought is one of its thoughts, the reply one of its openings and one of its closings.
    """
    return partial(_say_phrases, path)


def from_solutions(path: Path, mistaken: float = 0.0) -> Demonstrate:
    """Demonstrate with the worked solutions of a CSV file with `question,answer`.

    The thought is the solution up to its "####", the reply the whole number behind it. A share
    `mistaken` of them, 0 to 1, ends in the value of another question instead.
    """
    return partial(_solve, path, mistaken)


def _say_phrases(path: Path, prompt: str, random: Random) -> tuple[str, str]:
    thought, opening, closing = (random.choice(texts) for texts in read_phrases(path))
    return thought, opening + closing


def _solve(path: Path, mistaken: float, prompt: str, random: Random) -> tuple[str, str]:
    solutions = read_solutions(path)
    solution, value = solutions[prompt]
    if random.random() >= mistaken:
        return solution, value
    wrong = random.choice(sorted({other for _, other in solutions.values()} - {value}))
    before, _, after = solution.rpartition(value)
    return f"{before}{wrong}{after}", wrong


@cache
def read_solutions(path: Path) -> dict[str, tuple[str, str]]:
    """The solution and the value to each question.

    Raises:
        DatasetError: a question or an answer is blank, or an answer is no solution that ends
            in the whole number behind its "####".
    """
    table = read_table(path, ["question", "answer"])
    check_texts(table, ["question", "answer"], path)
    solutions = {}
    for row, question, answer in table.itertuples():
        solution, _, value = (part.strip() for part in answer.rpartition(ANSWER_MARK))
        if not value.isdecimal() or value not in solution:
            problem = f"a solution ending in '<value> {ANSWER_MARK} <value>' is needed"
            raise DatasetError(f"{problem}, got {answer!r}", path, row, "answer")
        solutions[question] = (solution, value)
    return solutions


@cache
def read_phrases(path: Path) -> list[list[str]]:
    """The thoughts, openings and closings of a phrase book.

    Raises:
        DatasetError: an unknown part, a blank text, or a part without any phrase.
    """
    table = read_table(path, ["part", "text"])
    for row, part in zip(table.index, table["part"], strict=True):
        if part not in PARTS:
            raise DatasetError(f"part must be one of {PARTS}, got {part!r}", path, row, "part")
    check_texts(table, ["text"], path)
    phrases = [table.loc[table["part"] == part, "text"].tolist() for part in PARTS]
    if not all(phrases):
        raise DatasetError(f"at least one text is needed for each of {PARTS}", path)
    return phrases
