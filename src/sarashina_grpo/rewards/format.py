"""Rewards for the format alone: does the completion keep to the pair of tags?

The three have the names and the scale of the R1-style rewards that people copied from one
another in early 2025, so curves can be compared. Their known faults are gone: thoughts may
span lines, text after the end is charged once, an unclosed reply is not charged at all.
"""

from collections.abc import Sequence
from typing import Any

from sarashina_grpo.rewards import Completion, completion_text
from sarashina_grpo.tags import TagFormat

TAG_POINTS = 0.125
TRAILING_CHARACTER_POINTS = 0.001
FORMAT_POINTS = 0.5


def xmlcount_reward(
    *, completions: Sequence[Completion], tags: TagFormat, **_: Any
) -> list[float | None]:
    """0.125 for each of the four tags that occurs exactly once: 0 to 0.5.

    Each character after the first closing reply tag takes 0.001 off, never below 0; outer
    white space is free. The graded one: it rewards the first tag a model gets right.
    """
    return [_tag_score(completion_text(completion), tags) for completion in completions]


def soft_format_reward(
    *, completions: Sequence[Completion], tags: TagFormat, **_: Any
) -> list[float | None]:
    """0.5 if the text starts with a thought and then a reply, both non-empty, else 0.

    Any white space between the two is fine, and so is text after them.
    """
    return [
        FORMAT_POINTS if tags.opens_with_pair(completion_text(completion)) else 0.0
        for completion in completions
    ]


def strict_format_reward(
    *, completions: Sequence[Completion], tags: TagFormat, **_: Any
) -> list[float | None]:
    """0.5 if the completion parses and stands in exactly the recipe's layout, else 0."""
    return [
        FORMAT_POINTS if tags.parses_in_layout(completion_text(completion)) else 0.0
        for completion in completions
    ]


def _tag_score(text: str, tags: TagFormat) -> float:
    once = sum(text.count(tag) == 1 for tag in tags.tags)
    return max(0.0, TAG_POINTS * once - TRAILING_CHARACTER_POINTS * tags.trailing(text))
