"""The tags: what renders, what parses, and what is said of the rest."""

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sarashina_grpo.tags import Parsed, TagFormat

INLINE = TagFormat("think", "response")
BLOCK = TagFormat("reasoning", "answer", layout="block")
FORMATS = pytest.mark.parametrize("tags", [INLINE, BLOCK], ids=["inline", "block"])
MEGABYTE = 1_000_000
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FRAGMENTS = [*INLINE.tags, *BLOCK.tags, "<", ">", "</", "think", "\n", " ", "雨", "Hi!", "\u3000"]
tag_soup = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=12).map("".join)


@st.composite
def contents(draw: st.DrawFn) -> str:
    """A text without tags that shows a visible character."""
    text = draw(tag_soup) + draw(st.sampled_from("雨aé1.<")) + draw(tag_soup)
    for tag in (*INLINE.tags, *BLOCK.tags):
        while tag in text:
            text = text.replace(tag, "☂")
    return text


@FORMATS
@patient
@given(thought=contents(), reply=contents())
def test_what_is_rendered_parses_to_its_stripped_contents(
    tags: TagFormat, thought: str, reply: str
) -> None:
    assert tags.parse(tags.render(thought, reply)) == Parsed(thought.strip(), reply.strip())


@FORMATS
@patient
@given(thought=contents(), reply=contents())
def test_what_is_rendered_stands_in_the_layout(tags: TagFormat, thought: str, reply: str) -> None:
    assert tags.parses_in_layout(tags.render(thought, reply))


@FORMATS
@patient
@given(text=tag_soup)
def test_the_checks_agree_from_strict_to_lenient(tags: TagFormat, text: str) -> None:
    strict, parsed = tags.parses_in_layout(text), tags.parse(text) is not None
    assert parsed or not strict
    assert tags.opens_with_pair(text) or not parsed
    assert tags.explain(text).startswith("well-formed") == parsed
    assert (tags.explain(text) == "well-formed") == strict


@FORMATS
@patient
@given(text=st.text(st.characters()) | tag_soup)
def test_outer_white_space_changes_nothing(tags: TagFormat, text: str) -> None:
    padded = f"\n \u3000{text}\t\n"
    assert tags.parse(padded) == tags.parse(text)
    assert tags.opens_with_pair(padded) == tags.opens_with_pair(text)


@pytest.mark.parametrize(
    ("tags", "rendered"),
    [
        (INLINE, "<think>rain</think>\n<response>Hi!</response>"),
        (BLOCK, "<reasoning>\nrain\n</reasoning>\n<answer>\nHi!\n</answer>"),
    ],
    ids=["inline", "block"],
)
def test_each_layout_is_written_in_its_own_way(tags: TagFormat, rendered: str) -> None:
    assert tags.render("rain", "Hi!") == rendered


def test_the_tags_are_given_in_the_order_they_are_written() -> None:
    assert INLINE.tags == ("<think>", "</think>", "<response>", "</response>")


@pytest.mark.parametrize(
    "text",
    [
        "<think>rain</think><response>Hi!</response>",
        "<think>rain</think>\n\n \u3000\n<response>Hi!</response>",
        "  \n<think>rain</think>\n<response>Hi!</response>\n\n",
        "<think>\nrain\n</think>\r\n<response> Hi! </response>",
    ],
    ids=["nothing between", "white space between", "white space around", "white space within"],
)
def test_white_space_is_free_when_parsing(text: str) -> None:
    assert INLINE.parse(text) == Parsed("rain", "Hi!")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("<think>a\nb\n\nc</think>\n<response>d\ne</response>", Parsed("a\nb\n\nc", "d\ne")),
        ("<think>a < b</think>\n<response>c > d</response>", Parsed("a < b", "c > d")),
        ("<think><b>a</b></think>\n<response>d</response>", Parsed("<b>a</b>", "d")),
        ("<think>a</think>\n<response>1 / 2</response>", Parsed("a", "1 / 2")),
    ],
    ids=["several lines", "angle brackets", "other tags", "slash"],
)
def test_contents_may_be_any_text(text: str, parsed: Parsed) -> None:
    assert INLINE.parse(text) == parsed


