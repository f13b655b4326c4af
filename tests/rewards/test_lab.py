"""The reward lab: totals, reasons in words, and no exploit as good as an ideal completion."""

import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from sarashina_grpo.recipe import Recipe
from sarashina_grpo.recipes import get_recipe, recipe_names
from sarashina_grpo.rewards.exploits import content_exploits, exploits, ideal, question
from sarashina_grpo.rewards.format import TAG_POINTS, soft_format_reward
from sarashina_grpo.rewards.lab import explain, highlight
from sarashina_grpo.tags import TagFormat

SMALLTALK = get_recipe("smalltalk")
QA = get_recipe("qa")
OPEN, CLOSE, REPLY, END = SMALLTALK.tags.tags
IDEAL = ideal(SMALLTALK)
EXPLOITS = exploits(SMALLTALK)
ANSWER = "3"
HIGHEST = {"smalltalk": 3.5, "qa": 4.2}
LEAST_EXPLOITS = 40
LONG_REPLY = (  # in which nothing comes twice
    "いろはにほへとちりぬるをわかよたれそつねならむうゐのおくやまけふこえてあさきゆめみしゑひもせす"
    "アイウエオカキクケコサシスセソタチツテト"
)

UNUSUAL = replace(
    SMALLTALK,
    tags=TagFormat("Step-1", "OUT_", layout="block"),
    example=("Sunny.", "Nice weather!"),
    instructions="",
    scenes=(),
)
EACH_RECIPE = pytest.mark.parametrize(
    "recipe",
    [*map(get_recipe, recipe_names()), UNUSUAL],
    ids=[*recipe_names(), "unusual"],
)


def answer_for(recipe: Recipe) -> str | None:
    return ANSWER if recipe.source.answer_column else None


def each(make: Callable[..., dict[str, str]]) -> Iterator[Any]:
    """Every exploit that `make` knows, a case a recipe and name."""
    for recipe in map(get_recipe, recipe_names()):
        for name in make(recipe, answer_for(recipe)):
            yield pytest.param(recipe, name, id=f"{recipe.name}-{name}")


def explain_one(text: str, recipe: Recipe, answer: str | None = None) -> pd.Series:
    return explain([text], recipe, [answer]).iloc[0]


def assert_below_ideal(exploit: str, recipe: Recipe) -> None:
    answer = answer_for(recipe)
    texts = [ideal(recipe, answer), exploit]
    best, total = explain(texts, recipe, [answer] * 2, question(recipe))["total"]
    assert total < best


def test_the_table_has_a_row_a_text_and_a_column_a_reward() -> None:
    table = explain([IDEAL, "雨"], SMALLTALK)
    assert list(table.columns) == ["text", *SMALLTALK.reward_names, "total", "why"]
    assert table["text"].tolist() == [IDEAL, "雨"]


@EACH_RECIPE
def test_the_total_is_the_sum_of_the_rewards_as_they_count(recipe: Recipe) -> None:
    texts = [ideal(recipe), *exploits(recipe).values()]
    first, *others = recipe.reward_names
    for weights in ({}, {first: 3.0}):
        weighted = replace(recipe, reward_weights=weights)
        table = explain(texts, weighted, [answer_for(recipe)] * len(texts)).fillna(0.0)
        for _, row in table.iterrows():
            total = weights.get(first, 1.0) * row[first] + sum(row[name] for name in others)
            assert row["total"] == pytest.approx(total)
        assert table["total"].nunique() > 3


def test_the_scores_are_those_of_training() -> None:
    texts = list(EXPLOITS.values())
    table = explain(texts, SMALLTALK)
    for reward in SMALLTALK.reward_funcs:
        points = reward(completions=texts, prompts=[SMALLTALK.system_prompt] * len(texts))
        shown = table[reward.__name__]
        assert [None if math.isnan(each) else each for each in shown] == points


def test_a_reward_that_does_not_apply_is_left_out_of_the_total() -> None:
    table = explain([ideal(QA, ANSWER)] * 2, QA, [ANSWER, None])
    assert table["correctness_reward"].isna().tolist() == [False, True]
    assert table["total"].tolist() == pytest.approx([4.2, 1.7])
    assert explain([ideal(QA)], QA)["total"].tolist() == pytest.approx([1.7])


def test_an_answer_is_needed_for_each_text() -> None:
    with pytest.raises(ValueError, match="shorter"):
        explain([IDEAL, IDEAL], QA, [ANSWER])


