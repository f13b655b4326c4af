"""What the model said during training, as it is read back and shown."""

import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import HTML, Checkbox, Dropdown, HBox, SelectionSlider
from tensorboard.plugin_util import markdown_to_safe_html

from sarashina_grpo import completions
from sarashina_grpo.completions import as_html, as_markdown, browse, read_step, steps
from sarashina_grpo.recipe import Recipe
from sarashina_grpo.recipes import get_recipe, recipe_names
from sarashina_grpo.rewards.language import distinct_thought_reward, japanese_reward

# Without the rewards for what stands in the tags, so that rows are short.
SMALLTALK, QA = (
    get_recipe(name).with_reward(japanese_reward, False).with_reward(distinct_thought_reward, False)
    for name in ("smalltalk", "qa")
)
QUESTION = "こんにちは"
# A completion and what it earns from each reward of a recipe.
Row = tuple[str, *tuple[float | None, ...]]

HOSTILE = {
    "a script": "<script>alert(1)</script>",
    "an image": "<img src=x onerror=alert(1)>",
    "the end of the cell": "</td></tr></table><h1>free</h1>",
    "the end of the block": "</code></pre>\n\n# free",
    "a fence": "```\n# free\n```",
    "an open fence": "~~~\n\n**free**",
    "headings": "# one\n\ntwo\n===",
    "a list": "- one\n\n1. two\n\n    three",
    "a table": "|a|b|\n|-|-|\n|c|d|",
    "a link": "[a]: javascript:alert(1)\n\n[a] ![b](c)",
    "a comment": "<!-- \n\n# free",
    "an instruction": "<?php\n\n# free ?>",
    "entities": "&lt;b&gt; &amp; &#60;b",
    "tabs": "\tone\n\t\ttwo",
    "blank lines": "\n\n# one\n \n\n\n# two\n\n",
    "all line breaks": "# a".join(
        ["\n", "\r", "\r\n", *"\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", ""]
    ),
    "control characters": "\x00\x02\x03\x1b[31m\x7f\ufeff\u202e",
    "nothing": "",
    "white space": " \n\t ",
    "lone surrogates": "a\ud800\n# \udfff",
    "a hundred thousand characters": "<b>" * 33_333,
    "ten thousand lines": "# a\n" * 10_000,
}
ANY_TEXT = st.text(st.characters(exclude_categories=()))


def table_of(recipe: Recipe, step: int, *rows: Row, prompt: str | None = None) -> pd.DataFrame:
    """The columns of a step in TRL's order; a reward that does not apply is NaN to TRL."""
    prompts = [recipe.system_prompt + QUESTION if prompt is None else prompt] * len(rows)
    rewards = {
        name: [math.nan if row[number] is None else row[number] for row in rows]
        for number, name in enumerate(recipe.reward_names, start=1)
    }
    # As objects, which unlike pandas' strings may hold lone surrogates.
    texts = {"prompt": prompts, "completion": [row[0] for row in rows]}
    columns = {"step": [step] * len(rows)} | {
        name: pd.Series(values, dtype=object) for name, values in texts.items()
    }
    return pd.DataFrame({**columns, **rewards, "advantage": [0.5] * len(rows)})


def save(run_folder: Path, recipe: Recipe, step: int, *rows: Row) -> None:
    """Write a step's completions where TRL does."""
    folder = run_folder / "completions"
    folder.mkdir(parents=True, exist_ok=True)
    table_of(recipe, step, *rows).to_parquet(folder / f"completions_{step:05d}.parquet")


def scored(recipe: Recipe, *rows: Row, prompt: str | None = None) -> pd.DataFrame:
    """A step as `read_step` gives it, of texts that no file can hold too."""
    table = table_of(recipe, 1, *rows, prompt=prompt)
    return table.assign(reward=table[recipe.reward_names].sum(axis=1))


