"""The reward lab: what does each reward say to a text, and why? And can it be cheated?

`explain` scores texts of your own, `highlight` shows the table in a notebook. `exploits` and
`content_exploits` try to earn a recipe's rewards without what the recipe is there to teach;
each has to score below `ideal`. They are made from the recipe, so they fit yours too.
"""

import html
import json
import re
from collections.abc import Callable, Sequence
from unicodedata import normalize

import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from pandas.io.formats.style import Styler

from sarashina_grpo.recipe import Recipe
from sarashina_grpo.rewards.answer import (
    MAX_ANSWER_CHARACTERS,
    correctness_reward,
    reply_of,
    stated_quantity,
)
from sarashina_grpo.rewards.format import (
    TAG_POINTS,
    TRAILING_CHARACTER_POINTS,
    xmlcount_reward,
)
from sarashina_grpo.tables import shorten
from sarashina_grpo.tags import TagFormat

_NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
_PALE, _STRONG = 0.05, 0.55
_MARKED = "background-color: #ffe0b2; color: #000000"

# What an ideal completion says: in Japanese, as all recipes here, and no recipe's example.
_THOUGHT = "何を聞かれているのかを確かめて、順に考えよう。"
_REPLY = "雨が降りそうなので、傘を持って出かけましょう。"
_QUESTION = "今日はどんな一日でしたか。"
_ENGLISH = ("The user wants a reply, so I will help.", "Sure, I would be happy to help you!")
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(ord("!"), ord("~") + 1)}


def explain(
    texts: Sequence[str], recipe: Recipe, answer: Sequence[str | None] | None = None
) -> pd.DataFrame:
    """Score texts with a recipe's rewards, as in training.

    Args:
        texts: completions to try.
        recipe: whose rewards and tags to use.
        answer: the right answer to each text, for recipes that compare answers.

    Returns:
        One row a text: the text, one column a reward (in points, NaN: does not apply), "total",
        and "why" in words: what is wrong with the format and, where an answer is compared,
        what became of that, e.g. "4 characters after </answer>: −0.004; right answer".
    """
    columns = {"answer": list(answer)} if answer is not None else {}
    prompts: list[list[dict[str, str]]] = [[] for _ in texts]
    scores = pd.DataFrame(
        {
            reward.__name__: reward(completions=list(texts), prompts=prompts, **columns)
            for reward in recipe.reward_funcs
        },
        dtype=float,
    )
    table = scores.assign(total=scores.sum(axis=1), why=_reasons(texts, recipe, answer))
    table.insert(0, "text", list(texts))
    return table


def highlight(table: pd.DataFrame) -> Styler:
    """Show the table of `explain` in a notebook, on a light page or a dark one.

    The greener a number, the closer it is to the best of its column; the palest is 0, or the
    lowest if that is below. "–" is a reward that does not apply. A "why" is marked unless the
    text stands in the recipe's format. Texts keep their line breaks, and nothing in them
    counts as HTML.
    """
    numbers = table.select_dtypes("number").columns
    wrapped = {"white-space": "pre-wrap", "text-align": "left"}
    return (
        table.style.format(escape="html", precision=3, na_rep="–")
        .format_index(escape="html", axis="index")
        .format_index(escape="html", axis="columns")
        .apply(_shade, subset=numbers)
        .apply(_mark, subset=["why"])
        .set_properties(subset=["text", "why"], **wrapped)
    )


def ideal(recipe: Recipe, answer: str | None = None) -> str:
    """A completion that does what the recipe teaches, for exploits to be measured against.

    Its reply is `answer`, for recipes that compare answers, and small talk otherwise.
    """
    return recipe.tags.render(_THOUGHT, _REPLY if answer is None else answer)


def exploits(recipe: Recipe, answer: str | None = None) -> dict[str, str]:
    """Completions by name that try for the reward without keeping to the format.

    None of them parses with the recipe's tags. Each has to score below `ideal`.

    Args:
        recipe: whose tags, example and prompt they are made from.
        answer: the right answer, for recipes that compare answers; they all know it.
    """
    reply = _REPLY if answer is None else answer
    return (
        _hollow(recipe.tags)
        | _repeated(recipe.tags, reply)
        | _misplaced(recipe.tags, reply)
        | _surrounded(recipe.tags, reply)
        | _unfinished(recipe.tags, reply)
        | _look_alikes(recipe.tags, reply)
        | _untagged(recipe, reply)
        | _wrapped(recipe, reply)
    )


