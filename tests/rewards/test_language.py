"""Japanese in the tags, and a thought that is not the reply again: what earns points, what not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarashina_grpo.rewards.language import (
    FEWEST_LETTERS,
    MOST_LETTERS,
    distinct_thought_reward,
    japanese_reward,
    japanese_share,
    overlap,
)
from sarashina_grpo.tags import TagFormat

TAGS = TagFormat("think", "response")
PROMPT = [
    {"role": "system", "content": "心の中で考えてから、やさしい言葉で返事をしてください。"},
    {"role": "user", "content": "駅前に新しいパン屋ができたので、朝から並んできました。"},
]
THOUGHT = "うれしそうだ。何を買ったのか聞いてみよう。"
REPLY = "それは楽しみですね。いちばんおいしかったのはどれですか。"
# Kanji in everyday use as names and words, none twice, for texts in which no 3-gram repeats.
VARIED = "".join(chr(0x4E00 + number) for number in range(0, 20_000) if number % 3 == 0)


def japanese(thought: str, reply: str = REPLY) -> float | None:
    (points,) = japanese_reward(completions=[TAGS.render(thought, reply)], tags=TAGS)
    return points


def distinct(thought: str, reply: str = REPLY, prompt: Any = PROMPT) -> float | None:
    completions = [TAGS.render(thought, reply)]
    (points,) = distinct_thought_reward(completions=completions, prompts=[prompt], tags=TAGS)
    return points


@pytest.mark.parametrize(
    "text",
    [
        "今日はいい天気です。",
        "カタカナ",
        "ﾊﾝｶｸｶﾅ",
        "ラーメン、ビール、人々、〆切",
        "東京都",
        "了解。",
        "USBで送ります。",
        "ＵＳＢとＡＩの話です。",
        "5km先の駅まで行きます。",
        "気温は30℃、荷物は2㎏です。",
        "iPhoneとYouTubeが好きです。",
        "Aliceさんに会いました。",
        "New Yorkへ行きたいです。",
        "https://example.com/a?b=c を見てください。",
        "連絡は someone@example.com までお願いします。",
        "`print(x)` と書きます。",
        "```python\nprint('hello world')\n``` と書きます。",
        "日本国憲法を読みました。",
    ],
)
def test_what_is_japanese_or_has_no_japanese_form_costs_nothing(text: str) -> None:
    assert japanese_share(text) == 1.0


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("Hello, how are you?", 0, 0),
        ("I AM HAPPY", 0, 0),
        ("OK OK OK OK OK", 0, 0),
        ("Sure! なるほど。", 0.3, 0.6),
        ("それは really いいですね。", 0.4, 0.8),
        ("それはreallyいいですね、by the way何を?", 0.3, 0.6),
        ("今天天气很好，我们去公园吧。", 0, 0),
        ("我喜歡你，明天一起去公園散步吧", 0, 0),
        ("안녕하세요", 0, 0),
        ("Привет, それは何?", 0.2, 0.7),
        ("これは东边です。", 0.5, 0.9),
    ],
)
def test_other_languages_cost_their_share(text: str, least: float, most: float) -> None:
    share = japanese_share(text)
    assert share is not None
    assert least <= share <= most


@pytest.mark.parametrize("text", ["", "42", "3.5%", "。、！", "🤔", "5 km", "1 + 2 = 3"])
def test_a_text_without_letters_has_no_share(text: str) -> None:
    assert japanese_share(text) is None


def test_more_english_earns_less_and_the_tags_cost_nothing() -> None:
    worse = [REPLY, f"nice、{REPLY}", f"nice, by the way、{REPLY}", "Nice, by the way!"]
    points = [japanese(THOUGHT, reply) for reply in worse]
    assert points == sorted(points, reverse=True)
    assert len(set(points)) == len(points)
    assert points[0] == 1.0
    assert points[-1] == 0.0


def test_the_worse_of_thought_and_reply_counts() -> None:
    english = "The user wants to talk, so I talk."
    assert japanese(english) == japanese(THOUGHT, english) == 0.0
    assert japanese(THOUGHT, "42") == 1.0
    assert japanese("3+4=7", "7") is None
    assert japanese("...", "🤔") is None


def test_japanese_in_code_counts_as_little_as_the_code() -> None:
    assert japanese_share("三```〇") == 1.0
    assert japanese_share("`印刷する` and so on") == 0.0


def test_free_words_cannot_be_all_there_is() -> None:
    assert japanese(THOUGHT, "AI USB CPU GPU RAM ROM です") < 0.5  # type: ignore[operator]


def test_a_text_without_tags_is_read_as_it_is() -> None:
    assert japanese_reward(completions=[THOUGHT, "Hi there"], tags=TAGS) == [1.0, 0.0]


def test_a_thought_of_its_own_earns_all_points() -> None:
    assert distinct(THOUGHT) == 1.0


@pytest.mark.parametrize(
    "thought",
    [
        REPLY,
        f"{REPLY}{REPLY}",
        REPLY.replace("。", "！ ").replace("ね", "ネ"),
        PROMPT[1]["content"],
        PROMPT[0]["content"],
        "はい。" * 100,
        "。。。！？",
        "...",
        "🤔",
        "うん",
        "ー" * 5000,
    ],
)
def test_a_thought_that_is_none_earns_less_than_half(thought: str) -> None:
    points = distinct(thought)
    assert points is not None
    assert 0 <= points < 0.5


@pytest.mark.parametrize("reply", [PROMPT[1]["content"], "はい。" * 100, f"{REPLY}" * 30])
def test_a_reply_that_is_none_earns_less_than_half(reply: str) -> None:
    points = distinct(THOUGHT, reply)
    assert points is not None
    assert 0 <= points < 0.5


def test_the_more_is_copied_the_less_it_earns() -> None:
    points = [distinct(REPLY[:length] + THOUGHT) for length in range(0, len(REPLY), 4)]
    assert points == sorted(points, reverse=True)
    assert points[0] == 1.0
    assert len(set(points)) > 4


def test_a_short_reply_may_stand_in_the_thought_and_in_the_prompt() -> None:
    asked = [{"role": "user", "content": "9.11と9.9では、どちらが大きいですか。"}]
    assert distinct("小数の部分を比べると0.90のほうが大きい。だから9.9だ。", "9.9", asked) == 1.0


@pytest.mark.parametrize("letters", [1, 4, FEWEST_LETTERS - 1])
def test_a_thought_that_is_too_short_earns_its_part(letters: int) -> None:
    points = distinct(VARIED[:letters])
    assert points is not None
    assert points <= letters / FEWEST_LETTERS


def test_length_alone_earns_nothing_and_too_much_of_it_costs() -> None:
    fine, long = distinct(VARIED[:MOST_LETTERS]), distinct(VARIED[: 2 * MOST_LETTERS])
    assert fine == 1.0
    assert long == pytest.approx(0.5)


def test_what_does_not_parse_has_no_thought() -> None:
    texts = [THOUGHT, TAGS.render("", REPLY), TAGS.render(THOUGHT, REPLY) + "!"]
    points = distinct_thought_reward(completions=texts, prompts=[PROMPT] * 3, tags=TAGS)
    assert points == [0.0, 0.0, 0.0]


def test_a_prompt_may_be_a_text() -> None:
    as_text = "\n".join(message["content"] for message in PROMPT)
    assert distinct(PROMPT[1]["content"], prompt=as_text) == distinct(PROMPT[1]["content"])


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        (REPLY, REPLY, 1.0),
        (REPLY, "かきくけこ", 0.0),
        ("あいうえお", "えおあいう", 1 / 3),
        ("", "", 0),
    ],
)
def test_overlap_is_the_share_of_common_grams(first: str, second: str, share: float) -> None:
    assert overlap(first, second) == overlap(second, first) == pytest.approx(share)


@given(st.text(), st.text(), st.text())
def test_both_stay_between_0_and_1(thought: str, reply: str, prompt: str) -> None:
    for points in (japanese(thought, reply), distinct(thought, reply, prompt)):
        assert points is None or 0 <= points <= 1
    assert 0 <= overlap(thought, reply) <= 1
