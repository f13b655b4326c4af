"""The reward lab: what does each reward say to a text, and why?"""

import re
from collections.abc import Sequence
from typing import Any
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
from sarashina_grpo.rewards.language import distinct_thought_reward, japanese_reward
from sarashina_grpo.tables import shorten

_NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
_PALE, _STRONG = 0.05, 0.55
_MARKED = "background-color: #ffe0b2; color: #000000"


def explain(
    texts: Sequence[str],
    recipe: Recipe,
    answer: Sequence[str | None] | None = None,
    question: str = "",
) -> pd.DataFrame:
    """Score texts with a recipe's rewards, as in training.

    Args:
        texts: completions to try.
        recipe: whose rewards and tags to use.
        answer: the right answer to each text, for recipes that compare answers.
        question: what the user said, for rewards that read the prompt.

    Returns:
        One row a text: the text, one column a reward (in points, NaN: does not apply), "total"
        with the recipe's weights, and "why" in words: what is wrong with the format and with
        what stands in it and, where an answer is compared, what became of that, e.g.
        "4 characters after </answer>: −0.004; 80% Japanese; right answer".
    """
    columns = {"answer": list(answer)} if answer is not None else {}
    prompt = [{"role": "system", "content": recipe.system_prompt}]
    prompt += [{"role": "user", "content": question}] if question else []
    scores = pd.DataFrame(
        {
            reward.__name__: reward(
                completions=list(texts), prompts=[prompt] * len(texts), **columns
            )
            for reward in recipe.reward_funcs
        },
        dtype=float,
    )
    # As objects, which unlike pandas' strings may hold lone surrogates.
    reasons = pd.Series(_reasons(texts, recipe, answer, scores), dtype=object)
    table = scores.assign(total=(scores * recipe.weights).sum(axis=1), why=reasons)
    table.insert(0, "text", pd.Series(list(texts), dtype=object))
    return table


def highlight(table: pd.DataFrame) -> Styler:
    """Show the table of `explain` in a notebook, on a light page or a dark one.

    The greener a number, the closer it is to the best of its column; the palest is 0, or the
    lowest if that is below. "–" is a reward that does not apply. A "why" is marked unless the
    text stands in the recipe's format. Texts keep their line breaks, and nothing in them
    counts as HTML. A lone surrogate, which no page may hold, is shown escaped.
    """
    numbers = table.select_dtypes("number").columns
    wrapped = {"white-space": "pre-wrap", "text-align": "left"}
    return (
        table.style.format(
            {"text": _as_unicode, "why": _as_unicode}, escape="html", precision=3, na_rep="–"
        )
        .format_index(escape="html", axis="index")
        .format_index(_without_suffix, escape="html", axis="columns")
        .apply(_shade, subset=numbers)
        .apply(_mark, subset=["why"])
        .set_properties(subset=["text", "why"], **wrapped)
    )


def _reasons(
    texts: Sequence[str],
    recipe: Recipe,
    answer: Sequence[str | None] | None,
    scores: pd.DataFrame,
) -> list[str]:
    references = [None] * len(texts) if answer is None else answer
    rows = scores.to_dict("records")
    return [
        "; ".join(
            [
                *_format_faults(text, recipe),
                *_content_faults(text, recipe, row),
                *_comparison(text, reference, recipe),
            ]
        )
        for text, reference, row in zip(texts, references, rows, strict=True)
    ]


def _content_faults(text: str, recipe: Recipe, points: dict[Any, float]) -> list[str]:
    """What stands in the tags, where a reward reads that and takes something off."""
    faults = []
    share = points.get(japanese_reward.__name__, 1.0)
    if share < 1:
        faults.append(f"{share:.0%} Japanese")
    own = points.get(distinct_thought_reward.__name__, 1.0)
    if own < 1 and recipe.tags.parse(text):
        faults.append(f"too short, too long or said before: −{1 - own:.2f}")
    return faults


def _format_faults(text: str, recipe: Recipe) -> list[str]:
    fault = recipe.tags.explain(text)
    trailing = recipe.tags.trailing(text)
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


def _without_suffix(column: object) -> str:
    """As the panel of completions has it: the page has no room for more."""
    return str(column).removesuffix("_reward")


def _as_unicode(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


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