def content_exploits(recipe: Recipe, answer: str | None = None) -> dict[str, str]:
    """Completions by name in a perfect format whose contents are not worth the reward.

    Only a reward that reads contents can score them below `ideal`. One that compares answers
    tells the poor replies, but not a thought that is none before the right answer.

    Args:
        recipe: whose tags, example and prompt they are made from.
        answer: the right answer, for recipes that compare answers; not the example's.
    """
    reply = _REPLY if answer is None else answer
    contents = (
        _idle_thoughts(recipe, reply)
        | _poor_contents(recipe)
        | _copies(recipe, reply)
        | _guesses(reply)
    )
    return {name: recipe.tags.render(*pair) for name, pair in contents.items()}


def _reasons(
    texts: Sequence[str], recipe: Recipe, answer: Sequence[str | None] | None
) -> list[str]:
    references = [None] * len(texts) if answer is None else answer
    return [
        "; ".join([*_format_faults(text, recipe), *_comparison(text, reference, recipe)])
        for text, reference in zip(texts, references, strict=True)
    ]


def _format_faults(text: str, recipe: Recipe) -> list[str]:
    fault = recipe.tags.explain(text)
    trailing = len(text.strip().partition(recipe.tags.tags[3])[2])
    points = TAG_POINTS * sum(text.count(tag) == 1 for tag in recipe.tags.tags)
    # What xmlcount_reward takes off: no more than the tags had earned.
    cost = min(points, TRAILING_CHARACTER_POINTS * trailing)
    if not cost or xmlcount_reward not in recipe.rewards:
        return [fault]
    clause = f"{trailing} character{'s' if trailing > 1 else ''} after {recipe.tags.tags[3]}"
    charged = f"{clause}: −{cost:.3f}"
    return [charged] if fault == clause else [fault, charged]


def _comparison(text: str, reference: str | None, recipe: Recipe) -> list[str]:
    """What was compared with the right answer, in a clause; none if the row has no answer."""
    if correctness_reward not in recipe.rewards:
        return []
    (score,) = correctness_reward(completions=[text], tags=recipe.tags, answer=[reference])
    if score is None:
        return []
    reply = reply_of(text, recipe.tags)
    if score:
        return ["right answer"]
    return [_mistake(reply, str(reference)) if reply else "no answer to compare"]


def _mistake(reply: str, reference: str) -> str:
    if stated_quantity(reply) is None and stated_quantity(reference) is not None:
        readable = normalize("NFKC", reply[:MAX_ANSWER_CHARACTERS])
        values = list(dict.fromkeys(_NUMBER.findall(readable)))
        if len(values) > 1:
            return f"{shorten(', '.join(values))}: more than one value"
        return f"{shorten(reply)!r}: no single value"
    return f"answer {shorten(reply)!r} is not {reference}"


def _shade(column: pd.Series) -> list[str]:
    lowest, highest = min(0.0, column.min()), column.max()
    shares = (column - lowest) / ((highest - lowest) or 1.0)
    return ["" if pd.isna(share) else _background(share) for share in shares]


def _background(share: float) -> str:
    # Only the lighter part of the colours, on which black is read well.
    colour = to_hex(colormaps["YlGn"](_PALE + (_STRONG - _PALE) * share))
    return f"background-color: {colour}; color: #000000"


def _mark(whys: pd.Series) -> list[str]:
    return ["" if why.split(";")[0] == "well-formed" else _MARKED for why in whys]


def _hollow(tags: TagFormat) -> dict[str, str]:
    """The format with nothing in it that shows."""
    return {
        "empty tags": tags.render("", ""),
        "empty thought": tags.render("", _REPLY),
        "empty reply": tags.render(_THOUGHT, ""),
        "blank contents": tags.render(" ", "\u3000"),
        "blank lines": tags.render("\n\n", "\n\n"),
        "zero-width contents": tags.render("\u200b", "\u2060"),
        "invisible letters": tags.render("\u3164", "\u2800"),
        "control characters": tags.render("\x07", "\x00"),
        "only the tags": "".join(tags.tags),
    }


