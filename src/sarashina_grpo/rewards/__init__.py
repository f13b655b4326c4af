"""Reward functions: pure functions in TRL's signature, keyword arguments only.

A reward gets a batch of completions and returns one float a completion, or None where it
does not apply. It never raises on a completion, whatever that contains, and takes time
linear in the text. `format.py` holds what every recipe starts from.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from sarashina_grpo.tags import TagFormat

Completion = str | Sequence[dict[str, Any]]
Reward = Callable[..., list[float | None]]


def completion_text(completion: Completion) -> str:
    """The text of a completion: a string, or the content of its assistant messages.

    >>> completion_text([{"role": "assistant", "content": "Hello"}])
    'Hello'
    """
    if isinstance(completion, str):
        return completion
    return "".join(
        message["content"]
        for message in completion
        if message.get("role") == "assistant" and isinstance(message.get("content"), str)
    )


def bind_tags(reward: Reward, tags: TagFormat) -> Reward:
    """Fix the tags a reward reads, keeping the `__name__` that TensorBoard shows."""

    @wraps(reward)
    def bound(**columns: Any) -> list[float | None]:
        return reward(**{**columns, "tags": tags})

    return bound
