"""What is shown of a run: table, curve and progress lines."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sarashina_grpo.monitor import Progress, history_table, plot_rewards

REWARDS = ["xmlcount_reward", "soft_format_reward", "strict_format_reward"]


def logged(step: int, rewards: list[str] = REWARDS) -> dict[str, Any]:
    return {
        "step": step,
        "reward": step / 100,
        "reward_std": 0.25,
        "completions/mean_length": 9.4,
        "step_time": 0.234,
        **{f"rewards/{name}/mean": 0.1 for name in rewards},
        **{f"rewards/{name}/std": 0.01 for name in rewards},
    }


def test_the_history_has_a_row_a_step_and_nothing_else() -> None:
    table = history_table([logged(1), logged(2), {"step": 2, "train_runtime": 3.5}])
    assert table.index.tolist() == [1, 2]
    assert table["reward"].tolist() == [0.01, 0.02]
    assert "train_runtime" not in table


@pytest.mark.parametrize("rewards", [REWARDS, REWARDS[:1]], ids=["three", "one"])
def test_the_curve_has_a_line_a_reward(rewards: list[str]) -> None:
    table = history_table([logged(step, rewards) for step in range(1, 31)])
    top, bottom = plot_rewards(table).axes
    assert [line.get_label() for line in bottom.lines] == rewards
    assert np.asarray(top.lines[0].get_ydata()).tolist() == table["reward"].tolist()
    for line in [*top.lines, *bottom.lines]:
        assert len(line.get_xdata()) == 30
        assert not np.isnan(np.asarray(line.get_ydata(), dtype=float)).any()


def test_thick_lines_are_means_over_ten_steps() -> None:
    table = history_table([logged(step) for step in range(1, 31)])
    top, _ = plot_rewards(table).axes
    smooth = pd.Series(np.asarray(top.lines[1].get_ydata()))
    assert smooth.iloc[-1] == pytest.approx(table["reward"].tail(10).mean())


@pytest.mark.parametrize(
    ("steps", "least", "most"), [(100, 20, 20), (104, 20, 21), (500, 20, 21), (7, 7, 7), (1, 1, 1)]
)
def test_about_twenty_lines_are_printed_and_the_last_step(
    capsys: pytest.CaptureFixture[str], steps: int, least: int, most: int
) -> None:
    progress = Progress()
    for step in range(1, steps + 1):
        state = SimpleNamespace(global_step=step, max_steps=steps)
        progress.on_log(None, state, None, logs=logged(step))
    lines = capsys.readouterr().out.splitlines()
    assert least <= len(lines) <= most
    expected = f"step {steps}/{steps}: reward {steps / 100:.3f}, 9 tokens, 0.23 s"
    assert lines[-1] == expected


@pytest.mark.parametrize("logs", [None, {}, {"train_runtime": 3.5}])
def test_logs_without_a_reward_print_nothing(
    capsys: pytest.CaptureFixture[str], logs: dict[str, float] | None
) -> None:
    Progress().on_log(None, SimpleNamespace(global_step=5, max_steps=100), None, logs=logs)
    assert capsys.readouterr().out == ""
