"""Rewards for the answer: is it a whole number, and is it the right one?

A reply counts when it states one quantity, as Japanese writes it: `３`, `3個`, `1,000円`,
`二十三`, `3万5千`, `2分の1`, "合計は3個です。". What is ambiguous, a list, a sum, a time or a
word that only contains numerals (一番, 三角形) states none: better a right answer missed
than a wrong one paid. A reference that is no plain quantity is compared as text.

The numerals have their own parser: kanjize cuts decimals off (3万1.5) and reads 3三 as 33.
"""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple
from unicodedata import category, decomposition, normalize

from sarashina_grpo.rewards import Completion, completion_text
from sarashina_grpo.tags import TagFormat

INT_POINTS = 0.5
CORRECTNESS_POINTS = 2.0
# Beyond these a reply is no short answer, and normalising or converting it would cost too much.
MAX_ANSWER_CHARACTERS = 10_000
MAX_NUMERAL_CHARACTERS = 100

_DIGITS = "0123456789"
_KANJI_DIGITS = {char: str(value) for value, char in enumerate("〇一二三四五六七八九")} | {
    "零": "0"
}
_SMALL_UNITS = {"十": 10, "百": 100, "千": 1000}
_LARGE_UNITS = {"万": 10**4, "億": 10**8, "兆": 10**12}
_KANJI_NUMERALS = "".join([*_KANJI_DIGITS, *_SMALL_UNITS, *_LARGE_UNITS])
_NUMERALS = _DIGITS + _KANJI_NUMERALS
_NUMERAL_SET = frozenset(_NUMERALS)

# One unit a line; what follows the first name is another way to write it.
_UNIT_NAMES = """
個 箇
円 ¥ yen
ドル $ dollars dollar
ユーロ € euros euro
ポンド £ pounds pound
セント cents cent
人 名 people
歳 才
時
時間 hours hour
分 分間 minutes minute min
秒 秒間 seconds second
日 日間 days day
週間 週 weeks week
か月 ヶ月 カ月 ヵ月 ケ月 箇月 個月 か月間 ヶ月間 カ月間 ヵ月間 ケ月間 months month
年 年間 years year
か所 ヶ所 カ所 ヵ所 ケ所 箇所
ページ 頁 pages page
度 ° °c
% パーセント percent
km キロメートル
m メートル
cm センチメートル センチ
mm ミリメートル
kg キログラム
g グラム
mg ミリグラム
t トン
l リットル
dl デシリットル
ml ミリリットル cc
平方km 平方キロメートル
平方m 平方メートル
平方cm 平方センチメートル
立方m 立方メートル
立方cm 立方センチメートル
km/h km/時
m/s m/秒
m/分
"""
_COUNTERS = (
    "冊 本 枚 匹 頭 羽 台 杯 回 組 箱 袋 皿 着 足 隻 件 軒 階 問 点 倍 割 票 束 株 粒 曲 校 店 班 "
    "切れ 種類 通り"
)
_UNITS = {
    name: names[0]
    for names in [*map(str.split, _UNIT_NAMES.strip().splitlines()), *zip(_COUNTERS.split())]
    for name in names
} | dict.fromkeys("こつコヶケ", "個")

# Words that contain a numeral and are no number, and may stand beside the answer.
_IDIOMS = (
    "一番 一緒 一方 一般 一部 一致 一定 一体 一応 一旦 一気 一斉 一瞬 一覧 一連 一種(?!類) 一律 "
    "一層 一見 一概 一生 一切(?!れ) 一郎 二郎 三郎 四郎 五郎 三角 四角 五角 六角 八角 二次 三次 "
    "三重 四国 九州 五輪 七夕 八百屋 六本木 十字 十分[にな] 百合 百貨店 千葉 千代 万一 万が一 "
    "万歳 万能 唯一 統一 同一 単一 均一 随一 世界一 日本一 第一に もう一度"
)