def test_no_texts_make_an_empty_table() -> None:
    assert explain([], SMALLTALK).empty
    assert "why" in highlight(explain([], SMALLTALK)).to_html()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (IDEAL, "well-formed"),
        (f"  {IDEAL}\n", "well-formed"),
        (IDEAL.replace("\n", ""), "well-formed, but not in the inline layout"),
        ("傘", f"opening {OPEN} missing"),
        (EXPLOITS["unclosed thought"], f"closing {CLOSE} missing"),
        (EXPLOITS["unclosed reply"], f"closing {END} missing"),
        (EXPLOITS["duplicated start"], f"{OPEN} occurs 2 times"),
        (EXPLOITS["tag spam"], f"{OPEN} occurs 50 times"),
        (EXPLOITS["thought in the reply"], "tags out of order"),
        (EXPLOITS["empty tags"], "empty thought and reply"),
        (EXPLOITS["empty thought"], "empty thought"),
        (EXPLOITS["text before"], f"text before {OPEN}"),
        (EXPLOITS["text between"], f"text between {CLOSE} and {REPLY}"),
        (f"{IDEAL}。", f"1 character after {END}: −0.001"),
        (f"{IDEAL}そして ", f"3 characters after {END}: −0.003"),
        (f"{IDEAL}以上です", f"4 characters after {END}: −0.004"),
        (IDEAL + "あ" * 500, f"500 characters after {END}: −0.500"),
        (IDEAL + "あ" * 9999, f"9999 characters after {END}: −0.500"),
        (f"はい。{IDEAL}以上", f"text before {OPEN}; 2 characters after {END}: −0.002"),
        (f"傘{END}さて", f"opening {OPEN} missing; 2 characters after {END}: −0.002"),
        (f"傘{END}{'あ' * 999}", f"opening {OPEN} missing; 999 characters after {END}: −0.125"),
        (f"{IDEAL}\n{IDEAL}", f"{OPEN} occurs 2 times"),
    ],
)
def test_a_fault_is_told_in_words_with_what_trailing_text_costs(text: str, why: str) -> None:
    assert explain_one(text, SMALLTALK)["why"] == why


@EACH_RECIPE
def test_the_cost_told_is_what_the_reward_for_tags_takes_off(recipe: Recipe) -> None:
    for text in exploits(recipe).values():
        row = explain_one(text, recipe)
        earned = TAG_POINTS * sum(text.count(tag) == 1 for tag in recipe.tags.tags)
        told = re.search(r"−(\d\.\d{3})", row["why"])
        cost = float(told[1]) if told else 0.0
        assert cost == pytest.approx(earned - row["xmlcount_reward"])


def test_no_cost_is_told_where_no_reward_takes_it() -> None:
    recipe = replace(SMALLTALK, rewards=(soft_format_reward,))
    assert explain_one(f"{IDEAL}以上です", recipe)["why"] == f"4 characters after {END}"


@pytest.mark.parametrize(
    ("reply", "answer", "why"),
    [
        ("4", "4", "well-formed; right answer"),
        ("答えは４個です。", "4", "well-formed; right answer"),
        ("3", "4", "well-formed; answer '3' is not 4"),
        ("4円", "4個", "well-formed; answer '4円' is not 4個"),
        ("3, 4", "4", "well-formed; 3, 4: more than one value"),
        ("３か４か３", "4", "well-formed; 3, 4: more than one value"),
        ("1,000または2.5", "4", "well-formed; 1,000, 2.5: more than one value"),
        ("三か四", "4", "well-formed; '三か四': no single value"),
        ("4ではない", "4", "well-formed; '4ではない': no single value"),
        ("わかりません", "4", "well-formed; 'わかりません': no single value"),
        ("木曜日", "水曜日", "well-formed; answer '木曜日' is not 水曜日"),
        ("水曜日です。", "水曜日", "well-formed; right answer"),
        (LONG_REPLY, "水曜日", f"well-formed; answer '{LONG_REPLY[:60]}…' is not 水曜日"),
        ("3, 4", None, "well-formed"),
        ("3, 4", " ", "well-formed"),
    ],
)
def test_what_was_compared_is_told(reply: str, answer: str | None, why: str) -> None:
    assert explain_one(QA.tags.render("順に考えて、確かめよう。", reply), QA, answer)["why"] == why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("3", "opening <reasoning> missing; no answer to compare"),
        (
            f"{ideal(QA, ANSWER)}以上です",
            "4 characters after </answer>: −0.004; right answer",
        ),
        (
            f"はい。{ideal(QA, '4')}",
            "text before <reasoning>; answer '4' is not 3",
        ),
        (
            QA.tags.render("順に考えて、確かめよう。", ANSWER).replace("<answer>\n", "<answer>"),
            "well-formed, but not in the block layout; right answer",
        ),
    ],
)
def test_the_format_and_the_answer_are_both_told(text: str, why: str) -> None:
    assert explain_one(text, QA, ANSWER)["why"] == why