def smalltalk(*said: tuple[str, float]) -> pd.DataFrame:
    """Completions to one prompt, all of whose reward is the first one."""
    return scored(SMALLTALK, *((text, reward, 0.0, 0.0) for text, reward in said))


class Page(HTMLParser):
    """The tags of a page, its cells row by row, and the texts of its code blocks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.rows: list[list[str]] = []
        self.code: list[str] = []
        self.texts = [""]
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        text = self.texts.pop()
        if tag in ("td", "th"):
            self.rows[-1].append(text)
        elif tag == "code":
            self.code.append(text)


def cells(html: str) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns."""
    heads, *rows = Page(html).rows
    return [dict(zip(heads, row, strict=True)) for row in rows]


def shown_samples(markdown: str) -> list[str]:
    """The completions of `as_markdown`, in order, of texts in one line each."""
    return re.findall(r"^answered with\n\n    (.*)$", markdown, re.MULTILINE)


# Reading


def test_the_steps_that_are_saved_are_listed_in_order(tmp_path: Path) -> None:
    for step in (12, 3, 100_000, 99_999):
        save(tmp_path, SMALLTALK, step, ("a", 0.5, 0.0, 0.0))
    assert steps(tmp_path) == [3, 12, 99_999, 100_000]


@pytest.mark.parametrize("folder", ["", "completions"], ids=["no folder", "an empty folder"])
def test_without_completions_there_are_no_steps(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    assert steps(tmp_path) == []


@pytest.mark.parametrize("step", [1, 7, 99_999, 100_000])
def test_a_step_is_read_as_it_was_written(tmp_path: Path, step: int) -> None:
    rows: list[Row] = [("良い\n# <b>", 0.5, 0.5, 0.5), ("", 0.125, 0.0, 0.0)]
    save(tmp_path, SMALLTALK, step, *rows)
    table = read_step(tmp_path, step, SMALLTALK)
    assert table is not None
    assert table["completion"].tolist() == ["良い\n# <b>", ""]
    assert table["step"].tolist() == [step, step]
    assert table["prompt"].tolist() == [SMALLTALK.system_prompt + QUESTION] * 2
    assert table[SMALLTALK.reward_names].to_numpy().tolist() == [list(row[1:]) for row in rows]


@pytest.mark.parametrize("step", [0, 2, 11])
def test_a_step_that_was_not_saved_is_none(tmp_path: Path, step: int) -> None:
    assert read_step(tmp_path, step, SMALLTALK) is None
    save(tmp_path, SMALLTALK, 1, ("a", 0.5, 0.0, 0.0))
    assert read_step(tmp_path, step, SMALLTALK) is None


@pytest.mark.parametrize(
    ("rewards", "total"),
    [
        ((0.5, 0.5, 0.5, 0.5, 2.0), 4.0),
        ((0.0, 0.0, 0.0, 0.0, 0.0), 0.0),
        ((0.125, 0.0, 0.0, 0.0, 0.0), 0.125),
        ((-0.5, 0.5, 0.5, 0.0, 0.0), 0.5),
        ((0.5, 0.5, 0.5, None, None), 1.5),
        ((None, None, None, 0.5, None), 0.5),
        ((None, None, None, None, None), 0.0),
    ],
)
def test_the_reward_is_the_sum_of_those_that_apply(
    tmp_path: Path, rewards: tuple[float | None, ...], total: float
) -> None:
    save(tmp_path, QA, 1, ("a", *rewards), ("b", 1.0, 0.0, 0.0, 0.0, 0.0))
    table = read_step(tmp_path, 1, QA)
    assert table is not None
    assert table["reward"].tolist() == [total, 1.0]


# Markdown for TensorBoard


def check_markdown(text: str) -> None:
    """As a prompt and as a completion a text is code, whatever it is."""
    table = scored(SMALLTALK, (text, 0.5, 0.5, 0.5), ("good", 1.0, 0.0, 0.0), prompt=text)
    markdown = as_markdown(table, SMALLTALK)
    outside = [
        line for line in re.split("\r\n|\r|\n", markdown) if not line.startswith("    ") and line
    ]
    scores = [
        "**reward 1.500** = xmlcount_reward 0.5, soft_format_reward 0.5, strict_format_reward 0.5",
        "**reward 1.000** = xmlcount_reward 1, soft_format_reward 0, strict_format_reward 0",
    ]
    assert outside == [scores[0], "answered with", scores[1], "answered with"]
    inside = [line[4:] for line in markdown.split("\n") if line.startswith("    ")]
    assert inside == [*text.splitlines() * 3, "good"]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_stays_in_its_code_block(text: str) -> None:
    check_markdown(text)


@given(ANY_TEXT)
def test_any_text_stays_in_its_code_block(text: str) -> None:
    check_markdown(text)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "lone surrogates"])
