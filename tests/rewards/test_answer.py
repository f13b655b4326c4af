"""The answer rewards: what counts as a number and as the right one, and how they are cheated."""

import math
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sarashina_grpo.rewards import Reward, bind_tags
from sarashina_grpo.rewards.answer import (
    correctness_reward,
    int_reward,
    is_correct,
    stated_quantity,
)
from sarashina_grpo.tags import TagFormat

TAGS = TagFormat("reasoning", "answer", layout="block")
INLINE = TagFormat("think", "response")
REWARDS = {int_reward: 0.5, correctness_reward: 2.0}
EACH_REWARD = pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.__name__)
MEGABYTE = 1_000_000
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FRAGMENTS = [
    *TAGS.tags, *"0123456789〇一二三十百千万億兆個円人分のかー-−▲.,/+%¥ 　²③Ⅳ½\u200b\ufe0f",
    "1,000", "マイナス", "分の", "一番", "三角形", "以上", "午後", "または", "km", "です", "答えは",
]  # fmt: skip
answers = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=12).map("".join)
texts = st.text(st.characters()) | answers | answers.map(lambda text: TAGS.render("a", text))
references = st.none() | answers | st.text()


def score(reward: Reward, text: str, answer: Any = "3", tags: TagFormat = TAGS) -> float | None:
    (value,) = reward(completions=[text], tags=tags, answer=[answer])
    return value


def scores(text: str, answer: str) -> tuple[float | None, ...]:
    completion = TAGS.render("よく考える。", text)
    return tuple(score(reward, completion, answer) for reward in REWARDS)


