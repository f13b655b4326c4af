"""What is shown of a run: the progress line, TensorBoard's events and the reward curve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sarashina_grpo.backend import SummaryWriter, transformers

LINES = 20
SMOOTHING_STEPS = 10


class Progress(transformers.TrainerCallback):
    """Prints a line about twenty times a run, beside the progress bar: bars vanish in logs."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called by the trainer after each step."""
        if logs is None or "reward" not in logs:
            return
        every = max(1, state.max_steps // LINES)
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            print(
                f"step {state.global_step}/{state.max_steps}: reward {logs['reward']:.3f}, "
                f"{logs['completions/mean_length']:.0f} tokens, {logs['step_time']:.2f} s",
                flush=True,
            )


def tensorboard(log_folder: Path, first_step: int) -> Any:
    """A callback that writes every logged value to TensorBoard.

    Points after `first_step` from a run that was killed are hidden, so a resumed run
    continues the same curve.
    """
    writer = SummaryWriter(str(log_folder), purge_step=first_step + 1 if first_step else None)
    return transformers.integrations.TensorBoardCallback(writer)


def history_table(log_history: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The trainer's log as a table: one row a step, one column a logged value."""
    rows = [entry for entry in log_history if "reward" in entry]
    return pd.DataFrame(rows).set_index("step")


def plot_rewards(history: pd.DataFrame) -> Figure:
    """The mean reward over the steps, and below it each reward on its own.

    Thin lines are single steps, thick ones means over ten; the band is one standard
    deviation between completions.
    """
    names = [str(column) for column in history]
    means = [name for name in names if name.startswith("rewards/") and name.endswith("/mean")]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    smooth = history.rolling(SMOOTHING_STEPS, min_periods=1).mean()
    top.fill_between(
        history.index,
        smooth["reward"] - smooth["reward_std"],
        smooth["reward"] + smooth["reward_std"],
        alpha=0.15,
        linewidth=0,
    )
    top.plot(history["reward"], color="C0", alpha=0.35, linewidth=0.8)
    top.plot(smooth["reward"], color="C0", linewidth=2)
    top.set(ylabel="mean reward")
    for name in means:
        bottom.plot(smooth[name], label=name.split("/")[1], linewidth=1.8)
    bottom.set(xlabel="step", ylabel="each reward")
    bottom.legend(loc="lower right", frameon=False)
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