_KANJI = "一-鿿々"
_KATAKANA = "ァ-ヶー"
_IS_KANJI = re.compile(f"[{_KANJI}]")
_JAPANESE = re.compile(f"[ぁ-ゖ{_KATAKANA}{_KANJI}〇]")
# What makes another quantity, or none, of the number that it follows.
_CHANGES_NUMBER = (
    r"以[上下内外]|未満|超|より|弱|強|半|余|乗|進|京|垓|ではな|でな[いく]|ではあり|じゃ[なあ]|"
    r"の?倍数| ?[ap]\.?m\b"
)
_CHANGES_NUMBER_AHEAD = re.compile(_CHANGES_NUMBER)
_CHANGES_NUMBER_BEHIND = re.compile(
    r"(?:午前|午後|明治|大正|昭和|平成|令和|紀元前|"
    r"not|n't|than|least|most|under|over|below|above) ?$"
)
_LONGEST_CHANGE_BEHIND = 8
_EXPRESSION = re.compile(
    r"[×÷√∛±≈≒≠<>≤≥≦≧∞π^*|\\{}\[\]]|[0-9] ?x ?[0-9]|(?!は)[\w)%] ?\+|足す|引く|掛ける|割る|"
    r"または|もしくは|あるいは|それとも|\bor\b"
)
_BAD_BEFORE = frozenset(".-−‐–—―+/_#'~〜√▲△")
_BAD_AFTER = frozenset("-−‐–—―+/:_#@&'\"~〜・?")
# A kanji number without a counter may follow these; after another kanji it ends a word.
_BEFORE_KANJI_NUMBER = frozenset("計約全値数額差和積商")

