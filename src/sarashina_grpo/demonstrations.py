"""What the embedded tiny model is taught to say, before GRPO teaches it to say it well.

A demonstration gives the contents of one good completion for a prompt; `tiny` spoils the
format of most of them. The texts are in `datasets`, where people can read and edit them.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

from sarashina_grpo.data import DatasetError, check_texts, read_table

Demonstrate = Callable[[str, Random], tuple[str, str]]
"""From a user's prompt to a thought and a reply that suit it."""

PARTS = ("thought", "opening", "closing")


def from_phrases(path: Path) -> Demonstrate:
    """Demonstrate with the phrases of a CSV file with `part,text`, whatever the prompt is.

    The thought is one of its thoughts, the reply one of its openings and one of its closings.
    """

    def demonstrate(prompt: str, random: Random) -> tuple[str, str]:
        thought, opening, closing = (random.choice(texts) for texts in read_phrases(path))
        return thought, opening + closing

    return demonstrate


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