def test_tensorboard_shows_a_hostile_text_as_code(name: str) -> None:
    text = HOSTILE[name]
    page = Page(markdown_to_safe_html(as_markdown(smalltalk((text, 0.5)), SMALLTALK)))
    assert page.tags <= {"p", "strong", "pre", "code"}
    assert page.attributes == set()
    assert page.code[0] == f"{QUESTION}\n"
    assert len(page.code) == (2 if text.strip() else 1)
    # It writes "?" for control characters, and spaces in its own way.
    visible, expected = (
        re.sub(r"[\s\x00-\x1f?]", "", each) for each in ("".join(page.code[1:]), text)
    )
    assert visible == expected


@pytest.mark.parametrize(
    ("rewards", "shown"),
    [
        ([0.3], "a"),
        ([0.1, 0.3], "ba"),
        ([0.3, 0.1, 0.2], "acb"),
        ([0.1, 0.5, 0.3, 0.2, 0.4], "bca"),
        ([0.3, 0.3, 0.3, 0.3, 0.3], "ace"),
        ([0.0, 0.5, 0.5, 0.0, 0.0], "bae"),
    ],
    ids=["one", "two", "three", "five", "five that tie", "ties above and below"],
)
def test_the_best_the_worst_and_one_between_are_shown_each_once(
    rewards: Sequence[float], shown: str
) -> None:
    markdown = as_markdown(smalltalk(*zip("abcde", rewards, strict=False)), SMALLTALK)
    assert "".join(shown_samples(markdown)) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(1, "a"), (2, "ae"), (3, "ace"), (5, "abcde"), (9, "abcde")]
)
def test_as_many_samples_are_shown_as_asked_for(count: int, shown: str) -> None:
    table = smalltalk(*zip("abcde", (5.0, 4.0, 3.0, 2.0, 1.0), strict=True))
    assert "".join(shown_samples(as_markdown(table, SMALLTALK, count))) == shown


def test_a_sample_says_what_it_earned_for_what() -> None:
    row: Row = ("hello", 0.484, 0.5, 0.0, 0.5, 2.0)
    assert as_markdown(scored(QA, row), QA) == (
        "**reward 3.484** = xmlcount_reward 0.484, soft_format_reward 0.5, "
        "strict_format_reward 0, int_reward 0.5, correctness_reward 2\n\n"
        f"    {QUESTION}\n\nanswered with\n\n    hello"
    )


# A table for the notebook


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("place", ["prompt", "thought", "reply", "malformed"])
def test_a_hostile_text_is_only_text_in_the_table(text: str, place: str) -> None:
    check_cell(text, place)


@given(ANY_TEXT, st.sampled_from(["prompt", "thought", "reply", "malformed"]))
def test_any_text_is_only_text_in_the_table(text: str, place: str) -> None:
    check_cell(text, place)