_SQUARES = {"²": "平方", "³": "立方"}
_SQUARE_UNIT = re.compile("([kc]?m)([²³])")
_ONE_CHARACTER = str.maketrans(
    {
        "㎡": "平方m",
        "㎠": "平方cm",
        "㎢": "平方km",
        "㎥": "立方m",
        "㎤": "立方cm",
        "∕": "/",
        "⁄": "/",
    }
    | {char: " " + normalize("NFKC", char).replace("⁄", "/") for char in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
)
# "答えは木曜日です" says what 木曜日 says.
_POLITE = re.compile("^(?:答え|正解)は(?!です$)[、:]?|です$")
_OUTER = " 。、!?「」『』()\"'“”"


def _unit_pattern(name: str) -> str:
    # A unit ends where its script does: no "m" in "3 more", no "コ" in "3コース".
    if name in "こつコヶケ":
        return f"(?<! ){name}(?![{_KATAKANA}])"
    if re.search("[a-z]$", name):
        return f"{re.escape(name)}(?![a-z])"
    if re.search(f"[{_KATAKANA}]$", name):
        return f"{name}(?![{_KATAKANA}])"
    return re.escape(name)


_RUN = rf"(?:(?<![\w.])\.)?[{_NUMERALS}]+(?:[.,][0-9][{_NUMERALS}]*)*"
_KNOWN_UNIT = "|".join(map(_unit_pattern, sorted(_UNITS, key=len, reverse=True)))
_OTHER_UNIT = f"(?!{_CHANGES_NUMBER})(?:[{_KANJI}]{{1,9}}|[{_KATAKANA}]{{1,9}})"
_QUANTITY = re.compile(
    rf"""
    (?:(?:(?P<minus>[-−‐–—―▲]|(?<![{_KATAKANA}])ー(?=[{_NUMERALS}])|マイナス|零下|氷点下|負の|minus)
      |\+|プラス)[ ]?)?
    (?P<currency>[¥$€£])?(?P<inner>[-−])?
    (?P<number>{_RUN})
    (?:(?P<joint>[ ]?/[ ]?|分の[ ]?)(?P<second>{_RUN}))?
    (?:[ ]?(?P<unit>{_KNOWN_UNIT.replace(" ", "[ ]").replace("#", "[#]")})
      |(?P<other>{_OTHER_UNIT.replace(" ", "[ ]")}))?
    """,
    re.VERBOSE,
)
_IDIOM = re.compile("|".join(_IDIOMS.split()))
_PIECE = re.compile(
    rf"(?P<plain>[0-9]{{1,3}}(?:,[0-9]{{3}})+(?:\.[0-9]+)?|[0-9]*\.[0-9]+|[0-9]+)"
    rf"|(?P<kanji>[{''.join(_KANJI_DIGITS)}]+)|(?P<unit>[十百千万億兆])|(?P<unknown>.)"
)


class Quantity(NamedTuple):
    """A number and the unit it is given in, None where there is no unit."""

    value: Fraction
    unit: str | None


def int_reward(
    *,
    completions: Sequence[Completion],
    tags: TagFormat,
    answer: Sequence[Any] | None = None,
    **_: Any,
) -> list[float | None]:
    """0.5 if the reply states one whole number, right or wrong, else 0.

    Args:
        completions: what the model wrote, a string or messages each.
        tags: where the reply stands.
        answer: the right answer to each row; None, NaN or blank for an open question.

    Returns:
        0 or 0.5 a row; None where the question is open, or all of them are.
    """
    return [
        None if reference is None else INT_POINTS if _is_whole(reply) else 0.0
        for reply, reference in _rows(completions, tags, answer)
    ]


def correctness_reward(
    *,
    completions: Sequence[Completion],
    tags: TagFormat,
    answer: Sequence[Any] | None = None,
    **_: Any,
) -> list[float | None]:
    """2.0 if the reply gives the right answer, see `is_correct`, else 0.

    Args:
        completions: what the model wrote, a string or messages each.
        tags: where the reply stands.
        answer: the right answer to each row; None, NaN or blank for an open question.

    Returns:
        0 or 2.0 a row; None where the question is open, or all of them are.
    """
    return [
        None if reference is None else CORRECTNESS_POINTS if is_correct(reply, reference) else 0.0
        for reply, reference in _rows(completions, tags, answer)
    ]


def is_correct(text: str, reference: str) -> bool:
    """Whether an answer says what the reference says.

    Where the reference is a plain quantity, the answer has to state that number and no other,
    and no other unit than the reference's, if it has one. Otherwise both are compared as text.

    >>> is_correct("合計は二十三個です。", "23"), is_correct("3か4", "3")
    (True, False)
    """
    expected = _plain_quantity(reference)
    if expected is None:
        return len(text) <= MAX_ANSWER_CHARACTERS and _folded(text) == _folded(reference) != ""
    stated = stated_quantity(text)
    if stated is None or stated.value != expected.value:
        return False
    return None in (stated.unit, expected.unit) or stated.unit == expected.unit


def stated_quantity(text: str) -> Quantity | None:
    """The one quantity that a short answer states, exact; None if there is none or a choice.

    >>> stated_quantity("答えは 1,000 円になります")
    Quantity(value=Fraction(1000, 1), unit='円')
    """
    clean = _clean(text)
    if clean is None or _EXPRESSION.search(clean):
        return None
    stated: Quantity | None = None
    for match in _matches(clean):
        quantity = _quantity(match)
        if quantity is None:
            return None
        if stated is None or stated.unit is None:
            stated, quantity = quantity, stated or quantity
        if quantity.value != stated.value or quantity.unit not in (None, stated.unit):
            return None
    return stated


def reply_of(text: str, tags: TagFormat) -> str:
    """What stands inside the reply tags, "" if that is unclear.

    Both tags occur once, and no thought is open around them. Text around the pair is left to
    the format rewards, so that it is not charged twice.
    """
    open_thought, close_thought, open_reply, close_reply = tags.tags
    if text.count(open_reply) != 1 or text.count(close_reply) != 1:
        return ""
    start, end = text.index(open_reply), text.index(close_reply)
    opened, closed = text.rfind(open_thought), text.rfind(close_thought)
    if start > end or opened > closed or closed > start:
        return ""
    return text[start + len(open_reply) : end].strip()


def _rows(
    completions: Sequence[Completion], tags: TagFormat, answer: Sequence[Any] | None
) -> Iterator[tuple[str, str | None]]:
    references = [None] * len(completions) if answer is None else answer
    for completion, reference in zip(completions, references, strict=True):
        is_open = reference is None or reference != reference or not str(reference).strip()
        yield reply_of(completion_text(completion), tags), None if is_open else str(reference)


def _is_whole(text: str) -> bool:
    stated = stated_quantity(text)
    return stated is not None and stated.value.denominator == 1


def _plain_quantity(text: str) -> Quantity | None:
    clean = _clean(text)
    match = _QUANTITY.match(clean) if clean else None
    return _quantity(match) if match and match.end() == len(match.string) else None


def _folded(text: str) -> str:
    # A raised or lowered character stays apart from a plain one: x² is not x2.
    text = text.strip()[:MAX_ANSWER_CHARACTERS]
    marked = "".join(f"^{char}" if _is_raised(char) else char for char in text)
    folded = " ".join(normalize("NFKC", marked).casefold().split()).strip(_OUTER).rstrip(". ")
    return _POLITE.sub("", folded).strip(_OUTER) or folded


def _is_raised(char: str) -> bool:
    return decomposition(char).startswith(("<super>", "<sub>"))


def _clean(text: str) -> str | None:
    # NFKC would make a plain 2 of x² and a 3 of ③, so those are looked for first.
    text = text.strip()
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    text = _SQUARE_UNIT.sub(lambda match: _SQUARES[match[2]] + match[1], text)
    text = text.translate(_ONE_CHARACTER)
    if any(map(_is_odd_numeral, set(text))):
        return None
    text = normalize("NFKC", text).casefold().replace("**", " ")
    return " ".join(text.split()).strip(_OUTER).rstrip(". ")


def _is_odd_numeral(char: str) -> bool:
    # ², ③, Ⅳ, ㋀, ٣: numerals of some kind, but no digit that a number is written with.
    if char in _NUMERALS:
        return False
    origin = decomposition(char)
    if category(char).startswith("N"):
        return not origin.startswith(("<wide>", "<font>"))
    return origin.startswith("<") and any(part in _NUMERALS for part in normalize("NFKC", char))


def _matches(text: str) -> Iterator[re.Match[str]]:
    position = 0
    while match := _QUANTITY.search(text, position):
        idiom = _IDIOM.search(text, position, match.end() + 3)
        if idiom and idiom.start() <= match.start("number") < idiom.end():
            position = idiom.end()
        else:
            yield match
            position = match.end()


def _quantity(match: re.Match[str]) -> Quantity | None:
    value = _magnitude(match["number"])
    if match["second"] and value is not None:
        second = _magnitude(match["second"])
        over, under = (second, value) if "分" in match["joint"] else (value, second)
        value = over / under if over is not None and under else None
    if value is None or _is_changed(match) or _is_part_of_word(match):
        return None
    if match["minus"] and match["inner"]:
        return None
    name = match["unit"] or match["currency"] or match["other"]
    if match["unit"] and match["currency"] and _UNITS[match["unit"]] != _UNITS[match["currency"]]:
        return None
    negative = match["minus"] or match["inner"]
    return Quantity(-value if negative else value, _UNITS.get(name, name) if name else None)


def _is_changed(match: re.Match[str]) -> bool:
    # Whether what stands right beside the quantity makes another one of it, or none.
    text, (start, end) = match.string, match.span()
    before, after = _char(text, start - 1), _char(text, end)
    if before in _BAD_BEFORE or after in _BAD_AFTER or after in _NUMERAL_SET:
        return True
    if _joins_number(before) or _joins_number(after):
        return True
    if after == "の" and not (match["unit"] or match["other"]):
        return True
    if _CHANGES_NUMBER_AHEAD.match(text, end):
        return True
    return bool(_CHANGES_NUMBER_BEHIND.search(text, max(0, start - _LONGEST_CHANGE_BEHIND), start))


def _char(text: str, position: int) -> str:
    # A space stands for what is beyond either end.
    return text[position] if 0 <= position < len(text) else " "


def _joins_number(char: str) -> bool:
    # Letters of other scripts, combining marks, and what nobody sees.
    kind = category(char)
    return kind == "Cf" or (kind[0] in "LMN" and not _JAPANESE.match(char))


def _is_part_of_word(match: re.Match[str]) -> bool:
    # Kanji numerals make words (三日月, 世界一), so they need more room than digits do.
    if any(char in _DIGITS for char in match["number"]) or match["second"]:
        return False
    before, after = (_char(match.string, at) for at in (match.start() - 1, match.end()))
    if _IS_KANJI.match(match["other"] or after):
        return True
    follows_word = _IS_KANJI.match(before) and before not in _BEFORE_KANJI_NUMBER
    return bool(follows_word) and not match["unit"]


def _magnitude(run: str) -> Fraction | None:
    """The value of a numeral in digits, kanji or both, None if it is malformed or too long."""
    if len(run) > MAX_NUMERAL_CHARACTERS:
        return None
    total, section = Fraction(0), Fraction(0)
    number: Fraction | None = None
    small_limit, large_limit = 10**4, 10**16
    for piece in _PIECE.finditer(run):
        unit = piece["unit"]
        if unit is None:
            if piece["unknown"] or number is not None:
                return None
            number = Fraction("".join(_KANJI_DIGITS.get(c, c) for c in piece[0].replace(",", "")))
        elif unit in _SMALL_UNITS:
            factor = _SMALL_UNITS[unit]
            if factor >= small_limit or not 1 <= (1 if number is None else number) < 10:
                return None
            section += factor if number is None else number * factor
            small_limit, number = factor, None
        else:
            factor, amount = _LARGE_UNITS[unit], _sum(section, number, small_limit)
            if not amount or factor >= large_limit or amount * factor >= large_limit:
                return None
            total, section, number = total + amount * factor, Fraction(0), None
            small_limit, large_limit = 10**4, factor
    rest = _sum(section, number, small_limit)
    if rest is None or (total and rest >= large_limit):
        return None
    return total + rest


def _sum(section: Fraction, number: Fraction | None, limit: int) -> Fraction | None:
    # 百五 is 105, but 百二十三百 is nothing: what follows a unit is smaller than it.
    if number is None:
        return section
    return None if section and number >= limit else section + number
