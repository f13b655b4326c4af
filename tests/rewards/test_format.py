"""The format rewards: their values, their exploits, and what holds for any text."""

import math
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sarashina_grpo.rewards import Reward, bind_tags, completion_text
from sarashina_grpo.rewards.format import (
    soft_format_reward,
    strict_format_reward,
    xmlcount_reward,
)
from sarashina_grpo.tags import TagFormat

INLINE = TagFormat("think", "response")
BLOCK = TagFormat("reasoning", "answer", layout="block")
REWARDS = (xmlcount_reward, soft_format_reward, strict_format_reward)
HIGHEST = 0.5
MEGABYTE = 1_000_000
EACH_REWARD = pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.__name__)
EACH_FORMAT = pytest.mark.parametrize("tags", [INLINE, BLOCK], ids=["inline", "block"])
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FRAGMENTS = [*INLINE.tags, *BLOCK.tags, "<", ">", "</", "\n", " ", "雨", "Hi!", "\ufe0f", "²"]
texts = st.text(st.characters()) | st.lists(
    st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=12
).map("".join)


def score(reward: Reward, text: str, tags: TagFormat = INLINE) -> float:
    (value,) = reward(completions=[text], tags=tags)
    assert value is not None
    return value


def total(text: str, tags: TagFormat = INLINE) -> float:
    return sum(score(reward, text, tags) for reward in REWARDS)


def as_message(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


@EACH_REWARD
@EACH_FORMAT
@patient
@given(text=texts)
def test_any_text_scores_a_finite_float_within_range(
    reward: Reward, tags: TagFormat, text: str
) -> None:
    value = score(reward, text, tags)
    assert type(value) is float
    assert math.isfinite(value)
    assert 0 <= value <= HIGHEST


@EACH_REWARD
@patient
@given(batch=st.lists(texts, max_size=5))
def test_a_score_is_independent_of_the_batch_around_it(reward: Reward, batch: list[str]) -> None:
    assert reward(completions=batch, tags=INLINE) == [score(reward, text) for text in batch]


@EACH_REWARD
@patient
@given(batch=st.lists(texts, min_size=1, max_size=3))
def test_a_string_and_a_message_score_the_same(reward: Reward, batch: list[str]) -> None:
    messages = [as_message(text) for text in batch]
    assert reward(completions=messages, tags=INLINE) == reward(completions=batch, tags=INLINE)


@EACH_FORMAT
@patient
@given(text=texts)
def test_the_full_total_is_kept_for_what_stands_in_the_layout(tags: TagFormat, text: str) -> None:
    assert (total(text, tags) == len(REWARDS) * HIGHEST) == tags.parses_in_layout(text)


@EACH_REWARD
@EACH_FORMAT
@pytest.mark.parametrize(
    ("thought", "reply"),
    [
        ("rain", "Hi!"),
        ("一行目\n二行目\n\n四行目", "こんにちは。\nお元気ですか。"),
        ("a < b, so </b>", "1/2 > 1/3"),
        ("考" * 500, "。"),
    ],
    ids=["one line", "several lines", "angle brackets", "long thought"],
)
def test_a_good_answer_gets_full_points(
    reward: Reward, tags: TagFormat, thought: str, reply: str
) -> None:
    assert score(reward, tags.render(thought, reply), tags) == HIGHEST
    assert score(reward, f"\n{tags.render(thought, reply)}\n\n", tags) == HIGHEST


GOOD = INLINE.render("rain", "Hi!")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("Hi!", 0.0),
        ("<think>", 0.125),
        ("<think>rain</think>", 0.25),
        ("<think>rain</think>\n<response>Hi!", 0.375),
        (GOOD, 0.5),
        ("<think><think>rain</think>\n<response>Hi!</response>", 0.375),
        ("Well: " + GOOD, 0.5),
        (GOOD + "!!!", 0.497),
        (GOOD + "\n\n", 0.5),
        (GOOD + "\n!", 0.498),
        (GOOD + "a" * 1000, 0.0),
        ("<think>rain</think>\n<response>" + "a" * 1000, 0.375),
        (GOOD + "</response>", 0.375 - 0.011),
        ("</response>" + "<think>rain</think>", 0.375 - 0.019),
    ],
    ids=[
        "empty",
        "no tags",
        "first tag",
        "thought",
        "unclosed reply",
        "all four",
        "one tag twice",
        "text before",
        "three characters after",
        "white space after",
        "white space within the text after",
        "never below zero",
        "an unclosed reply is not charged for its length",
        "text after the first of two closings, charged once",
        "closing reply tag first",
    ],
)
def test_xmlcount_pays_each_tag_once_and_charges_what_follows(text: str, expected: float) -> None:
    assert score(xmlcount_reward, text) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "soft", "strict"),
    [
        ("", 0.0, 0.0),
        ("Hi!", 0.0, 0.0),
        ("<think>a</think><response>b</response>", 0.5, 0.0),
        ("<think>a</think> \n\n<response>b</response>", 0.5, 0.0),
        (GOOD + " bye", 0.5, 0.0),
        (GOOD + "\n" + GOOD, 0.5, 0.0),
        ("Well: " + GOOD, 0.0, 0.0),
        ("<think>a</think> so <response>b</response>", 0.0, 0.0),
        ("<response>b</response>\n<think>a</think>", 0.0, 0.0),
        ("<think></think>\n<response>b</response>", 0.0, 0.0),
        ("<think>a</think>\n<response>\n</response>", 0.0, 0.0),
        ("<think>a</think>\n<response>b", 0.0, 0.0),
    ],
    ids=[
        "empty",
        "no tags",
        "nothing between",
        "white space between",
        "text after",
        "two pairs",
        "text before",
        "text between",
        "reply first",
        "empty thought",
        "blank reply",
        "unclosed reply",
    ],
)
def test_soft_and_strict_format_part_where_the_layout_does(
    text: str, soft: float, strict: float
) -> None:
    assert score(soft_format_reward, text) == soft
    assert score(strict_format_reward, text) == strict


