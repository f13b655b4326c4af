"""What is printed while a run goes on."""

from types import SimpleNamespace
from typing import Any

import pytest

from sarashina_grpo.callbacks import Progress


def logged(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "reward": step / 100,
        "completions/mean_length": 9.4,
        "step_time": 0.234,
    }


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