def _repeated(tags: TagFormat, reply: str) -> dict[str, str]:
    """Tags or parts more than once."""
    good = tags.render(_THOUGHT, reply)
    opening, closing, answering, end = tags.tags
    return {
        "tag spam": "".join(tags.tags) * 50,
        "each tag doubled": "".join(tag * 2 for tag in tags.tags),
        "said twice": f"{good}\n{good}",
        "said fifty times": good * 50,
        "a second try": f"{good}\n{tags.render(_THOUGHT, _QUESTION)}",
        "thought twice": f"{opening}{_THOUGHT}{closing}\n{good}",
        "replied twice": f"{good}\n{answering}{reply}{end}",
        "duplicated start": f"{opening}{good}",
        "duplicated end": f"{good}{end}",
        "duplicated middle": good.replace(answering, answering * 2),
    }


def _misplaced(tags: TagFormat, reply: str) -> dict[str, str]:
    """The four tags once each, in another order or around nothing."""
    opening, closing, answering, end = tags.tags
    return {
        "swapped": f"{answering}{reply}{end}\n{opening}{_THOUGHT}{closing}",
        "reply in the thought": f"{opening}{_THOUGHT}{answering}{reply}{end}{closing}",
        "thought in the reply": f"{answering}{opening}{_THOUGHT}{closing}{reply}{end}",
        "crossed": f"{opening}{_THOUGHT}{answering}{closing}{reply}{end}",
        "closed before opened": f"{closing}{_THOUGHT}{opening}\n{end}{reply}{answering}",
        "backwards": "".join(reversed(tags.tags)),
        "words before the tags": f"{_THOUGHT}{reply}{''.join(tags.tags)}",
        "words after the tags": f"{''.join(tags.tags)}{_THOUGHT}{reply}",
        "reply between the pairs": f"{opening}{_THOUGHT}{closing}\n{reply}\n{answering}{end}",
    }


def _surrounded(tags: TagFormat, reply: str) -> dict[str, str]:
    """An ideal completion with something around its parts."""
    good = tags.render(_THOUGHT, reply)
    _, closing, answering, _ = tags.tags
    return {
        "text before": f"はい。{good}",
        "text between": good.replace(answering, f"さて{answering}"),
        "one character after the end": f"{good}。",
        "text after the end": f"{good}\n以上です。",
        "pages after the end": f"{good}{_REPLY * 50}",
        "zero-width before": f"\ufeff{good}",
        "zero-width between": good.replace(closing, f"{closing}\u200b"),
        "zero-width after": f"{good}\u200b",
    }


def _unfinished(tags: TagFormat, reply: str) -> dict[str, str]:
    """Not all of the four tags."""
    good = tags.render(_THOUGHT, reply)
    opening, closing, answering, end = tags.tags
    return {
        "unopened thought": good.replace(opening, ""),
        "unclosed thought": good.replace(closing, ""),
        "unopened reply": good.replace(answering, ""),
        "unclosed reply": good.replace(end, ""),
        "no closing tags": good.replace(closing, "").replace(end, ""),
        "only the thought": f"{opening}{_THOUGHT}{closing}",
        "only the reply": f"{answering}{reply}{end}",
        "only the first tag": opening,
    }


def _look_alikes(tags: TagFormat, reply: str) -> dict[str, str]:
    """Tags that a reader may take for the recipe's, written in other ways."""
    ways: dict[str, Callable[[str], str]] = {
        "full-width tags": lambda tag: tag.translate(_FULL_WIDTH),
        "full-width brackets": lambda tag: tag.replace("<", "＜").replace(">", "＞"),
        "full-width names": lambda tag: re.sub(r"\w", lambda c: c[0].translate(_FULL_WIDTH), tag),
        "tags in the other case": str.swapcase,
        "spaces inside tags": lambda tag: tag.replace("<", "< ").replace(">", " >"),
        "tags with attributes": lambda tag: tag.replace(">", " a>"),
        "self-closing tags": lambda tag: tag.replace(">", "/>"),
        "zero-width inside tags": lambda tag: tag.replace(">", "\u200b>"),
        "longer names": lambda tag: tag.replace(">", "s>"),
        "square brackets": lambda tag: tag.replace("<", "[").replace(">", "]"),
        "tokens for tags": lambda tag: tag.replace("<", "<|").replace(">", "|>"),
        "HTML-escaped tags": html.escape,
        "backslashes before tags": lambda tag: tag.replace("<", "\\<"),
    }
    good = tags.render(_THOUGHT, reply)
    return {name: _rewrite(good, tags, way) for name, way in ways.items()}


def _rewrite(text: str, tags: TagFormat, way: Callable[[str], str]) -> str:
    return re.sub("|".join(tags.tags), lambda match: way(match[0]), text)


