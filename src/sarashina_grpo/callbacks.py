"""What happens at each step of training: the progress line, the live curve, TensorBoard."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from IPython import get_ipython
from IPython.display import display

from sarashina_grpo.backend import ENGINE, SummaryWriter, transformers
from sarashina_grpo.completions import as_markdown, read_step
from sarashina_grpo.monitor import history_table, plot_rewards
from sarashina_grpo.recipe import Recipe

LINES = 20
# Drawing the curve takes at most this share of the time, and waits at least as many seconds.
DRAWING_SHARE, DRAWING_PAUSE = 0.05, 2.0
SAMPLES = 10


class Progress(transformers.TrainerCallback):
    """Prints a line about twenty times a run, beside the progress bar: bars vanish in logs."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called by the trainer after each step."""
        if logs is None or "reward" not in logs:
            return
        if _is_due(state, LINES):
            print(
                f"step {state.global_step}/{state.max_steps}: reward {logs['reward']:.3f}, "
                f"{logs['completions/mean_length']:.0f} tokens, {logs['step_time']:.2f} s",
                flush=True,
            )


class ProgressBar(transformers.utils.notebook.NotebookProgressCallback):
    """Hugging Face's bar for notebooks, without its table of a loss a step: GRPO's says nothing."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Called by the trainer at the start."""
        super().on_train_begin(args, state, control, **options)
        self.training_tracker.inner_table = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called by the trainer after each step."""


class LiveCurve(transformers.TrainerCallback):
    """In a notebook, draws the rewards while they come, in one place, and leaves them finished."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.next_drawing = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called by the trainer after each step."""
        if logs and "reward" in logs and time.perf_counter() >= self.next_drawing:
            self._draw(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer when it is done."""
        if any("reward" in entry for entry in state.log_history):
            self._draw(state)

    def _draw(self, state: Any) -> None:
        shell = get_ipython()
        if shell is None or not hasattr(shell, "kernel"):
            return
        started = time.perf_counter()
        figure = plot_rewards(history_table(state.log_history))
        if self.handle is None:
            self.handle = display(figure, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self.handle.update(figure)
        ended = time.perf_counter()
        self.next_drawing = ended + max(DRAWING_PAUSE, (ended - started) / DRAWING_SHARE)


class TensorBoard(transformers.integrations.TensorBoardCallback):
    """Writes every logged value, all rewards in one chart, and samples of what the model says.

    Points after `first_step` from a run that was killed are hidden, so a resumed run continues
    the same curve.
    """

    def __init__(self, log_folder: Path, first_step: int, recipe: Recipe) -> None:
        self.recipe = recipe
        self.first_step = first_step
        self.writer = SummaryWriter(str(log_folder), purge_step=first_step + 1)
        super().__init__(self.writer)
        each = [f"^train/rewards/{name}/mean$" for name in recipe.reward_names]
        self.writer.add_custom_scalars(
            {
                "Rewards": {
                    "all rewards and their sum": ["Multiline", ["^train/reward$", *each]],
                    "spread within groups": ["Multiline", ["^train/reward_std$"]],
                },
                "Completions": {"tokens": ["Multiline", ["^train/completions/mean_length$"]]},
            }
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The trainer has saved the completions of the step before by now."""
        if state.global_step > self.first_step and _is_due(state, SAMPLES):
            self._write_samples(args, state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **options: Any) -> None:
        """Called by the trainer after each step. None: a reward that applied to no completion."""
        known = {name: value for name, value in (logs or {}).items() if value is not None}
        super().on_log(args, state, control, logs=known, **options)

    def on_train_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Write the last step's completions and close the file."""
        self._write_samples(args, state)
        self.writer.flush()
        super().on_train_end(args, state, control, **options)

    def _write_samples(self, args: Any, state: Any) -> None:
        completions = read_step(Path(args.output_dir), state.global_step, self.recipe)
        if completions is not None:
            text = as_markdown(completions, self.recipe)
            self.writer.add_text("completions", text, state.global_step)


class Interrupt(transformers.TrainerCallback):
    """Saves a checkpoint at the end of the step in which it is asked to, and stops there."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, *_: Any) -> None:
        """What Ctrl-C calls, in a notebook Kernel → Interrupt; the second time it stops at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("stopping after this step, with a checkpoint; once more to stop at once", flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer after each step."""
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer when it is done."""
        if self.asked and state.global_step < state.max_steps:
            print(f"stopped after step {state.global_step}; RESUME = True goes on from there")


@contextmanager
def interruptible(trainer: Any) -> Iterator[None]:
    """While it lasts, an interrupt is a request. Signals reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupt = Interrupt()
    trainer.add_callback(interrupt)
    before = signal.signal(signal.SIGINT, interrupt.ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def install(trainer: Any, log_folder: Path, first_step: int, recipe: Recipe) -> None:
    """Add all of them to a trainer. Unsloth's table of rewards stays, TRL's of losses goes."""
    if ENGINE == "TRL" and trainer.pop_callback(ProgressBar.__base__):
        trainer.add_callback(ProgressBar())
    for callback in (TensorBoard(log_folder, first_step, recipe), LiveCurve(), Progress()):
        trainer.add_callback(callback)
    # TRL prints all completions at each step wherever `rich` is installed.
    type(trainer).log.__globals__["is_rich_available"] = lambda: False


def _is_due(state: Any, times: int) -> bool:
    """Whether to do now what is done about so many times a run, and at its last step."""
    every = max(1, state.max_steps // times)
    return state.global_step % every == 0 or state.global_step == state.max_steps