# Text, reference.
RIGHT = [
    # writing of digits
    ("3", "3"), ("３", "3"), ("3", "３"), ("𝟑", "3"), (" 3 \n", "3"), ("03", "3"), ("3.0", "3"),
    ("3.", "3"), ("3。", "3"), ("3!", "3"), ("「3」", "3"), ("**3**", "3"), ("(3)", "3"),
    ("+3", "3"), ("x = 3", "3"), ("=3", "3"), ("答え：3", "3"), ("0", "0"), ("〇", "0"),
    # thousands
    ("1,000", "1000"), ("1000", "1,000"), ("１，０００", "1000"), ("1,234,567", "1234567"),
    ("1,000.5", "1000.5"),
    # minus
    ("-3", "-3"), ("−3", "-3"), ("－3", "-3"), ("ー3", "-3"), ("▲3", "-3"),
    ("ー三", "-3"), ("マイナス3", "-3"),
    ("マイナス三", "-3"), ("–3", "-3"), ("―3", "-3"), ("-¥3", "-3"), ("¥-3", "-3"),
    ("零下3度", "-3"), ("答えは-3です", "-3"), ("気温は-3度", "-3度"),
    ("マイナス 1,000円", "-1000"), ("-1/2", "-0.5"),
    # kanji
    ("三", "3"), ("零", "0"), ("十", "10"), ("二十三", "23"), ("百五", "105"), ("千", "1000"),
    ("二〇二四", "2024"), ("一万", "10000"), ("三万五千", "35000"), ("一億二千万", "120000000"),
    ("九千九百九十九", "9999"), ("千万", "10000000"), ("一億", "100000000"),
    ("一兆", "1000000000000"), ("23", "二十三"), ("百二十", "120"),
    # mixed
    ("3万5千", "35000"), ("3万5000", "35000"), ("1億2000万", "120000000"),
    ("1億2,000万円", "120000000"), ("1.5万", "15000"), ("5百", "500"), ("3千200", "3200"),
    ("12000万", "120000000"), ("3百万円", "3000000"),
    # decimals and fractions
    ("0.5", "1/2"), ("1/2", "0.5"), ("二分の一", "0.5"), ("2分の1", "1/2"), ("１／２", "0.5"),
    ("½", "0.5"), ("0.50", "0.5"), (".5", "0.5"), ("2/4", "1/2"), ("十分の一", "0.1"),
    ("6/2", "3"), ("3 / 4", "0.75"), ("0.1", "1/10"), ("3.14", "3.14"),
    ("マイナス2分の1", "-0.5"), ("2分の1時間", "0.5時間"),
    # units and counters
    ("3個", "3"), ("3", "3個"), ("三個", "3個"), ("3コ", "3個"), ("3こ", "3個"), ("3つ", "3個"),
    ("三つ", "3"), ("1,000円", "1000"), ("¥1,000", "1000円"), ("￥1,000", "1000"),
    ("$5", "5ドル"), ("3人", "3名"), ("3冊", "3"), ("3本", "3"), ("3枚", "3"), ("3匹", "3"),
    ("3台", "3"), ("3杯", "3"), ("3回", "3"), ("3歳", "3才"), ("3時間", "3"), ("3分", "3"),
    ("3秒", "3"), ("3日", "3"), ("3週間", "3"), ("3か月", "3ヶ月"), ("3年", "3"), ("3km", "3"),
    ("3 km", "3キロメートル"), ("3㎞", "3km"), ("3m", "3"), ("3cm", "3センチ"), ("3kg", "3"),
    ("3g", "3"), ("3L", "3リットル"), ("3mL", "3ml"), ("50%", "50%"), ("50％", "50パーセント"),
    ("50%", "50"), ("30度", "30°"), ("25℃", "25度"), ("5㎡", "5平方メートル"), ("5m²", "5㎡"),
    ("60km/h", "60"), ("3隻", "3"), ("3隻", "3隻"), ("3番目", "3"), ("3 apples", "3"),
    ("2時", "2"), ("三十分", "30分"),
    # sentences
    ("合計は3個です。", "3"), ("答えは 1,000 円になります", "1000"), ("3個、つまり3個です", "3"),
    ("3個、つまり3です", "3個"), ("1/2=0.5", "0.5"), ("三人です。", "3"),
    ("答えは三十五。", "35"), ("一番大きいのは3です。", "3"), ("三角形の数は7個です", "7"),
    ("一緒に数えると二十個です", "20"), ("千葉まで30kmです", "30"), ("万一に備えて5個です", "5"),
    ("一郎さんは8歳です", "8"), ("合計三個", "3"), ("残りは約3個です", "3"),
    ("3個残ります", "3個"), ("3個のりんご", "3"), ("The answer is 3.", "3"),
    ("3人が参加、計3人", "3人"),
    # text
    ("東京", "東京"), ("東京。", "東京"), ("「東京」", "東京"), ("Tokyo!", "tokyo"),
    ("Ｔｏｋｙｏ", "Tokyo"), ("New\n  York", "new york"), ("午後2時15分", "午後2時15分"),
    ("午後２時１５分。", "午後2時15分"), ("月曜日", "月曜日"), ("10:30", "10：30"),
    ("平成3年", "平成3年"), ("x²", "x²"), ("x^2", "x²"), ("③", "③"), ("一番", "一番"),
    ("三重県", "三重県"), ("3:4", "3:4"), ("5月3日", "5月3日"), ("\\sqrt{3}", "\\sqrt{3}"),
    ("木曜日です。", "木曜日"), ("答えは木曜日です", "木曜日"), ("正解は東京。", "東京"),
    ("答えは、「東京」です。", "東京"), ("答えは：東京", "東京"), ("木曜日", "答えは木曜日です。"),
    ("です", "です"), ("答えは", "答えは"),
]  # fmt: skip