GOOD = INLINE.render("rain", "Hi!")
MALFORMED = {
    "empty text": ("", "opening <think> missing"),
    "no tags": ("Hi!", "opening <think> missing"),
    "thought only": ("<think>rain</think>", "opening <response> missing"),
    "reply only": ("<response>Hi!</response>", "opening <think> missing"),
    "thought unclosed": ("<think>rain<response>Hi!</response>", "closing </think> missing"),
    "reply unclosed": ("<think>rain</think><response>Hi!", "closing </response> missing"),
    "twice": (GOOD + GOOD, "<think> occurs 2 times"),
    "two replies": (GOOD + "<response>Hi!</response>", "<response> occurs 2 times"),
    "tag in the thought": (
        "<think>so </think> it is</think><response>Hi!</response>",
        "</think> occurs 2 times",
    ),
    "reply first": ("<response>Hi!</response>\n<think>rain</think>", "tags out of order"),
    "nested": ("<think>rain<response>Hi!</response></think>", "tags out of order"),
    "closed before opened": ("</think>rain<think><response>Hi!</response>", "tags out of order"),
    "text before": ("Well: " + GOOD, "text before <think>"),
    "text between": (
        "<think>a</think> so <response>b</response>",
        "text between </think> and <response>",
    ),
    "text before and between": (
        "Well: <think>a</think> so <response>b</response>",
        "text before <think>; text between </think> and <response>",
    ),
    "text after": (GOOD + "!!!", "3 characters after </response>"),
    "a character after": (GOOD + "!", "1 character after </response>"),
    "empty thought": ("<think></think>\n<response>Hi!</response>", "empty thought"),
    "empty reply": ("<think>rain</think>\n<response></response>", "empty reply"),
    "empty pair": ("<think></think>\n<response></response>", "empty thought and reply"),
    "blank thought": ("<think> \n\u3000</think>\n<response>Hi!</response>", "empty thought"),
    "upper case": ("<THINK>rain</THINK>\n<response>Hi!</response>", "opening <think> missing"),
    "spaced tag": ("< think >rain</think>\n<response>Hi!</response>", "opening <think> missing"),
    "tag with attribute": (
        "<think a=1>rain</think>\n<response>b</response>",
        "opening <think> missing",
    ),
    "full-width tag": (
        "＜think＞rain</think>\n<response>Hi!</response>",
        "opening <think> missing",
    ),
}


@pytest.mark.parametrize(("text", "why"), MALFORMED.values(), ids=MALFORMED)
def test_anything_else_does_not_parse_and_is_explained(text: str, why: str) -> None:
    assert INLINE.parse(text) is None
    assert not INLINE.parses_in_layout(text)
    assert INLINE.explain(text) == why


@pytest.mark.parametrize(
    "blank",
    [
        "\u00a0",
        "\u00ad",
        "\u115f",
        "\u200b",
        "\u200d\u200d",
        "\u2028",
        "\u2800",
        "\u3164",
        "\ufeff",
        "\uffa0",
        "\x00\x07",
        "\ufe0f",
        "\u034f",
        "\u180b",
        "\U000e0100",
    ],
    ids=[
        "no-break space",
        "soft hyphen",
        "Hangul choseong filler",
        "zero-width space",
        "zero-width joiners",
        "line separator",
        "empty Braille cell",
        "Hangul filler",
        "byte order mark",
        "half-width Hangul filler",
        "control characters",
        "variation selector 16",
        "combining grapheme joiner",
        "Mongolian variation selector",
        "variation selector 17",
    ],
)
def test_contents_that_show_nothing_count_as_empty(blank: str) -> None:
    assert INLINE.parse(INLINE.render(blank, "Hi!")) is None
    assert INLINE.parse(INLINE.render("rain", blank)) is None


