"""Rewards for what stands in the tags: Japanese, and a thought that is not the reply again.

Both are graded, so that completions to one prompt differ as soon as one of them is a little
better, and both read what the tags hold, never the tags: these are letters of the alphabet in
every completion, and would cost every one the same.
"""

from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

import regex

from sarashina_grpo.rewards import Completion, completion_text
from sarashina_grpo.tags import TagFormat

# Of a thought or a reply, this share has to be its own for all of the points: texts on one
# matter share some words.
OWN_SHARE = 0.7
# Letters: a thought with fewer, or a thought or a reply with more, gets fewer points.
FEWEST_LETTERS, MOST_LETTERS = 8, 2000
# Characters of a text that are read: what is ten times too long earns a tenth at most already,
# and to normalise a single letter with a million marks takes the square of their number.
MOST_CHARACTERS = 10 * MOST_LETTERS
GRAM = 3
# One word without a Japanese form is free for so many Japanese letters.
LETTERS_FOR_A_FREE_WORD = 3
# A sentence of so many kanji without kana is Chinese; names of places are shorter.
CHINESE_LETTERS = 7

_LETTER = regex.compile(r"[\p{L}\p{Nl}]")  # 〇 is a number
_JAPANESE = regex.compile(r"(?=[\p{L}\p{Nl}])[\p{Hiragana}\p{Katakana}\p{Han}ー々〆]")
_KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
_SENTENCE = regex.compile(r"[^。!?\n]+")
_NEITHER_WORD_NOR_SYMBOL = regex.compile(r"[^\p{L}\p{N}\p{S}]+")
_FREE = regex.compile(
    r"""
    ```.*?(?:```|\Z) | `[^`\n]*`                        # code
    | \b(?:https?://|www\.)[!-~]+                       # addresses
    | (?<![a-zA-Z0-9.+_-])[a-zA-Z0-9.+_-]++@[a-zA-Z0-9.-]+
    | (?<=\d)\s?[a-zA-Zµ°]{1,3}(?![a-zA-Z])             # units: 5km, 20 °C
    | (?<![a-zA-Z])[A-Z][A-Z0-9&/-]{0,5}(?![a-zA-Z])    # abbreviations: AI, USB, A4
    | (?<![a-zA-Z0-9])(?=[a-zA-Z0-9]*[a-z0-9][A-Z])[a-zA-Z0-9]+  # names: iPhone, YouTube
    | (?<![a-zA-Z])[A-Z][a-z]+(?:\ [A-Z][a-z]+)?(?=[\p{Hiragana}\p{Katakana}\p{Han}])  # Aliceさん
    """,
    regex.VERBOSE | regex.DOTALL,
)


def japanese_reward(
    *, completions: Sequence[Completion], tags: TagFormat, **_: Any
) -> list[float | None]:
    """The Japanese share of the letters outside the tags, 0 to 1, of the part with the least.

    A part is what stands between two tags; None if no part has letters. See `japanese_share`.
    """
    return [_least_japanese(completion_text(completion), tags) for completion in completions]


def distinct_thought_reward(
    *,
    completions: Sequence[Completion],
    prompts: Sequence[Completion],
    tags: TagFormat,
    **_: Any,
) -> list[float | None]:
    """How much the thought, the reply and the prompt differ, 0 to 1; 0 if the text does not parse.

    1 where at least 0.7 of the thought's 3-grams are its own, neither in the reply nor in the
    prompt nor twice in it, and as many of the reply's. A reply too short to tell is not judged;
    a thought that short, or either at more than 2,000 letters, is worth less.
    """
    return [
        _distinctness(completion_text(completion), _prompt_text(prompt), tags)
        for completion, prompt in zip(completions, prompts, strict=True)
    ]


def japanese_share(text: str) -> float | None:
    """Of the letters in a text, the share that is Japanese, 0 to 1; None if it has none.

    Kana and kanji count as Japanese, half-width or full-width; kanji without kana only in short
    sentences, and only those that Japanese uses. What has no Japanese form counts as nothing:
    code, addresses, units, abbreviations (USB), names such as YouTube, and capitalised ones
    that go on in Japanese (Aliceさん); one of them for each three Japanese letters.

    >>> japanese_share("USBで5km先の店へ"), japanese_share("USBで5km先のold店へ")
    (1.0, 0.625)
    """
    text = _normalise(text)
    free_words = 1 + _count_japanese(text) // LETTERS_FOR_A_FREE_WORD
    text = _FREE.sub(" ", text, count=free_words)
    letters = len(_LETTER.findall(text))
    return _count_japanese(text) / letters if letters else None


def overlap(first: str, second: str) -> float:
    """The share of 3-grams that two texts have in common, of the one with fewer: 0 to 1."""
    grams = [set(_grams(_letters(text))) for text in (first, second)]
    return len(grams[0] & grams[1]) / max(1, min(map(len, grams)))


def _least_japanese(text: str, tags: TagFormat) -> float | None:
    shares = map(japanese_share, regex.split("|".join(tags.tags), text))
    return min((share for share in shares if share is not None), default=None)


def _count_japanese(text: str) -> int:
    return sum(map(_count_in_sentence, _SENTENCE.findall(text)))


def _count_in_sentence(sentence: str) -> int:
    found = [letter for letter in _JAPANESE.findall(sentence) if _is_in_use(letter)]
    if len(found) >= CHINESE_LETTERS and not _KANA.search(sentence):
        return 0
    return len(found)


def _is_in_use(letter: str) -> bool:
    """Whether a Japanese computer of old could write it, so that it is no Chinese form."""
    try:
        letter.encode("cp932")
    except UnicodeEncodeError:
        return False
    return True


def _distinctness(text: str, prompt: str, tags: TagFormat) -> float:
    parsed = tags.parse(text)
    if parsed is None:
        return 0.0
    thought, reply, asked = (_letters(part) for part in (*parsed, prompt))
    points = _own_share(thought, [reply, asked]) * min(1.0, len(thought) / FEWEST_LETTERS)
    if len(reply) >= FEWEST_LETTERS:
        points = min(points, _own_share(reply, [thought, asked]))
    return points


def _own_share(text: str, others: Sequence[str]) -> float:
    """Points for the 3-grams that come in the text for the first time, and not in the others."""
    grams = _grams(text)
    own = set(grams).difference(*map(_grams, others))
    length = min(1.0, MOST_LETTERS / max(1, len(text)))
    return min(1.0, len(own) / max(1, len(grams)) / OWN_SHARE) * length


def _grams(letters: str) -> list[str]:
    return [letters[start : start + GRAM] for start in range(len(letters) - GRAM + 1)]


def _letters(text: str) -> str:
    return _NEITHER_WORD_NOR_SYMBOL.sub("", _normalise(text).casefold())


def _normalise(text: str) -> str:
    return normalize("NFKC", text[:MOST_CHARACTERS])


def _prompt_text(prompt: Completion) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content")) for message in prompt)