WRONG = [
    # another value, or none
    ("4", "3"), ("", "3"), ("。", "3"), ("わかりません", "3"), ("30", "3"), ("3.5", "3"),
    ("-3", "3"), ("3", "-3"), ("さん", "3"), ("0.3", "3"), ("0.333", "1/3"), ("3万", "3"),
    ("三百", "3"), ("1000000", "1000"),
    # two values, lists, alternatives
    ("3か4", "3"), ("3、4", "3"), ("3,4", "3"), ("3 4", "3"), ("三か四", "3"),
    ("三個か四個です", "3"), ("3または4", "3"), ("3 or 4", "3"), ("3または三つ", "3"),
    ("1〜10", "3"), ("3~5", "3"), ("3-5", "3"), ("3から5", "3"), ("1, 2, 3, 4, 5", "3"),
    ("1,2,3", "3"), ("0123456789", "3"), ("1 2 3 4 5 6 7 8 9", "3"), ("3個と4個で7個", "7"),
    ("3+4=7", "7"), ("3人、3匹", "3"), ("1と2分の1", "1.5"), ("3½", "3"),
    # sums, ratios, codes
    ("3+3", "3"), ("3 + 3", "3"), ("3-3", "3"), ("3×3", "3"), ("3x3", "3"), ("3 x 3", "3"),
    ("3^3", "3"), ("3:3", "3"), ("3対3", "3"), ("3/3/3", "1"), ("√3", "3"), ("3π", "3"),
    ("±3", "3"), ("<3", "3"), ("3の3倍", "3"), ("A3", "3"), ("3D", "3"), ("x3", "3"), ("#3", "3"),
    ("3.3.3", "3"), ("1.2.3", "1.2"), ("3e2", "300"), ("--3", "-3"), ("[3]", "3"),
    ("\\sqrt{3}", "3"), ("3/0", "3"), ("1/0", "0"), ("0分の1", "0"), ("1,00", "100"),
    ("1,0000", "10000"), ("1000,000", "1000000"), ("3・3", "3"), ("3個+3個", "3"),
    # odd digits
    ("²", "2"), ("3²", "3"), ("³", "3"), ("③", "3"), ("⑶", "3"), ("⒊", "3"), ("Ⅲ", "3"),
    ("ⅲ", "3"), ("₃", "3"), ("٣", "3"), ("3٣", "3"), ("㊂", "3"), ("㋂", "3"), ("3️⃣", "3"),
    ("1²", "12"), ("x2", "x²"), ("3\u0302", "3"), ("1\u200b2", "12"), ("3\u200b4", "3"),
    ("3\u200d", "3"), ("\ufeff3", "3"), ("三\u200b十", "30"), ("三\u200b十", "3"),
    # changed by what stands beside
    ("3個以上", "3"), ("3以下", "3"), ("3未満", "3"), ("3ではない", "3"),
    ("3ではありません", "3"), ("3時間半", "3"), ("3個半", "3.5個"), ("3乗", "3"),
    ("3の倍数", "3"), ("not 3", "3"), ("more than 3", "3"), ("午後3時", "3"), ("3 PM", "3"),
    ("平成3年", "3年"), ("平成3年", "令和3年"), ("3時3分", "3"), ("3年3か月", "3"), ("3京", "3"),
    ("3弱", "3"),
    # words with numerals in them
    ("一番", "1"), ("三角形", "3"), ("一緒", "1"), ("千葉", "1000"), ("万一", "1"),
    ("万一", "10001"), ("唯一", "1"), ("世界一", "1"), ("三重県", "3"), ("六本木", "6"),
    ("三日月", "3"), ("四国", "4"), ("八百屋", "800"), ("二人三脚", "2"), ("十五夜", "15"),
    ("三位一体", "3"), ("万", "10000"), ("億", "100000000"), ("一生", "1"), ("十分に", "10"),
    # malformed numerals
    ("十十", "20"), ("百千", "100000"), ("3三", "33"), ("二三百", "2300"),
    ("一億一億", "200000000"), ("0万", "0"), ("1万10000", "20000"), ("百二百", "300"),
    # units
    ("3人", "3個"), ("1km", "1000m"), ("1000m", "1km"), ("3m", "3㎡"), ("50%", "0.5"),
    ("0.5", "50%"), ("3cm", "3m"), ("3ドル", "3円"), ("$3円", "3"), ("3隻", "3個"),
    ("3分", "3時間"), ("3日", "3週間"), ("3つ", "3人"), ("3g", "3kg"),
    # text
    ("東京か大阪", "東京"), ("大阪", "東京"), ("午前2時15分", "午後2時15分"),
    ("2時15分", "午後2時15分"), ("月曜日", "火曜日"), ("3", "月曜日"), ("", "東京"), ("!", "。"),
    ("3:5", "3:4"), ("5月4日", "5月3日"), ("New York", "newyork"),
    ("です", "木曜日"), ("火曜日です", "木曜日"), ("答えは火曜日です", "木曜日"),
    ("木曜日ではないです", "木曜日"), ("答えはです", "木曜日"), ("問題の答えは東京", "東京"),
    ("です", "答えは"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reference"), RIGHT, ids=lambda value: repr(value))
def test_a_right_answer_is_correct_however_it_is_written(text: str, reference: str) -> None:
    assert is_correct(text, reference)
    assert scores(text, reference)[1] == 2.0


@pytest.mark.parametrize(("text", "reference"), WRONG, ids=lambda value: repr(value))
def test_a_wrong_or_unclear_answer_is_not_correct(text: str, reference: str) -> None:
    assert not is_correct(text, reference)
    assert scores(text, reference)[1] == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[(text, 0.5) for text in ("3", "３個", "1,000", "二十三", "-3", "3.0", "6/2", "4です")],
        *[(text, 0.0) for text in ("", "²", "③", "Ⅲ", "3.5", "1/2", "半分", "3か4", "2時15分")],
        *[(text, 0.0) for text in ("一番", "三角形", "月曜日", "three", "3\u200b4", "１²")],
        ("9" * 100, 0.5),
        ("9" * 101, 0.0),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_int_pays_any_one_whole_number(text: str, expected: float) -> None:
    assert scores(text, "3")[0] == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (TAGS.render("考える", "3"), 2.0),
        (TAGS.render("考える", "3") + "\nおわり", 2.0),
        ("<answer>3</answer>", 2.0),
        ("考える</reasoning><answer>3</answer>", 2.0),
        ("3", 0.0),
        (TAGS.render("3", "わかりません"), 0.0),
        (TAGS.render("答えは3です", "4"), 0.0),
        (TAGS.render("3", ""), 0.0),
        ("<reasoning>3</reasoning>", 0.0),
        ("<reasoning><answer>3</answer></reasoning>", 0.0),
        ("<reasoning>考える<answer>3</answer>", 0.0),
        ("考える<answer>3</answer></reasoning>", 0.0),
        ("<answer>3", 0.0),
        ("3</answer>", 0.0),
        ("</answer>3<answer>", 0.0),
        ("<answer>3</answer><answer>4</answer>", 0.0),
        ("<answer>3</answer>" * 2, 0.0),
        ("<answer><answer>3</answer>", 0.0),
        ("<answer><reasoning>3</reasoning></answer>", 0.0),
        ("<response>3</response>", 0.0),
        (TAGS.render("考える", "".join(f"{number}か" for number in range(100))), 0.0),
    ],
)
def test_only_a_single_reply_outside_the_thought_counts(completion: str, expected: float) -> None:
    assert score(correctness_reward, completion) == expected
    assert expected == 0.0 or score(int_reward, completion) == 0.5


