"""Every recipe's rewards on anything at all: no exception, in range, and the same each time.

One grammar writes completions and references; hypothesis makes its choices, and shrinks what
fails. 2,000 batches a recipe by default, a million completions a recipe with `pytest -m slow`:
50,000 batches of 20, because hypothesis takes longer over a batch than the rewards do.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st
from linear_time import KINDS

from sarashina_grpo.recipe import Recipe
from sarashina_grpo.recipes import get_recipe, recipe_names
from sarashina_grpo.rewards import Completion, completion_text
from sarashina_grpo.rewards.lab import explain, highlight
from sarashina_grpo.tags import TagFormat

# From 0 to this, as the README's table says. A new reward needs a line.
HIGHEST = {
    "xmlcount_reward": 0.5,
    "soft_format_reward": 0.5,
    "strict_format_reward": 0.5,
    "int_reward": 0.5,
    "correctness_reward": 2.0,
    "japanese_reward": 1.0,
    "distinct_thought_reward": 1.0,
}
EACH_RECIPE = pytest.mark.parametrize(
    "recipe", [*map(get_recipe, recipe_names())], ids=recipe_names()
)
MEGABYTE = MILLION = 1_000_000
LARGE_BATCH, PARTS = 20, 50
patient = settings(deadline=None, suppress_health_check=list(HealthCheck))

Row = tuple[Completion, Any]
Points = list[tuple[float | None, ...]]

NUMBERS = [
    *"0123456789０３９", *"٣٤۵३৩๓𝟑𝟛²₃③⑶⒊Ⅲⅻ㊂㋂㍘½⅓¼", *"〇零一二三四五六七八九十百千万億兆京壱弐参",
    *".,/+-−ー▲%^*=~:", "1,", "1,000", "3.0", ".5", "1.", "3個", "三人", "9" * 101, "9" * 5000,
    "0" * 5000, "九" * 200, "九千" * 3000, "1e9", "1e309", "-1e-400", "0x1F", "1_000", "inf",
    "-Infinity", "∞", "nan", "NaN", "None", "True", "1/0", "0/0", "3/4", "0分の1", "2分の1", "分の",
    "マイナス", "円", "¥", "km", "m²", "㎡", "時", "以上", "または", "一番", "答えは", "です。",
]  # fmt: skip
OTHERS = [
    *"\n\r\t \x00\x1c\u3000\u2028", *"\u200b\u200d\ufeff\ufe0f\u202e\u0301\u3164\u2800\ud800\udfff",
    *"\\<>＜＞雨ﷺ", "####", "#### 3", "</", "&lt;", "Hi!", "👩‍👩‍👧", "ｶﾞ", "```", "<br>", "{0}",
]  # fmt: skip
REFERENCES = [
    None, "", " \n", "人による。", "It depends.", "#### 3", "####", "nan", "9" * 5000, math.nan,
    math.inf, -0.0, 0.1, 5e-324, 1e300, True, 3, -(2**63), Fraction(1, 3), (), (3, "3"), "\ud800",
]  # fmt: skip
BLOCKS = {
    "anything": (0, 0x10FFFF),
    "ASCII": (0, 0x7F),
    "combining marks": (0x300, 0x36F),
    "scripts from Arabic to Thai": (0x600, 0xE7F),
    "zero-width and other punctuation": (0x2000, 0x206F),
    "raised, Roman and circled numbers": (0x2070, 0x24FF),
    "kana and kanji": (0x3000, 0x9FFF),
    "lone surrogates": (0xD800, 0xDFFF),
    "full and half width": (0xFF00, 0xFFEF),
    "digits of mathematics": (0x1D7CE, 0x1D7FF),
}
FULL_WIDTH = {code: code + 0xFEE0 for code in range(ord("!"), ord("~") + 1)}


def ways_to_write(tag: str) -> list[str]:
    """The tag, and what a reader may take for it."""
    return [
        *[tag] * 8,
        tag * 2,
        tag[:-1],
        tag[1:],
        f"<{tag}>",
        tag.upper(),
        tag.translate(FULL_WIDTH),
        tag.replace("<", "＜").replace(">", "＞"),
        f"{tag[:3]}\u200b{tag[3:]}",
        tag.replace("<", "< ").replace(">", " >"),
        tag.replace(">", " a=1>"),
    ]


def write_batch(random: Random, tags: TagFormat, size: int) -> list[Row]:
    """Completions with references, some of which are what the completion replies."""
    fragments = [way for tag in tags.tags for way in ways_to_write(tag)] + NUMBERS + OTHERS
    return [write_row(random, tags, fragments) for _ in range(size)]


def write_row(random: Random, tags: TagFormat, fragments: Sequence[str]) -> Row:
    reply = write_number(random) if random.randint(0, 1) else write_unicode(random)
    text = write_completion(random, tags, fragments, reply)
    form = random.choice(FORMS)
    return form(text), random.choice([reply, write_number(random), text, *REFERENCES])


def write_completion(random: Random, tags: TagFormat, fragments: Sequence[str], reply: str) -> str:
    """The reply in the tags, in something like them, or without."""
    open_thought, close_thought, open_reply, close_reply = tags.tags
    depth = random.randint(0, 50)
    opened, closed = (open_thought + open_reply) * depth, (close_reply + close_thought) * depth
    soup = write_soup(random, fragments)
    return random.choice(
        [
            tags.render("よく考える。", reply),
            tags.render(soup, reply),
            tags.render("よく考える。", soup + reply),
            f"{soup}{tags.render('よく考える。', reply)}",
            f"{tags.render('よく考える。', reply)}{soup}",
            f"{opened}{reply}{closed}",
            f"{soup}{reply}",
        ]
    )


def write_number(random: Random) -> str:
    return "".join(random.choices(NUMBERS, k=random.randint(1, 4)))


def write_unicode(random: Random) -> str:
    lowest, highest = random.choice(list(BLOCKS.values()))
    return "".join(chr(random.randint(lowest, highest)) for _ in range(random.randint(0, 8)))


def write_soup(random: Random, fragments: Sequence[str]) -> str:
    pieces = random.choices(fragments, k=random.randint(0, 8))
    return random.choice(["", "", write_unicode(random)]).join(pieces)


def as_message(text: str) -> Completion:
    return [{"role": "assistant", "content": text}]


def as_several_messages(text: str) -> Completion:
    half = len(text) // 2
    return [
        {"role": "assistant", "content": text[:half], "tool_calls": []},
        {"role": "tool", "content": "<answer>3</answer>"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": text[half:]},
        {"content": "nobody's"},
    ]


def as_parts(text: str) -> Completion:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


FORMS: list[Callable[[str], Completion]] = [
    str,
    str,
    as_message,
    as_several_messages,
    as_parts,
]


def score(recipe: Recipe, batch: Sequence[Row]) -> Points:
    """What the rewards give, a tuple a row."""
    columns = {
        "completions": [completion for completion, _ in batch],
        "answer": [reference for _, reference in batch],
        "prompts": [[{"role": "system", "content": recipe.system_prompt}]] * len(batch),
    }
    return list(zip(*(reward(**columns) for reward in recipe.reward_funcs), strict=True))


def check(recipe: Recipe, batch: list[Row], random: Random) -> None:
    """All that has to hold for each batch."""
    untouched = deepcopy(batch)
    together = score(recipe, batch)
    for row in together:
        for name, value in zip(recipe.reward_names, row, strict=True):
            assert value is None or type(value) is float
            assert value is None or 0 <= value <= HIGHEST[name]  # So it is finite, too.
    assert score(recipe, batch) == together
    assert [score(recipe, [row])[0] for row in batch] == together
    order = random.sample(range(len(batch)), len(batch))
    assert score(recipe, [batch[at] for at in order]) == [together[at] for at in order]
    strings = [(completion_text(completion), reference) for completion, reference in batch]
    assert score(recipe, strings) == together
    check_words(recipe, strings, together)
    assert batch == untouched


def check_words(recipe: Recipe, batch: Sequence[tuple[str, Any]], together: Points) -> None:
    """The lab has the same points and a total, and finds the faults that the parser finds."""
    texts, references = zip(*batch, strict=True)
    table = explain(texts, recipe, references)
    for name, values in zip(recipe.reward_names, zip(*together, strict=True), strict=True):
        assert [None if math.isnan(value) else value for value in table[name]] == list(values)
    weights = recipe.weights.values()
    totals = [
        math.fsum(weight * (value or 0.0) for weight, value in zip(weights, row, strict=True))
        for row in together
    ]
    assert table["total"].tolist() == pytest.approx(totals)
    for text, why in zip(texts, table["why"], strict=True):
        parsed, strict = recipe.tags.parse(text), recipe.tags.parses_in_layout(text)
        assert why.startswith("well-formed") == (parsed is not None)
        assert (why.split(";")[0] == "well-formed") == strict


@EACH_RECIPE
@settings(patient, max_examples=2_000)
@given(random=st.randoms(), size=st.integers(1, 3))
def test_any_batch_is_scored_in_range_and_the_same_each_time(
    recipe: Recipe, random: Random, size: int
) -> None:
    batch = write_batch(random, recipe.tags, size)
    note(batch)
    check(recipe, batch, random)


@pytest.mark.slow
@pytest.mark.timeout(2 * 60 * 60)
@EACH_RECIPE
def test_a_million_completions_are_scored_in_range_and_the_same_each_time(recipe: Recipe) -> None:
    # One part after another, because hypothesis remembers what it tried: gigabytes of it.
    for part in range(PARTS):

        @seed(part)
        @settings(patient, max_examples=MILLION // PARTS // LARGE_BATCH)
        @given(random=st.randoms())
        def hold(random: Random) -> None:
            batch = write_batch(random, recipe.tags, LARGE_BATCH)
            note(batch)
            check(recipe, batch, random)

        hold()


@EACH_RECIPE
@settings(patient, max_examples=100)
@given(random=st.randoms())
def test_any_table_can_be_shown(recipe: Recipe, random: Random) -> None:
    batch = write_batch(random, recipe.tags, 4)
    note(batch)
    texts = [completion_text(completion) for completion, _ in batch]
    page = highlight(explain(texts, recipe, [reference for _, reference in batch])).to_html()
    assert page.encode()


def test_half_a_character_is_shown_as_an_escape() -> None:
    recipe = get_recipe("qa")
    half = recipe.tags.render("\ud800", "\udfff")
    page = highlight(explain([half], recipe, ["\ud83d"])).to_html()
    assert all(escaped in page for escaped in (r"\ud800", r"\udfff", r"\ud83d"))


@EACH_RECIPE
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_megabyte_is_read_to_its_end(recipe: Recipe, kind: str) -> None:
    """How its time grows with its length is for `benchmarks/linear_time.py` to tell."""
    text = KINDS[kind](recipe.tags, MEGABYTE)
    check(recipe, [(text, text)], Random(0))


@EACH_RECIPE
def test_what_is_tried_reaches_both_ends_of_each_reward(recipe: Recipe) -> None:
    points = score(recipe, write_batch(Random(0), recipe.tags, 1_000))
    for name, values in zip(recipe.reward_names, zip(*points, strict=True), strict=True):
        assert {0.0, HIGHEST[name]} <= set(values)
