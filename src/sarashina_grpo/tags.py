"""The pair of tags: renders the prompt's example and parses a completion.

The one place that knows the syntax. The system prompt, the format rewards, the evaluation
and the chat all ask a `TagFormat`, so they cannot disagree.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args
from unicodedata import category

Layout = Literal["inline", "block"]

_TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
# Letters and symbols by category, yet blank on the screen (Hangul fillers, empty Braille cell).
_BLANK_GLYPHS = frozenset("\u115f\u1160\u2800\u3164\uffa0")


class Parsed(NamedTuple):
    """What a well-formed completion says, both parts without outer white space."""

    thought: str
    reply: str


class _Pieces(NamedTuple):
    """A thought and a reply found in order, untouched, and how many characters follow."""

    thought: str
    gap: str
    reply: str
    trailing: int


@dataclass(frozen=True)
class TagFormat:
    """A thought in one pair of tags, followed by a reply in another.

    `layout` is how the format is written: "inline" puts a tag directly beside its content,
    "block" puts each tag on a line of its own.

    >>> TagFormat("think", "response").parse("<think>rain</think> <response>Hi!</response>")
    Parsed(thought='rain', reply='Hi!')

    Raises:
        ValueError: a tag is not a plain name, both are the same, or the layout is unknown.
    """

    thought: str
    reply: str
    layout: Layout = "inline"

    def __post_init__(self) -> None:
        for field in ("thought", "reply"):
            name = getattr(self, field)
            if not isinstance(name, str) or not _TAG_NAME.fullmatch(name):
                raise ValueError(
                    f"{field} tag must be a letter followed by letters, digits, '-' or '_', "
                    f"without brackets, got {name!r}"
                )
        if self.thought == self.reply:
            raise ValueError(f"thought and reply need different tags, got {self.thought!r} twice")
        if self.layout not in get_args(Layout):
            raise ValueError(f"layout must be one of {get_args(Layout)}, got {self.layout!r}")

    @property
    def tags(self) -> tuple[str, str, str, str]:
        """The four tags in the order in which they are written."""
        return (
            f"<{self.thought}>",
            f"</{self.thought}>",
            f"<{self.reply}>",
            f"</{self.reply}>",
        )

    def render(self, thought: str, reply: str) -> str:
        """Write a completion in exactly this format, without outer white space."""
        edge = "\n" if self.layout == "block" else ""
        open_thought, close_thought, open_reply, close_reply = self.tags
        return (
            f"{open_thought}{edge}{thought}{edge}{close_thought}\n"
            f"{open_reply}{edge}{reply}{edge}{close_reply}"
        )

    def parse(self, text: str) -> Parsed | None:
        """Read a completion: exactly one thought, then one reply, and nothing around them.

        Each of the four tags occurs once and both contents show at least one visible
        character. Outer white space and white space between the two is free.
        Returns None for anything else. Linear in the length of `text`.
        """
        pieces = self._well_formed(text)
        return Parsed(pieces.thought.strip(), pieces.reply.strip()) if pieces else None

    def parses_in_layout(self, text: str) -> bool:
        """Whether `text` parses and its tags stand exactly as the layout writes them."""
        pieces = self._well_formed(text)
        if pieces is None or pieces.gap != "\n":
            return False
        contents = (pieces.thought, pieces.reply)
        return self.layout == "inline" or all(
            content.startswith("\n") and content.endswith("\n") for content in contents
        )

    def opens_with_pair(self, text: str) -> bool:
        """Whether `text` starts with a thought and a reply, whatever comes after them."""
        return self._split(text) is not None

    def trailing(self, text: str) -> int:
        """How many characters follow the first closing reply tag; outer white space is free.

        >>> TagFormat("think", "response").trailing("<response>Hi!</response> Bye.")
        5
        """
        text = text.strip()
        found = text.find(self.tags[3])
        return 0 if found < 0 else len(text) - found - len(self.tags[3])

    def explain(self, text: str) -> str:
        """Say in words what is wrong with the format of `text`, or "well-formed"."""
        for tag in self.tags:
            count = text.count(tag)
            if count == 0:
                return f"{'closing' if tag.startswith('</') else 'opening'} {tag} missing"
            if count > 1:
                return f"{tag} occurs {count} times"
        positions = [text.index(tag) for tag in self.tags]
        if positions != sorted(positions):
            return "tags out of order"
        pieces = self._split(text)
        if pieces is None:
            return self._explain_contents(text)
        if pieces.trailing:
            count = pieces.trailing
            return f"{count} character{'s' if count > 1 else ''} after {self.tags[3]}"
        if not self.parses_in_layout(text):
            return f"well-formed, but not in the {self.layout} layout"
        return "well-formed"

    def _explain_contents(self, text: str) -> str:
        # Of a text with each tag once, in order, that still does not start with the pair.
        before, thought, gap, reply, _ = re.split("|".join(self.tags), text.strip())
        contents = {"thought": thought, "reply": reply}
        empty = [name for name, content in contents.items() if not _shows_something(content)]
        faults = [f"text before {self.tags[0]}"] if before else []
        if gap.strip():
            faults.append(f"text between {self.tags[1]} and {self.tags[2]}")
        if empty:
            faults.append(f"empty {' and '.join(empty)}")
        return "; ".join(faults)

    def _well_formed(self, text: str) -> _Pieces | None:
        if any(text.count(tag) != 1 for tag in self.tags):
            return None
        pieces = self._split(text)
        return None if pieces is None or pieces.trailing else pieces

    def _split(self, text: str) -> _Pieces | None:
        text = text.strip()
        parts: list[str] = []
        position = 0
        for tag in self.tags:
            found = text.find(tag, position)
            if found < 0:
                return None
            # By position, because what `partition` leaves of a long text is one more copy of it.
            parts.append(text[position:found])
            position = found + len(tag)
        before, thought, gap, reply = parts
        if before or gap.strip():
            return None
        if any(tag in content for tag in self.tags for content in (thought, reply)):
            return None
        if not (_shows_something(thought) and _shows_something(reply)):
            return None
        return _Pieces(thought, gap, reply, len(text) - position)


def _shows_something(text: str) -> bool:
    # Letters, numbers, punctuation and symbols; a mark or a format character alone is invisible.
    return any(category(char)[0] in "LNPS" and char not in _BLANK_GLYPHS for char in text)