@EACH_REWARD
@pytest.mark.parametrize("open_answer", [None, "", " \n", math.nan])
def test_an_open_question_does_not_count(reward: Reward, open_answer: Any) -> None:
    completion = TAGS.render("a", "3")
    assert reward(completions=[completion] * 2, tags=TAGS, answer=[open_answer, "3"]) == [
        None,
        REWARDS[reward],
    ]


@EACH_REWARD
def test_without_answers_no_row_counts(reward: Reward) -> None:
    assert reward(completions=[TAGS.render("a", "3")] * 2, tags=TAGS) == [None, None]


@EACH_REWARD
@pytest.mark.parametrize("answer", [3, 3.0, "3", "３個", Fraction(3)])
def test_an_answer_may_be_a_number(reward: Reward, answer: Any) -> None:
    assert score(reward, TAGS.render("a", "三個"), answer) == REWARDS[reward]


@EACH_REWARD
@patient
@given(text=texts, reference=references)
def test_any_text_scores_all_or_nothing(reward: Reward, text: str, reference: str | None) -> None:
    value = score(reward, text, reference)
    if reference is None:
        assert value is None
    elif value is not None:
        assert type(value) is float
        assert value in (0.0, REWARDS[reward])


@EACH_REWARD
@patient
@given(rows=st.lists(st.tuples(texts, references), max_size=5))
def test_a_score_is_independent_of_batch_and_form(
    reward: Reward, rows: list[tuple[str, str | None]]
) -> None:
    alone = [score(reward, text, reference) for text, reference in rows]
    batch = [text for text, _ in rows]
    messages = [[{"role": "assistant", "content": text}] for text in batch]
    columns = {"tags": TAGS, "answer": [reference for _, reference in rows], "prompts": [[]]}
    assert reward(completions=batch, **columns) == alone
    assert reward(completions=messages, **columns) == alone