@pytest.mark.parametrize(
    ("thought", "reply", "why"),
    [
        ("何を話そうか、よく考えよう。", "Sure, 何を話しましょうか。", "well-formed; 69% Japanese"),
        (
            "はい。",
            "今日は何を話しましょうか。",
            "well-formed; too short, too long or said before: −1.00",
        ),
        (
            "今日は何を話しましょうか。",
            "今日は何を話しましょうか。",
            "well-formed; too short, too long or said before: −1.00",
        ),
    ],
)
def test_what_stands_in_the_tags_is_told(thought: str, reply: str, why: str) -> None:
    assert explain_one(SMALLTALK.tags.render(thought, reply), SMALLTALK)["why"] == why


def test_a_recipe_that_compares_no_answers_tells_none() -> None:
    assert explain_one(IDEAL, SMALLTALK, "4")["why"] == "well-formed"


@pytest.mark.parametrize("unit", ["あ", END, "3, ", "<", "\u200b"])
def test_a_megabyte_is_explained_in_seconds(unit: str) -> None:
    text = QA.tags.render("順に考えて、確かめよう。", unit * (1_000_000 // len(unit)))
    start = time.perf_counter()
    assert len(explain_one(text, QA, ANSWER)["why"]) < 1000
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ('<img src="x" onerror="y">', "&lt;img src=&#34;x&#34; onerror=&#34;y&#34;&gt;"),
        ("&lt;", "&amp;lt;"),
        ("雨\n傘", "雨\n傘"),
    ],
)
def test_a_highlighted_text_is_shown_as_it_is(text: str, shown: str) -> None:
    page = highlight(explain([text], SMALLTALK)).to_html()
    assert f">{shown}</td>" in page
    assert f">opening {OPEN.replace('<', '&lt;').replace('>', '&gt;')} missing" in page


def test_names_of_rows_and_rewards_are_no_html_either() -> None:
    table = explain([IDEAL], SMALLTALK).set_axis(["<b>"])
    page = highlight(table.rename(columns={"total": "<lambda>"})).to_html()
    assert "<b>" not in page
    assert "<lambda>" not in page


def cell_styles(table: pd.DataFrame) -> pd.DataFrame:
    """The CSS of each cell of a highlighted table, by row and column."""
    styler = highlight(table)
    styler._compute()
    css = {
        place: "; ".join(": ".join(map(str, pair)) for pair in pairs)
        for place, pairs in styler.ctx.items()
    }
    return pd.DataFrame(
        [
            [css.get((row, column), "") for column in range(table.shape[1])]
            for row in range(len(table))
        ],
        columns=table.columns,
    )


def luminance(style: str) -> float:
    """How light the background is, 0 to 1."""
    found = re.search(r"background-color: #(\w\w)(\w\w)(\w\w)", style)
    assert found, style
    red, green, blue = (int(part, 16) / 255 for part in found.groups())
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_text_keeps_its_line_breaks() -> None:
    styles = cell_styles(explain([IDEAL], SMALLTALK))
    assert "white-space: pre-wrap" in styles["text"].item()
    assert "white-space: pre-wrap" in styles["why"].item()


@EACH_RECIPE
def test_a_background_comes_with_a_text_colour_that_is_read_on_it(recipe: Recipe) -> None:
    texts = [ideal(recipe), *exploits(recipe).values()]
    for style in cell_styles(explain(texts, recipe)).to_numpy().ravel():
        assert ("background-color" in style) == ("; color: #000000" in style)
        assert "background-color" not in style or luminance(style) > 0.5