@pytest.mark.parametrize("visible", ["x", "。", "🌧", "é", "e\u0301", "؟", "0", "　雨　"])
def test_one_visible_character_is_content(visible: str) -> None:
    assert INLINE.parse(INLINE.render(visible, visible)) == Parsed(*[visible.strip()] * 2)


@pytest.mark.parametrize(
    ("text", "opens"),
    [
        (GOOD, True),
        (GOOD + " and more", True),
        (GOOD + GOOD, True),
        ("\n" + GOOD, True),
        ("Well: " + GOOD, False),
        (GOOD.replace("</response>", ""), False),
        ("<think></think><response>Hi!</response>", False),
        ("<response>Hi!</response><think>rain</think>", False),
        ("<think>a<think>b</think><response>c</response>", False),
        ("<think>a</think>b</think><response>c</response>", False),
    ],
    ids=[
        "well-formed",
        "text after",
        "a second pair after",
        "white space before",
        "text before",
        "unclosed",
        "empty thought",
        "reply first",
        "tag in the thought",
        "text between",
    ],
)
def test_a_text_opens_with_the_pair_whatever_comes_after(text: str, opens: bool) -> None:
    assert INLINE.opens_with_pair(text) is opens


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        (INLINE, "<think>a</think><response>b</response>"),
        (INLINE, "<think>a</think>\n\n<response>b</response>"),
        (INLINE, "<think>a</think> \n<response>b</response>"),
        (BLOCK, "<reasoning>a</reasoning>\n<answer>b</answer>"),
        (BLOCK, "<reasoning>\na\n</reasoning>\n\n<answer>\nb\n</answer>"),
        (BLOCK, "<reasoning>\na</reasoning>\n<answer>\nb\n</answer>"),
        (BLOCK, "<reasoning>\na\n</reasoning>\n<answer>b\n</answer>"),
    ],
    ids=[
        "inline, nothing between",
        "inline, empty line between",
        "inline, space between",
        "block written inline",
        "block, empty line between",
        "block, thought closed on its line",
        "block, reply opened on its line",
    ],
)
def test_a_text_may_parse_without_standing_in_the_layout(tags: TagFormat, text: str) -> None:
    assert tags.parse(text) == Parsed("a", "b")
    assert not tags.parses_in_layout(text)


@pytest.mark.parametrize(
    "name", ["", "<think>", "two words", "1st", "考え", "a/b", "think\n", None]
)
@pytest.mark.parametrize("field", ["thought", "reply"])
def test_a_tag_that_is_not_a_plain_name_is_refused(field: str, name: str) -> None:
    names: dict[str, Any] = {"thought": "think", "reply": "response", field: name}
    with pytest.raises(ValueError, match=f"^{field} tag must be") as refused:
        TagFormat(**names)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("name", ["a", "think", "step-1", "inner_voice", "Think2"])
def test_a_plain_name_is_accepted(name: str) -> None:
    assert TagFormat(name, "response").parse(f"<{name}>a</{name}><response>b</response>")


def test_equal_tags_are_refused() -> None:
    with pytest.raises(ValueError, match="different tags, got 'think' twice"):
        TagFormat("think", "think")


def test_an_unknown_layout_is_refused() -> None:
    layout: Any = "table"
    with pytest.raises(ValueError, match=r"'inline', 'block'.*got 'table'"):
        TagFormat("think", "response", layout=layout)


@pytest.mark.parametrize(
    "unit", ["<think>", "</response>", "<", "<think></think>", GOOD, " ", "\u200b"]
)
def test_a_megabyte_is_read_in_seconds(unit: str) -> None:
    text = "<think>" + unit * (MEGABYTE // len(unit))
    start = time.perf_counter()
    assert INLINE.parse(text) is None
    assert INLINE.explain(text) != "well-formed"
    assert time.perf_counter() - start < 5
