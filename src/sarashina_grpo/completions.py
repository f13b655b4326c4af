"""What the model said during training: TRL saves each step's completions, this shows them."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd

from sarashina_grpo.errors import UserError
from sarashina_grpo.recipe import Recipe

FOLDER = "completions"
CELL = (
    "text-align:left;vertical-align:top;white-space:pre-wrap;padding:4px 12px 4px 0;"
    "border-bottom:1px solid rgba(127,127,127,0.3)"
)


class CompletionsError(UserError):
    """There are no completions to show; says where they were looked for."""


def steps(run_folder: Path) -> list[int]:
    """The steps whose completions are saved, in order."""
    files = (run_folder / FOLDER).glob("completions_*.parquet")
    return sorted(int(path.stem.rpartition("_")[2]) for path in files)


def read_step(run_folder: Path, step: int, recipe: Recipe) -> pd.DataFrame | None:
    """The completions of a step, one a row with a column a reward and "reward", all in all.

    None: that step's were not saved. Rows of a group follow one another.
    """
    path = run_folder / FOLDER / f"completions_{step:05}.parquet"
    if not path.is_file():
        return None
    table = pd.read_parquet(path)
    weights = pd.Series(recipe.weights)
    return table.assign(reward=(table[weights.index] * weights).sum(axis=1))


def as_markdown(completions: pd.DataFrame, recipe: Recipe, count: int = 3) -> str:
    """The best, the worst and some between, as Markdown in which no text is markup."""
    ranked = completions.sort_values("reward", ascending=False, kind="stable")
    places = {round(place * (len(ranked) - 1) / max(1, count - 1)) for place in range(count)}
    samples = []
    for place in sorted(places):
        row = ranked.iloc[place]
        parts = ", ".join(f"{name} {_points(row[name])}" for name in recipe.reward_names)
        samples += [
            f"**reward {row['reward']:.3f}** = {parts}",
            _indent(_question(row["prompt"], recipe)),
            "answered with",
            _indent(row["completion"]),
        ]
    return "\n\n".join(samples)


def browse(run_folder: Path, recipe: Recipe) -> ipywidgets.Widget:
    """A panel over a run's completions: a slider for the step, sorted by any reward.

    Raises:
        CompletionsError: the folder holds no completions.
    """
    saved = steps(run_folder)
    if not saved:
        raise CompletionsError(f"{run_folder / FOLDER} holds no completions: train first")
    columns = ["reward", *recipe.reward_names]
    step = ipywidgets.SelectionSlider(options=saved, value=saved[-1], description="step")
    order = ipywidgets.Dropdown(options=columns, description="sort by")
    ascending = ipywidgets.Checkbox(value=False, description="lowest first", indent=False)
    table = ipywidgets.HTML()

    def show(_: object = None) -> None:
        rows = read_step(run_folder, step.value, recipe)
        assert rows is not None
        rows = rows.sort_values(order.value, ascending=ascending.value, kind="stable")
        table.value = as_html(rows, recipe)

    for control in (step, order, ascending):
        control.observe(show, names="value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([step, order, ascending]), table])


def as_html(completions: pd.DataFrame, recipe: Recipe) -> str:
    """A table with prompt, thought and reply apart; every text is escaped."""
    columns = ["reward", *recipe.reward_names]
    names = ("prompt", "thought", "reply", *(name.removesuffix("_reward") for name in columns))
    rows = "".join(_row(row, recipe, columns) for _, row in completions.iterrows())
    table = f'<table style="border-collapse:collapse"><tr>{_cells("th", names)}</tr>{rows}</table>'
    return f'<div style="max-height:32em;overflow:auto;line-height:1.4">{table}</div>'


def _row(row: "pd.Series[Any]", recipe: Recipe, columns: Sequence[str]) -> str:
    parsed = recipe.tags.parse(row["completion"])
    thought, reply = (parsed.thought, parsed.reply) if parsed else ("(not in the format)", "")
    texts = (_question(row["prompt"], recipe), thought, reply or row["completion"])
    points = (_points(row[name]) for name in columns)
    return "<tr>" + _cells("td", (*texts, *points)) + "</tr>"


def _cells(element: str, texts: Iterable[str]) -> str:
    return "".join(f'<{element} style="{CELL}">{escape(text)}</{element}>' for text in texts)


def _points(reward: float) -> str:
    return "–" if pd.isna(reward) else f"{reward:.3g}"


def _question(prompt: str, recipe: Recipe) -> str:
    """A prompt without the system prompt, which is the same everywhere."""
    before, found, after = prompt.partition(recipe.system_prompt)
    return after.strip() if found and after.strip() else before or prompt


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
