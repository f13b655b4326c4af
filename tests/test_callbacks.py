"""What is shown and written while a run goes on: lines, curve, bar and TensorBoard."""

import io
import json
import re
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

from sarashina_grpo import callbacks, completions, training
from sarashina_grpo.backend import Policy, make_trainer, transformers
from sarashina_grpo.callbacks import LiveCurve, Progress, ProgressBar, TensorBoard
from sarashina_grpo.data import split_dataset
from sarashina_grpo.recipe import Recipe
from sarashina_grpo.recipes import get_recipe, recipe_names
from sarashina_grpo.training import Run

SMALLTALK = get_recipe("smalltalk")
STEPS = 4


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


# The live curve


@dataclass
class Screen:
    """A notebook's page with a clock: what was put on it when, and how each was changed."""

    seconds_to_draw: float = 0.0
    now: float = 1000.0
    places: list[list[Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def perf_counter(self) -> float:
        return self.now

    def display(self, shown: Any, **options: Any) -> Any:
        assert options == {"display_id": True}
        place: list[Any] = []
        self.places.append(place)
        handle = SimpleNamespace(update=lambda changed: self.draw(place, changed))
        handle.update(shown)
        return handle

    def draw(self, place: list[Any], shown: Any) -> None:
        place.append(shown)
        self.times.append(self.now)
        self.now += self.seconds_to_draw

    def install(self, monkeypatch: pytest.MonkeyPatch, shell: Any) -> None:
        monkeypatch.setattr(callbacks, "get_ipython", lambda: shell)
        monkeypatch.setattr(callbacks, "display", self.display)
        monkeypatch.setattr(callbacks, "time", self)


NOTEBOOK = SimpleNamespace(kernel=object())
"""What `get_ipython` gives in a notebook; in a terminal it has no kernel."""


def rewarded(step: int, **rewards: float | None) -> dict[str, Any]:
    means = {f"rewards/{name}/mean": reward for name, reward in rewards.items()}
    return {"step": step, "reward": step / 100, "reward_std": 0.25, **means}


def follow(curve: LiveCurve, screen: Screen, steps: int, seconds_a_step: float) -> Any:
    """Log steps that take some seconds each; returns the trainer's state."""
    state = SimpleNamespace(log_history=[], max_steps=steps, global_step=0)
    for step in range(1, steps + 1):
        screen.now += seconds_a_step
        state.global_step = step
        state.log_history.append(rewarded(step, format_reward=0.1))
        curve.on_log(None, state, None, logs=state.log_history[-1])
    return state


def points(figure: Figure) -> int:
    """How many steps a curve shows."""
    return len(figure.axes[0].lines[0].get_xdata())


@pytest.mark.parametrize("shell", [None, SimpleNamespace()], ids=["no IPython", "a terminal"])
def test_outside_a_notebook_no_curve_is_drawn(monkeypatch: pytest.MonkeyPatch, shell: Any) -> None:
    screen = Screen()
    screen.install(monkeypatch, shell)
    curve = LiveCurve()
    state = follow(curve, screen, 20, seconds_a_step=5.0)
    curve.on_train_end(None, state, None)
    assert screen.places == []


def test_under_pytest_there_is_no_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    curve = LiveCurve()
    state = SimpleNamespace(log_history=[rewarded(1, format_reward=0.1)])
    curve.on_log(None, state, None, logs=state.log_history[-1])
    curve.on_train_end(None, state, None)
    assert curve.handle is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds_to_draw", "seconds_a_step", "pause"),
    [
        (0.0, 0.1, callbacks.DRAWING_PAUSE),
        (0.05, 0.1, callbacks.DRAWING_PAUSE),
        (0.5, 0.1, 10.0),
        (1.0, 0.25, 20.0),
        (0.0, 5.0, 5.0),
    ],
)
def test_the_curve_is_drawn_no_more_often_than_the_pause_and_the_share_of_time_allow(
    monkeypatch: pytest.MonkeyPatch, seconds_to_draw: float, seconds_a_step: float, pause: float
) -> None:
    screen = Screen(seconds_to_draw)
    screen.install(monkeypatch, NOTEBOOK)
    follow(LiveCurve(), screen, round(60 / seconds_a_step), seconds_a_step)
    ends = [start + seconds_to_draw for start in screen.times]
    waits = [start - end for end, start in zip(ends, screen.times[1:], strict=False)]
    assert waits
    assert min(waits) >= pause - 1e-6
    assert max(waits) <= pause + seconds_a_step + 1e-6
    assert screen.times[0] == pytest.approx(1000.0 + seconds_a_step)


def test_the_curve_stays_in_one_place_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    screen.install(monkeypatch, NOTEBOOK)
    follow(LiveCurve(), screen, 9, seconds_a_step=1.0)
    (drawings,) = screen.places
    assert [points(figure) for figure in drawings] == [1, 3, 5, 7, 9]


def test_the_curve_is_drawn_a_last_time_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    screen.install(monkeypatch, NOTEBOOK)
    curve = LiveCurve()
    state = follow(curve, screen, 6, seconds_a_step=0.1)
    (drawings,) = screen.places
    assert [points(figure) for figure in drawings] == [1]
    curve.on_train_end(None, state, None)
    assert [points(figure) for figure in drawings] == [1, 6]
    assert len(screen.places) == 1


@pytest.mark.parametrize("logs", [None, {}, {"train_runtime": 3.5}])
def test_logs_without_a_reward_draw_nothing(
    monkeypatch: pytest.MonkeyPatch, logs: dict[str, float] | None
) -> None:
    screen = Screen()
    screen.install(monkeypatch, NOTEBOOK)
    state = SimpleNamespace(log_history=[logs] if logs else [])
    curve = LiveCurve()
    curve.on_log(None, state, None, logs=logs)
    curve.on_train_end(None, state, None)
    assert screen.places == []


@pytest.mark.parametrize(
    "rewards", [[None], [None, None, None], [None, 0.5], [0.5, None, 0.5]], ids=str
)
def test_a_reward_that_did_not_apply_in_a_step_does_not_stop_the_curve(
    monkeypatch: pytest.MonkeyPatch, rewards: list[float | None]
) -> None:
    screen = Screen()
    screen.install(monkeypatch, NOTEBOOK)
    history = [
        rewarded(step, int_reward=reward, format_reward=0.1)
        for step, reward in enumerate(rewards, start=1)
    ]
    LiveCurve().on_train_end(None, SimpleNamespace(log_history=history), None)
    ((figure,),) = screen.places
    assert points(figure) == len(rewards)
    figure.canvas.draw()


# The bar


class Pages:
    """Stands in for IPython's display in Hugging Face's bar, and keeps the HTML."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    HTML = staticmethod(str)

    def display(self, html: str, **_: Any) -> Any:
        self.shown.append(html)
        return SimpleNamespace(update=self.shown.append)


def bar_of(bar: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a bar shows of three steps with a loss each."""
    pages = Pages()
    monkeypatch.setattr("transformers.utils.notebook.disp", pages)
    args = SimpleNamespace(eval_strategy="no")
    state = SimpleNamespace(global_step=0, max_steps=3, epoch=0.5, num_train_epochs=1)
    bar.on_train_begin(args, state, None)
    for step in range(1, 4):
        state.global_step = step
        bar.on_step_end(args, state, None)
        bar.on_log(args, state, None, logs={"loss": 0.125, "reward": 1.0})
    bar.on_train_end(args, state, None)
    return pages.shown


def test_the_bar_counts_the_steps_and_has_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = bar_of(ProgressBar(), monkeypatch)
    assert "[3/3" in shown[-1]
    assert [page for page in shown if "<table" in page or "Loss" in page] == []


def test_hugging_faces_own_bar_has_the_table_that_ours_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bar = transformers.utils.notebook.NotebookProgressCallback()
    shown = bar_of(bar, monkeypatch)
    assert "<table" in shown[-1]
    assert "Training Loss" in shown[-1]


# TensorBoard


def save_completions(run_folder: Path, recipe: Recipe, step: int) -> None:
    folder = run_folder / "completions"
    folder.mkdir(parents=True, exist_ok=True)
    rewards = dict.fromkeys(recipe.reward_names, 0.5)
    row = {"step": step, "prompt": "<b>", "completion": f"said at {step}", **rewards}
    pd.DataFrame([{**row, "advantage": 0.0}]).to_parquet(folder / f"completions_{step:05d}.parquet")


@dataclass(frozen=True)
class Writing:
    """A run of which only TensorBoard's callback is real, its calls in the trainer's order."""

    folder: Path
    recipe: Recipe = SMALLTALK
    max_steps: int = 20
    saves: bool = True
    open_questions: bool = False

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def logged(self, step: int) -> dict[str, Any]:
        """What the trainer logs of a step, in part; None where a reward never applied."""
        reward = None if self.open_questions else step / 8
        rewards = {
            f"rewards/{name}/{value}": reward
            for name in self.recipe.reward_names
            for value in ("mean", "std")
        }
        lengths = {"completions/mean_length": 9.5, "completions/mean_terminated_length": 9.0}
        return {"loss": 0.25, "reward": 0.5, "reward_std": 0.5, **rewards, **lengths}

    def steps(self, last: int, first_step: int = 0, *, end: bool = True) -> None:
        """Train to a step, to the end of the training or to where it is killed."""
        callback = TensorBoard(self.logs, first_step, self.recipe)
        args = SimpleNamespace(output_dir=str(self.folder), to_json_string=lambda: "{}")
        state = transformers.TrainerState(global_step=first_step, max_steps=self.max_steps)
        callback.on_train_begin(args, state, None)
        for step in range(first_step + 1, last + 1):
            callback.on_step_begin(args, state, None)
            state.global_step = step
            callback.on_log(args, state, None, logs=self.logged(step))
            if self.saves:
                save_completions(self.folder, self.recipe, step)
        if end:
            callback.on_train_end(args, state, None)
        else:
            callback.writer.close()
            # Runs that start in the same second are else read in any order.
            for path in self.logs.iterdir():
                path.rename(path.with_name(path.name.replace(".tfevents.", ".tfevents.0")))


def read_events(log_folder: Path) -> EventAccumulator:
    """All of the events of a folder, none left out."""
    return EventAccumulator(str(log_folder), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def opened(log_folder: Path) -> EventMultiplexer:
    """A run as the program TensorBoard reads it, with all of its texts."""
    events = EventMultiplexer(size_guidance={"tensors": 0})
    events.AddRunsFromDirectory(str(log_folder)).Reload()
    assert list(events.Runs()) == ["."]
    return events


def samples(log_folder: Path) -> list[tuple[int, str]]:
    """The texts of completions in TensorBoard with their steps."""
    events, tag = opened(log_folder), "completions/text_summary"
    if tag not in events.Runs()["."]["tensors"]:
        return []
    found = events.Tensors(".", tag)
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in found]


def charts(log_folder: Path) -> dict[str, list[str]]:
    """TensorBoard's page of custom scalars: which curves each chart shows."""
    data = MultiplexerDataProvider(opened(log_folder), str(log_folder))
    context = TBContext(data_provider=data, plugin_name_to_instance={})
    context.plugin_name_to_instance["scalars"] = ScalarsPlugin(context)
    page = CustomScalarsPlugin(context)
    layout = json.loads(page.layout_impl(RequestContext(), ""))
    return {
        chart["title"]: [
            curve
            for tag in chart["multiline"]["tag"]
            for curve in page.scalars_impl(RequestContext(), ".", tag, "")["tag_to_events"]
        ]
        for category in layout["category"]
        for chart in category["chart"]
    }


def mean_curves(recipe: Recipe) -> list[str]:
    """TensorBoard's names for the mean of each reward."""
    return [f"train/rewards/{name}/mean" for name in recipe.reward_names]


@pytest.mark.parametrize("name", recipe_names())
def test_each_chart_shows_its_curves_and_no_others(tmp_path: Path, name: str) -> None:
    recipe = get_recipe(name)
    Writing(tmp_path, recipe).steps(2)
    assert charts(tmp_path / "logs") == {
        "all rewards and their sum": ["train/reward", *mean_curves(recipe)],
        "spread within groups": ["train/reward_std"],
        "tokens": ["train/completions/mean_length"],
    }


@pytest.mark.parametrize(
    ("max_steps", "last", "written"),
    [
        (1, 1, [1]),
        (6, 6, [1, 2, 3, 4, 5, 6]),
        (25, 25, [*range(2, 25, 2), 25]),
        (100, 100, list(range(10, 101, 10))),
        (100, 34, [10, 20, 30, 34]),
    ],
    ids=["one step", "a few steps", "25 steps", "a hundred steps", "stopped early"],
)
def test_samples_are_written_every_few_steps_and_at_the_end(
    tmp_path: Path, max_steps: int, last: int, written: list[int]
) -> None:
    writing = Writing(tmp_path, max_steps=max_steps)
    writing.steps(last)
    found = samples(writing.logs)
    assert [step for step, _ in found] == written
    for step, text in found:
        assert text.startswith("**reward 2.500** = xmlcount_reward 0.5, ")
        assert text.endswith(f"\n\n    <b>\n\nanswered with\n\n    said at {step}")


def test_steps_whose_completions_were_not_saved_have_no_sample(tmp_path: Path) -> None:
    writing = Writing(tmp_path, saves=False)
    writing.steps(20)
    assert samples(writing.logs) == []
    assert len(read_events(writing.logs).Scalars("train/reward")) == 20


@pytest.mark.parametrize("last", [4, 5, 9])
def test_a_resumed_run_hides_what_was_written_after_the_checkpoint(
    tmp_path: Path, last: int
) -> None:
    writing = Writing(tmp_path)
    writing.steps(last, end=False)
    writing.steps(20, first_step=3)
    points = opened(writing.logs).Tensors(".", "train/reward")
    assert [point.step for point in points] == list(range(1, 21))
    assert [step for step, _ in samples(writing.logs)] == list(range(2, 21, 2))


def test_a_run_resumed_where_samples_are_due_has_them_once(tmp_path: Path) -> None:
    writing = Writing(tmp_path)
    writing.steps(5, end=False)
    writing.steps(20, first_step=4)
    assert [step for step, _ in samples(writing.logs)] == list(range(2, 21, 2))


def test_a_reward_that_did_not_apply_in_a_step_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    logger = SimpleNamespace(warning=warnings.append)
    monkeypatch.setattr("transformers.integrations.integration_utils.logger", logger)
    writing = Writing(tmp_path, open_questions=True)
    writing.steps(2)
    tags = read_events(writing.logs).Tags()["scalars"]
    assert "train/reward" in tags
    assert [tag for tag in tags if tag.startswith("train/rewards/")] == []
    assert warnings == []


# A real run


@dataclass(frozen=True)
class Trained:
    """A run in a notebook, of which only the page is not real: what was printed and shown."""

    run: Run
    trainer: Any
    printed: str
    bars: list[str]
    curves: list[list[Figure]]


@pytest.fixture(scope="module")
def trained(
    recipe: Recipe,
    in_small_steps: Callable[..., Recipe],
    artifact: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """A few small steps, with `rich` installed."""
    folder = tmp_path_factory.mktemp("callbacks")
    shutil.copytree(artifact / "tiny", folder / "tiny")
    run = training.open_run(in_small_steps(max_steps=STEPS), None, artifact=folder)
    policy = training.load_policy(run, training.plan_for(run, None))
    dataset = split_dataset(recipe.load_dataset(), 0)["train"]
    pages, screen, printed = Pages(), Screen(), io.StringIO()
    notebook_bar = transformers.utils.notebook.NotebookProgressCallback
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        screen.install(patch, NOTEBOOK)
        patch.setattr("transformers.utils.notebook.disp", pages)
        patch.setattr("transformers.trainer.DEFAULT_PROGRESS_CALLBACK", notebook_bar)
        patch.setattr("trl.trainer.grpo_trainer.is_rich_available", lambda: True)
        trainer = training.train(run, policy, dataset)
    return Trained(run, trainer, printed.getvalue(), pages.shown, screen.places)


def rewards_by_step(trained: Trained) -> dict[int, float]:
    history = trained.trainer.state.log_history
    return {entry["step"]: entry["reward"] for entry in history if "reward" in entry}


def test_a_run_prints_its_own_lines_and_no_table(trained: Trained) -> None:
    lines = trained.printed.splitlines()
    assert len(lines) == STEPS
    for step, line in enumerate(lines, start=1):
        reward = f"{rewards_by_step(trained)[step]:.3f}"
        assert re.fullmatch(rf"step {step}/{STEPS}: reward {reward}, \d+ tokens, [\d.]+ s", line)


def test_a_run_in_a_notebook_shows_a_bar_without_a_table(trained: Trained) -> None:
    kinds = [type(callback) for callback in trained.trainer.callback_handler.callbacks]
    assert kinds.count(ProgressBar) == 1
    assert ProgressBar.__base__ not in kinds
    assert f"[{STEPS}/{STEPS}" in trained.bars[-1]
    assert [page for page in trained.bars if "<table" in page] == []


def test_a_run_in_a_notebook_leaves_the_whole_curve(trained: Trained) -> None:
    (drawings,) = trained.curves
    reward = drawings[-1].axes[0].lines[0]
    shown = dict(zip(reward.get_xdata(), reward.get_ydata(), strict=True))
    assert shown == rewards_by_step(trained)


def test_outside_a_notebook_the_bar_stays(
    recipe: Recipe, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trl.trainer.grpo_trainer.is_rich_available", lambda: True)
    dataset = recipe.load_dataset()
    settings = recipe.tiny.settings
    trainer = make_trainer(policy, settings, recipe.reward_funcs, dataset, tmp_path, 0, [])
    before = list(trainer.callback_handler.callbacks)
    callbacks.install(trainer, tmp_path / "logs", 0, recipe)
    after = trainer.callback_handler.callbacks
    assert after[: len(before)] == before
    assert [type(callback) for callback in after[len(before) :]] == [
        TensorBoard,
        LiveCurve,
        Progress,
    ]


def test_the_completions_of_every_step_are_saved(trained: Trained) -> None:
    names = sorted(path.name for path in (trained.run.folder / "completions").iterdir())
    assert names == [f"completions_{step:05d}.parquet" for step in range(1, STEPS + 1)]
    assert completions.steps(trained.run.folder) == list(range(1, STEPS + 1))


def test_the_saved_completions_are_those_that_were_rewarded(trained: Trained) -> None:
    run = trained.run
    for step, reward in rewards_by_step(trained).items():
        table = completions.read_step(run.folder, step, run.recipe)
        assert table is not None
        assert len(table) == run.settings.generation_batch_size
        assert table["reward"].mean() == pytest.approx(reward)
        assert set(run.recipe.reward_names) < set(table)
        groups = [group["prompt"].nunique() for _, group in table.groupby(table.index // 4)]
        assert groups == [1, 1]


def test_the_saved_prompts_are_shown_without_the_system_prompt(
    trained: Trained, recipe: Recipe
) -> None:
    table = completions.read_step(trained.run.folder, 1, trained.run.recipe)
    assert table is not None
    questions = {prompt[-1]["content"] for prompt in recipe.load_dataset()["prompt"]}
    html = completions.as_html(table, recipe)
    shown = {unescape(text) for text in re.findall(r"<tr><td[^>]*>(.*?)</td>", html, re.DOTALL)}
    assert len(shown) == 2
    assert shown <= questions


def test_tensorboard_has_every_value_that_was_logged(trained: Trained) -> None:
    logged_values = {
        (f"train/{name}", entry["step"]): value
        for entry in trained.trainer.state.log_history
        for name, value in entry.items()
        if name != "step"
    }
    assert len(logged_values) > 20 * STEPS
    events = read_events(trained.run.log_folder)
    shown = {
        (tag, point.step): point.value
        for tag in events.Tags()["scalars"]
        for point in events.Scalars(tag)
    }
    assert shown == pytest.approx(logged_values)


def test_tensorboard_has_samples_of_the_run_and_a_chart_of_its_rewards(trained: Trained) -> None:
    found = samples(trained.run.log_folder)
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    for step, text in found:
        table = completions.read_step(trained.run.folder, step, trained.run.recipe)
        assert table is not None
        assert text == completions.as_markdown(table, trained.run.recipe)
    (rewards, *_) = charts(trained.run.log_folder).values()
    assert rewards == ["train/reward", *mean_curves(trained.run.recipe)]


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        # The trainer is not asked for anything: it is None.
        with callbacks.interruptible(None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