def check_cell(text: str, place: str) -> None:
    good = SMALLTALK.tags.render(f"-{text}-", f"-{text}-")
    said = f"{text}!" if place == "malformed" else good
    prompt = f"-{text}-" if place == "prompt" else QUESTION
    html = as_html(scored(SMALLTALK, (said, 0.5, 0.0, 0.0), prompt=prompt), SMALLTALK)
    page = Page(html)
    assert page.tags == {"div", "table", "tr", "th", "td"}
    assert page.attributes == {"style"}
    (row,) = cells(html)
    column = "reply" if place == "malformed" else place
    assert row[column] == (said if place == "malformed" else f"-{text}-")


def test_thought_and_reply_stand_apart() -> None:
    said = SMALLTALK.tags.render("雨だ。\n傘がいる。", "傘をどうぞ。\nでは。")
    (row,) = cells(as_html(smalltalk((said, 0.5)), SMALLTALK))
    assert row["thought"] == "雨だ。\n傘がいる。"
    assert row["reply"] == "傘をどうぞ。\nでは。"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "no tags",
        " outer white space ",
        "<think>雨</think>",
        "<think>雨</think>\n<response></response>",
        "<think></think>\n<response>傘</response>",
        "<think>雨</think>\n<response>傘</response> after",
        "<response>傘</response>\n<think>雨</think>",
        QA.tags.render("雨", "傘"),
    ],
)
def test_a_malformed_completion_is_shown_as_it_is(said: str) -> None:
    (row,) = cells(as_html(smalltalk((said, 0.5)), SMALLTALK))
    assert (row["thought"], row["reply"]) == ("(not in the format)", said)


def test_the_table_has_a_column_a_reward_after_their_sum() -> None:
    html = as_html(scored(QA, ("a", 0.484, 0.5, 0.0, None, 2.0)), QA)
    assert Page(html).rows == [
        [
            "prompt",
            "thought",
            "reply",
            "reward",
            "xmlcount",
            "soft_format",
            "strict_format",
            "int",
            "correctness",
        ],
        [QUESTION, "(not in the format)", "a", "2.98", "0.484", "0.5", "0", "–", "2"],
    ]


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("{system}{question}", "{question}"),
        ("{system}\n\n{question}\n", "{question}"),
        ("<|system|>{system}<|user|>{question}", "<|user|>{question}"),
        ("{question}", "{question}"),
        (" {question}\n", " {question}\n"),
        ("{system}", "{system}"),
        ("{system}\n", "{system}\n"),
        ("{question}{system}", "{question}"),
        ("{system}{system}", "{system}"),
        ("{cut}{question}", "{cut}{question}"),
        ("", ""),
    ],
)
def test_the_system_prompt_is_taken_off_where_something_else_is_left(
    name: str, written: str, shown: str
) -> None:
    recipe = get_recipe(name)
    system = recipe.system_prompt
    texts = {"system": system, "cut": system[:-1], "question": QUESTION}
    row: Row = ("a", *([0.5] * len(recipe.rewards)))
    table = scored(recipe, row, prompt=written.format(**texts))
    expected = shown.format(**texts)
    (cell,) = cells(as_html(table, recipe))
    assert cell["prompt"] == expected
    indented = "\n".join(f"    {line}" for line in expected.splitlines())
    assert f"\n\n{indented}\n\nanswered with" in as_markdown(table, recipe)


# The panel


class Panel:
    """The controls of `browse`, and what its table shows."""

    def __init__(self, run_folder: Path, recipe: Recipe) -> None:
        controls, table = browse(run_folder, recipe).children
        assert isinstance(controls, HBox)
        assert isinstance(table, HTML)
        self.table = table
        self.step, self.order, self.ascending = controls.children
        kinds = [type(control) for control in controls.children]
        assert kinds == [SelectionSlider, Dropdown, Checkbox]

    @property
    def shown(self) -> str:
        """The completions of the table from top to bottom, a letter each."""
        return "".join(row["reply"] for row in cells(self.table.value))


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    """Three steps; in the last one each reward has an order of its own, and a tie."""
    save(tmp_path, SMALLTALK, 2, ("p", 0.5, 0.0, 0.0))
    save(tmp_path, SMALLTALK, 10, ("x", 0.0, 0.0, 0.0), ("y", 0.5, 0.5, 0.5))
    save(tmp_path, SMALLTALK, 9, ("m", 0.0, 0.0, 0.0), ("n", 0.0, 0.0, 0.0))
    save(
        tmp_path,
        SMALLTALK,
        30,
        ("a", 0.125, 0.5, 0.0),
        ("b", 0.5, 0.0, 0.5),
        ("c", 0.25, 0.5, 0.5),
        ("d", 0.375, 0.0, 0.0),
        ("e", 0.125, 0.5, 0.0),
    )
    return Panel(tmp_path, SMALLTALK)