def test_the_better_a_number_the_stronger_its_background_in_each_column() -> None:
    texts = [IDEAL, f"{IDEAL}{'あ' * 300}", EXPLOITS["unclosed reply"], ""]
    table = explain(texts, SMALLTALK)
    styles = cell_styles(table)
    for name in [*SMALLTALK.reward_names, "total"]:
        points = table[name].dropna()
        shown = styles[name][points.index].map(luminance)
        assert shown.rank(ascending=False).tolist() == points.rank().tolist()
    assert styles["total"][0] == styles["xmlcount_reward"][0]
    assert styles["total"][3] == styles["xmlcount_reward"][3]


def test_a_reward_below_zero_is_the_palest_of_its_column() -> None:
    table = explain([IDEAL, IDEAL], SMALLTALK).assign(total=[-1.0, 0.0])
    shown = cell_styles(table)["total"].map(luminance)
    assert shown[0] > shown[1]


@pytest.mark.parametrize("answer", [[None, ANSWER], [None, None]], ids=["one open", "all open"])
def test_a_reward_that_does_not_apply_is_a_dash_without_a_background(
    answer: list[str | None],
) -> None:
    table = explain([ideal(QA, ANSWER)] * 2, QA, answer)
    assert cell_styles(table)["correctness_reward"][0] == ""
    page = highlight(table).to_html()
    assert page.count(">–</td>") == 2 * answer.count(None)
    assert "nan" not in page


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        (ideal(QA, ANSWER), False),
        (ideal(QA, "4"), False),
        (ideal(QA, ANSWER).replace("<answer>\n", "<answer>"), True),
        (f"{ideal(QA, ANSWER)}以上です", True),
        ("3", True),
    ],
    ids=["right", "wrong", "not in the layout", "text after", "no tags"],
)
def test_why_is_marked_unless_the_format_is_kept(text: str, marked: bool) -> None:
    style = cell_styles(explain([text], QA, [ANSWER]))["why"].item()
    assert ("background-color" in style) == marked


@pytest.mark.parametrize("name", recipe_names())
def test_the_ideal_completion_earns_all_points(name: str) -> None:
    recipe = get_recipe(name)
    row = explain_one(ideal(recipe, answer_for(recipe)), recipe, answer_for(recipe))
    assert row["total"] == pytest.approx(HIGHEST[name])
    assert row["why"].startswith("well-formed")


@EACH_RECIPE
def test_the_ideal_completion_gives_the_answer_and_copies_no_example(recipe: Recipe) -> None:
    parsed = recipe.tags.parse(ideal(recipe, "42"))
    assert parsed is not None
    assert parsed.reply == "42"
    open_ended = recipe.tags.parse(ideal(recipe))
    assert open_ended is not None
    assert not set(open_ended) & set(recipe.example)


@EACH_RECIPE
def test_there_are_many_exploits_and_no_two_are_the_same(recipe: Recipe) -> None:
    answer = answer_for(recipe)
    malformed, well_formed = exploits(recipe, answer), content_exploits(recipe, answer)
    assert not malformed.keys() & well_formed.keys()
    texts = [*malformed.values(), *well_formed.values()]
    assert len(set(texts)) == len(texts)
    assert len(malformed) >= LEAST_EXPLOITS
    assert ideal(recipe, answer) not in texts


@EACH_RECIPE
def test_exploits_are_malformed_and_content_exploits_stand_in_the_layout(recipe: Recipe) -> None:
    answer = answer_for(recipe)
    for name, text in exploits(recipe, answer).items():
        assert recipe.tags.parse(text) is None, name
        assert not recipe.tags.explain(text).startswith("well-formed"), name
    for name, text in content_exploits(recipe, answer).items():
        assert recipe.tags.parses_in_layout(text), name


@pytest.mark.parametrize(("recipe", "name"), list(each(exploits)))
def test_no_exploit_earns_as_much_as_an_ideal_completion(recipe: Recipe, name: str) -> None:
    assert_below_ideal(exploits(recipe, answer_for(recipe))[name], recipe)


@pytest.mark.parametrize(("recipe", "name"), list(each(content_exploits)))
def test_poor_contents_earn_less_than_an_ideal_completion(recipe: Recipe, name: str) -> None:
    assert_below_ideal(content_exploits(recipe, answer_for(recipe))[name], recipe)


def test_the_lab_loads_no_training_library() -> None:
    code = "import sys, sarashina_grpo.rewards.lab; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "trl", "transformers", "unsloth"}.intersection(done.stdout.split())