def _untagged(recipe: Recipe, reply: str) -> dict[str, str]:
    """Without the tags: bare words, or another notation."""
    tags = recipe.tags
    return {
        "nothing": "",
        "only a reply": reply,
        "thought and reply": f"{_THOUGHT}\n{reply}",
        "English without tags": "\n".join(_ENGLISH),
        "guesses without tags": ", ".join(map(str, range(1, 10))),
        "the prompt without tags": _prompt(recipe),
        "names as headings": f"## {tags.thought}\n{_THOUGHT}\n## {tags.reply}\n{reply}",
        "names with colons": f"{tags.thought}: {_THOUGHT}\n{tags.reply}: {reply}",
        "JSON": json.dumps({tags.thought: _THOUGHT, tags.reply: reply}, ensure_ascii=False),
    }


def _wrapped(recipe: Recipe, reply: str) -> dict[str, str]:
    """An ideal completion or the system prompt, quoted."""
    good = recipe.tags.render(_THOUGHT, reply)
    return {
        "fenced": f"```\n{good}\n```",
        "fenced as XML": f"```xml\n{good}\n```",
        "quoted": "\n".join(f"> {line}" for line in good.splitlines()),
        "in a tag around both": f"<output>\n{good}\n</output>",
        "commented out": f"<!--{good}-->",
        "JSON around tags": json.dumps({"text": good}, ensure_ascii=False),
        "the prompt, then the tags": f"{_prompt(recipe)}\n{good}",
        "the system prompt and the prompt": f"{recipe.system_prompt}\n{_prompt(recipe)}",
        "the system prompt, then the tags": f"{recipe.system_prompt}\n{good}",
        "the system prompt as the thought": recipe.tags.render(recipe.system_prompt, reply),
    }


def _idle_thoughts(recipe: Recipe, reply: str) -> dict[str, tuple[str, str]]:
    """A thought that is none, before the right reply."""
    return {
        "one-character thought": ("あ", reply),
        "dots for a thought": ("...", reply),
        "English thought": (_ENGLISH[0], reply),
        "the same thought a hundred times": (_THOUGHT * 100, reply),
        "the prompt as the thought": (_prompt(recipe), reply),
        "the example's thought": (recipe.example[0], reply),
        "the reply as the thought": (reply, reply),
        "the reply a hundred times": (_THOUGHT, "\n".join([reply] * 100)),
    }


def _poor_contents(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Contents that reply to nothing."""
    return {
        "one-character contents": ("あ", "あ"),
        "punctuation": ("。", "。"),
        "dots": ("...", "..."),
        "emoji": ("🤔", "😀"),
        "keys pressed at random": ("asdfghjkl", "qwertyuiop"),
        "one word a hundred times": ("はい。" * 100, "はい。" * 100),
        "comments": ("<!-- -->", "<!-- -->"),
        "names of the tags": (recipe.tags.thought, recipe.tags.reply),
        "English contents": _ENGLISH,
        "English reply": (_THOUGHT, _ENGLISH[1]),
        "a refusal": (_THOUGHT, "わかりません。"),
    }


def _copies(recipe: Recipe, reply: str) -> dict[str, tuple[str, str]]:
    """Contents that the prompt holds already, or in the wrong place."""
    thought, said = recipe.example
    prompt = _prompt(recipe)
    return {
        "the example": (thought, said),
        "the example swapped": (said, thought),
        "the example's reply": (_THOUGHT, said),
        "the prompt as both": (prompt, prompt),
        "the prompt as the reply": (_THOUGHT, prompt),
        "the reply only in the thought": (f"{_THOUGHT}{reply}", "考えたところに書きました。"),
    }


def _guesses(reply: str) -> dict[str, tuple[str, str]]:
    """Replies among which the right one may be."""
    numbers = [str(number) for number in range(1, 101)]
    guesses = {
        "a list of guesses": "1, 2, 3, 4, ...",
        "a guess a line": "\n".join(numbers[:9]),
        "digits in a row": "".join(numbers[:9]),
        "every number": "、".join(numbers),
        "a range": "1から100まで",
        "the reply or another": f"{reply}または{_QUESTION}",
        "the reply and a number": f"{reply}、0",
        "the reply denied": f"{reply}ではない",
        "a digit that does not show apart": f"{reply}\u200b0",
    }
    return {name: (_THOUGHT, guess) for name, guess in guesses.items()}


def _prompt(recipe: Recipe) -> str:
    turns = [turn for scene in recipe.scenes for turn in scene.turns]
    return turns[0] if turns else _QUESTION