def test_the_panel_opens_at_the_last_step_with_the_best_on_top(panel: Panel) -> None:
    assert panel.step.options == (2, 9, 10, 30)
    assert (panel.step.value, panel.order.value, panel.ascending.value) == (30, "reward", False)
    assert panel.shown == "cbaed"


@pytest.mark.parametrize(("step", "shown"), [(2, "p"), (9, "mn"), (10, "yx"), (30, "cbaed")])
def test_the_slider_moves_to_another_step(panel: Panel, step: int, shown: str) -> None:
    panel.step.value = 2
    panel.step.value = step
    assert panel.shown == shown


@pytest.mark.parametrize(
    ("order", "highest_first", "lowest_first"),
    [
        ("reward", "cbaed", "daebc"),
        ("xmlcount_reward", "bdcae", "aecdb"),
        ("soft_format_reward", "acebd", "bdace"),
        ("strict_format_reward", "bcade", "adebc"),
    ],
)
def test_the_table_is_sorted_by_the_chosen_reward_and_ties_keep_their_order(
    panel: Panel, order: str, highest_first: str, lowest_first: str
) -> None:
    assert order in panel.order.options
    panel.order.value = order
    assert panel.shown == highest_first
    panel.ascending.value = True
    assert panel.shown == lowest_first
    panel.ascending.value = False
    assert panel.shown == highest_first


def test_the_order_stays_when_the_slider_moves(panel: Panel) -> None:
    panel.order.value = "xmlcount_reward"
    panel.ascending.value = True
    panel.step.value = 10
    assert panel.shown == "xy"
    panel.step.value = 30
    assert panel.shown == "aecdb"


@pytest.mark.parametrize("recipe", [SMALLTALK, QA], ids=lambda recipe: recipe.name)
def test_the_panel_sorts_by_the_sum_and_by_each_reward_of_the_recipe(
    tmp_path: Path, recipe: Recipe
) -> None:
    save(tmp_path, recipe, 1, ("a", *([0.5] * len(recipe.rewards))))
    panel = Panel(tmp_path, recipe)
    assert list(panel.order.options) == ["reward", *recipe.reward_names]


@pytest.mark.parametrize("lowest_first", [False, True])
def test_what_a_reward_does_not_apply_to_comes_last(tmp_path: Path, lowest_first: bool) -> None:
    open_question: Row = ("o", 0.5, 0.5, 0.5, None, None)
    answered: Row = ("w", 0.5, 0.5, 0.5, 0.5, 0.0)
    save(tmp_path, QA, 1, open_question, answered)
    panel = Panel(tmp_path, QA)
    panel.order.value = "int_reward"
    panel.ascending.value = lowest_first
    assert panel.shown == "wo"


@pytest.mark.parametrize("folder", ["", "completions"], ids=["no folder", "an empty folder"])
def test_without_completions_one_sentence_says_where_they_were_looked_for(
    tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    shell = InteractiveShell(user_ns={"browse": lambda: browse(tmp_path, SMALLTALK)})
    result = shell.run_cell("browse()")
    assert isinstance(result.error_in_exec, completions.CompletionsError)
    looked_in = tmp_path / "completions"
    expected = f"CompletionsError: {looked_in} holds no completions: train first"
    assert capsys.readouterr().out.strip() == expected