def test_strict_format_wants_the_block_layout_where_the_recipe_does() -> None:
    inline = TagFormat(BLOCK.thought, BLOCK.reply).render("rain", "Hi!")
    assert score(strict_format_reward, inline, BLOCK) == 0.0
    assert score(soft_format_reward, inline, BLOCK) == 0.5


@pytest.mark.parametrize("tags", [INLINE, BLOCK], ids=["inline", "block"])
@pytest.mark.parametrize(
    "exploit",
    [
        "{0}{1}{2}{3}",
        "{0}{1}\n{2}{3}",
        "{0}\n{1}\n{2}\n{3}",
        "{0} {1}\n{2}\u3000{3}",
        "{0}\n\u200b\n{1}\n{2}\n\u2800\n{3}",
        "{0}\n\ufe0f\n{1}\n{2}\n\ufe0f\n{3}",
        "{0}\na\n{1}\n{2}\n{3}",
        "{0}\na\n{1}\n{2}\nb\n{3}\n" * 20,
        "{0}" * 50 + "\na\n{1}\n{2}\nb\n{3}",
        "{0}\na\n{1}\n{2}\nb\n{3} Thank you!",
        "Sure! {0}\na\n{1}\n{2}\nb\n{3}",
        "{2}\nb\n{3}\n{0}\na\n{1}",
        "{0}\n{2}\na\n{3}\n{1}",
        "{0}\na\n{1}\nI am here\n{2}\nb\n{3}",
        "{0}\n{1}\n{2}\nan answer without a thought\n{3}",
        "{0}\nin {0} and {1} I think\n{1}\n{2}\nb\n{3}",
        "an answer without any tags",
        "&lt;think&gt;a&lt;/think&gt;",
    ],
    ids=[
        "tags alone",
        "tags alone, in the layout",
        "tags on four lines",
        "spaces for contents",
        "invisible contents",
        "variation selectors for contents",
        "empty reply",
        "the pair repeated",
        "one tag spammed",
        "text after",
        "text before",
        "reply first",
        "nested",
        "text between",
        "no thought",
        "tags quoted in the thought",
        "untagged",
        "escaped tags",
    ],
)
def test_no_exploit_scores_as_high_as_a_good_answer(exploit: str, tags: TagFormat) -> None:
    text = exploit.format(*tags.tags)
    assert total(text, tags) < total(tags.render("rain", "Hi!"), tags)


def test_each_step_towards_the_format_pays_more() -> None:
    steps = [
        "Hi!",
        "<think>rain",
        "<think>rain</think>",
        "<think>rain</think><response>Hi!",
        "<think>rain</think><response>Hi!</response>",
        GOOD,
    ]
    totals = [total(step) for step in steps]
    assert totals == sorted(set(totals))


@EACH_REWARD
@pytest.mark.parametrize(
    "completion",
    [
        [],
        [{"role": "assistant"}],
        [{"role": "assistant", "content": None}],
        [{"role": "assistant", "content": [{"type": "text", "text": "Hi!"}]}],
    ],
    ids=["no message", "no content", "content None", "content in parts"],
)
def test_a_message_without_text_scores_nothing(reward: Reward, completion: Any) -> None:
    assert reward(completions=[completion], tags=INLINE) == [0.0]


def test_the_text_of_several_messages_is_joined() -> None:
    halves = as_message("<think>rain</think>") + as_message("<response>Hi!</response>")
    assert completion_text(halves) == "<think>rain</think><response>Hi!</response>"


@EACH_REWARD
def test_an_empty_batch_scores_nothing(reward: Reward) -> None:
    assert reward(completions=[], tags=INLINE) == []


@EACH_REWARD
def test_positional_arguments_are_refused(reward: Reward) -> None:
    with pytest.raises(TypeError, match="positional"):
        reward([GOOD], INLINE)


@EACH_REWARD
def test_binding_keeps_the_name_and_fixes_the_tags(reward: Reward) -> None:
    bound = bind_tags(reward, BLOCK)
    assert bound.__name__ == reward.__name__
    assert bound(completions=[BLOCK.render("a", "b"), "a"]) == [HIGHEST, 0.0]


@EACH_REWARD
@pytest.mark.parametrize(
    "column", ["prompts", "answer", "completion_ids", "trainer_state", "lang", "tags"]
)
def test_other_columns_of_the_dataset_are_ignored(reward: Reward, column: str) -> None:
    bound = bind_tags(reward, INLINE)
    assert bound(completions=[GOOD], **{column: ["anything"]}) == [HIGHEST]


@EACH_REWARD
@pytest.mark.parametrize("unit", ["<think>", "</response>", "<", GOOD, "<think>a</think>\n", " "])
def test_a_megabyte_is_scored_in_seconds(reward: Reward, unit: str) -> None:
    text = unit * (MEGABYTE // len(unit))
    start = time.perf_counter()
    value = score(reward, text)
    assert time.perf_counter() - start < 5
    assert 0 <= value <= HIGHEST