@patient
@given(number=st.integers(0, 10**9))
def test_every_number_in_kanji_is_itself(number: int) -> None:
    for written in (in_kanji(number), mixed(number), f"{number:,}", digit_by_digit(number)):
        quantity = stated_quantity(written)
        assert quantity is not None, written
        assert quantity == (number, None), written
        assert stated_quantity(f"答えは{written}個です。") == (number, "個")


@patient
@given(number=st.integers(0, 10**9), other=st.integers(0, 10**9))
def test_a_number_is_right_for_itself_alone(number: int, other: int) -> None:
    assert is_correct(in_kanji(number), str(other)) == (number == other)
    assert is_correct(f"{number}か{in_kanji(other)}", str(number)) == (number == other)


@patient
@given(text=answers)
def test_a_reference_is_its_own_right_answer(text: str) -> None:
    assert is_correct(text, text) or not any(char.isalnum() for char in text)


@EACH_REWARD
@pytest.mark.parametrize(
    "unit",
    ["9", "九", "千", "1,", "1,000", "1.", ".", "-", "ー", "一番", "3個", "3 ", "1/", "分の", "万",
     " ", "³", "\u0301\u0316", "ﷺ", "答えは", "+", "3x", "¥", "<answer>", "m", "\u200b"],
    ids=repr,
)  # fmt: skip
def test_a_megabyte_is_scored_in_seconds(reward: Reward, unit: str) -> None:
    start = time.perf_counter()
    for length in (MEGABYTE, 9_999):
        text = unit * (length // len(unit))
        assert score(reward, TAGS.render("a", text), "3") in (0.0, REWARDS[reward])
        assert score(reward, text, text) in (None, 0.0)
    assert time.perf_counter() - start < 5


@EACH_REWARD
def test_binding_keeps_the_name_and_fixes_the_tags(reward: Reward) -> None:
    bound = bind_tags(reward, INLINE)
    assert bound.__name__ == reward.__name__
    completions = [INLINE.render("a", "3"), TAGS.render("a", "3"), []]
    assert bound(completions=completions, answer=["3"] * 3) == [REWARDS[reward], 0.0, 0.0]


@EACH_REWARD
def test_positional_arguments_are_refused(reward: Reward) -> None:
    with pytest.raises(TypeError, match="positional"):
        reward([TAGS.render("a", "3")], TAGS, ["3"])


def in_kanji(number: int) -> str:
    """Write a number below 10**12 as it is read: 10300 is 一万三百."""
    groups = [(number // 10**8, "億"), (number // 10**4 % 10**4, "万"), (number % 10**4, "")]
    return "".join(_group(group) + unit for group, unit in groups if group) or "零"


def _group(group: int) -> str:
    written = ""
    for digit, unit in zip(f"{group:04}", "千百十 ", strict=True):
        if digit != "0":
            one = "" if digit == "1" and unit != " " else "〇一二三四五六七八九"[int(digit)]
            written += one + unit.strip()
    return written


def mixed(number: int) -> str:
    """Write a number below 10**12 as newspapers do: 10300 is 1万300."""
    groups = [(number // 10**8, "億"), (number // 10**4 % 10**4, "万"), (number % 10**4, "")]
    return "".join(f"{group}{unit}" for group, unit in groups if group) or "0"


def digit_by_digit(number: int) -> str:
    return "".join("〇一二三四五六七八九"[int(digit)] for digit in str(number))
