"""Runs: they learn, save and log, go on as if never stopped, and refuse what cannot work."""

import json
import math
import os
import re
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sarashina_grpo import DATASETS, callbacks, tiny, training
from sarashina_grpo.backend import OutOfMemoryError, Policy, torch, transformers
from sarashina_grpo.data import split_dataset
from sarashina_grpo.hardware import Gpu, Plan, cpu_plan, make_plan
from sarashina_grpo.recipe import Recipe
from sarashina_grpo.training import Run, RunError

STEPS, SAVE_STEPS = 6, 3
LOGGED = [
    "train/reward",
    *(
        f"train/rewards/{name}_reward/{value}"
        for name in ("xmlcount", "soft_format", "strict_format", "japanese", "distinct_thought")
        for value in ("mean", "std")
    ),
    "train/completions/mean_length",
    "train/learning_rate",
    "train/step_time",
]
Weights = dict[str, Any]
GPU = Gpu("Some GPU", 16.0)
NAMED_SHAPE = replace(tiny.shape(), hidden_size=2560, num_hidden_layers=32)


@dataclass(frozen=True)
class Trained:
    """A run that is over, with its weights before and after."""

    run: Run
    policy: Policy
    trainer: Any
    before: Weights
    after: Weights


def snapshot(policy: Policy) -> Weights:
    return {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}


def finish(run: Run, dataset: Any) -> Trained:
    policy = training.load_policy(run, training.plan_for(run, None))
    before = snapshot(policy)
    trainer = training.train(run, policy, dataset)
    return Trained(run, policy, trainer, before, snapshot(policy))


def curve(run: Run, tag: str) -> dict[int, list[float]]:
    """What TensorBoard shows of a run: the values at each step."""
    events = EventAccumulator(str(run.log_folder)).Reload()
    points: dict[int, list[float]] = {}
    for point in events.Scalars(tag):
        points.setdefault(point.step, []).append(point.value)
    return points


def by_step(trained: Trained, value: str) -> dict[int, float]:
    history = trained.trainer.state.log_history
    return {entry["step"]: entry[value] for entry in history if "reward" in entry}


def with_settings(recipe: Recipe, **changed: Any) -> Recipe:
    settings = replace(recipe.tiny.settings, **changed)
    return replace(recipe, tiny=replace(recipe.tiny, settings=settings))


@pytest.fixture(scope="module")
def short(in_small_steps: Callable[..., Recipe]) -> Recipe:
    """The recipe with a few small steps."""
    return in_small_steps(max_steps=STEPS, save_steps=SAVE_STEPS)


@pytest.fixture(scope="module")
def dataset(recipe: Recipe) -> Any:
    return split_dataset(recipe.load_dataset(), 0)["train"]


@pytest.fixture(scope="module")
def trained(
    short: Recipe, dataset: Any, artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    shutil.copytree(artifact / "tiny", folder / "tiny")
    return finish(training.open_run(short, None, artifact=folder), dataset)


@pytest.fixture
def fresh(artifact: Path, tmp_path: Path) -> Path:
    """An artifact folder with the tiny model and no runs."""
    shutil.copytree(artifact / "tiny", tmp_path / "fresh" / "tiny")
    return tmp_path / "fresh"


@pytest.fixture
def killed(trained: Trained, tmp_path: Path) -> Path:
    """An artifact folder as if the run had been killed after its last step but before saving."""
    folder = tmp_path / "killed"
    shutil.copytree(trained.run.artifact, folder)
    shutil.rmtree(folder / "outputs" / "smalltalk" / trained.run.name / f"checkpoint-{STEPS}")
    return folder


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 03:04:05."""

    class Frozen(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Frozen":
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(training, "datetime", Frozen)


def test_training_moves_the_adapter_and_nothing_else(trained: Trained) -> None:
    moved = {
        name
        for name, weight in trained.before.items()
        if not torch.equal(weight, trained.after[name])
    }
    adapter = {name for name in trained.before if ".lora_" in name}
    assert moved
    assert moved <= adapter
    assert {name for name in adapter if ".lora_B." in name} <= moved


def test_nothing_is_nan(trained: Trained) -> None:
    assert all(bool(torch.isfinite(weight).all()) for weight in trained.after.values())
    history = [entry for entry in trained.trainer.state.log_history if "reward" in entry]
    assert len(history) == STEPS
    for entry in history:
        assert [name for name, value in entry.items() if not math.isfinite(value)] == []


def test_the_checkpoints_and_the_run_file_are_saved(trained: Trained) -> None:
    steps = [training.step_of(path) for path in training.checkpoints(trained.run.folder)]
    assert steps == [STEPS, SAVE_STEPS]
    made = training.read_run_file(trained.run.folder)
    assert made == trained.run.identity
    assert (made["recipe"], made["model_name"], made["dataset"]) == ("smalltalk", "tiny", None)
    assert made["settings"]["seed"] == 0


@pytest.mark.parametrize("tag", LOGGED)
def test_tensorboard_has_a_point_a_step(trained: Trained, tag: str) -> None:
    run = trained.run
    assert run.log_folder == run.artifact / "logs" / "smalltalk" / run.name
    points = curve(run, tag)
    assert list(points) == list(range(1, STEPS + 1))
    assert all(len(values) == 1 for values in points.values())


def test_tensorboard_shows_the_trainers_rewards(trained: Trained) -> None:
    shown = {step: values[0] for step, values in curve(trained.run, "train/reward").items()}
    assert shown == pytest.approx(by_step(trained, "reward"))


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_digit(
    short: Recipe, dataset: Any, trained: Trained, killed: Path
) -> None:
    run = training.open_run(short, None, resume=True, artifact=killed)
    assert run.folder == killed / "outputs" / "smalltalk" / trained.run.name
    assert run.checkpoint == run.folder / f"checkpoint-{SAVE_STEPS}"
    resumed = finish(run, dataset)
    for value in ("reward", "grad_norm", "learning_rate", "completions/mean_length"):
        assert by_step(resumed, value) == by_step(trained, value)
    for name, weight in trained.after.items():
        assert torch.equal(resumed.after[name], weight), name
    last = f"checkpoint-{STEPS}/adapter_model.safetensors"
    assert (run.folder / last).read_bytes() == (trained.run.folder / last).read_bytes()
    assert curve(run, "train/reward") == curve(trained.run, "train/reward")
    assert len(list(run.log_folder.iterdir())) == 2


def test_a_run_may_be_resumed_for_more_steps(short: Recipe, killed: Path) -> None:
    run = training.open_run(short, None, resume=True, max_steps=50, artifact=killed)
    assert (run.first_step, run.settings.max_steps) == (SAVE_STEPS, 50)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed=0"),
        ({"model_name": "somebody/else"}, "model_name='tiny'"),
        ({"dataset": str(DATASETS / "smalltalk.csv")}, "dataset=None"),
    ],
    ids=["seed", "model", "dataset"],
)
def test_a_run_is_not_resumed_as_another(
    short: Recipe, killed: Path, changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(RunError) as refused:
        training.open_run(short, None, resume=True, artifact=killed, **changed)
    assert named in str(refused.value)
    assert repr(next(iter(changed.values()))) in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [{"learning_rate": 0.5}, {"beta": 0.25}, {"lora_targets": ("q_proj",)}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_run_is_not_resumed_with_other_settings(
    short: Recipe, killed: Path, changed: dict[str, Any]
) -> None:
    with pytest.raises(RunError, match=next(iter(changed))):
        training.open_run(with_settings(short, **changed), None, resume=True, artifact=killed)


def test_the_completions_of_a_step_can_be_chosen(recipe: Recipe, tmp_path: Path) -> None:
    run = training.open_run(recipe, None, completions=64, artifact=tmp_path)
    assert run.settings.generation_batch_size == 64
    with pytest.raises(ValueError, match="7 completions a step do not divide into groups of"):
        training.open_run(recipe, None, completions=7, artifact=tmp_path)


@pytest.mark.parametrize("what", ["model", "prompts"])
def test_a_run_is_not_resumed_with_what_has_changed_on_disk(
    short: Recipe, killed: Path, what: str
) -> None:
    (path,) = killed.glob("outputs/smalltalk/*/run.json")
    made = json.loads(path.read_text())
    path.write_text(json.dumps({**made, what: "another"}))
    with pytest.raises(RunError, match=f"has changed since .* it holds other {what}"):
        training.open_run(short, None, resume=True, artifact=killed)


def test_a_changed_row_is_another_dataset(short: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    seen = []
    for text in ("おはよう", "おはよう", "こんばんは"):
        path.write_text(f"prompt,lang\n{text},ja\n", encoding="utf-8")
        run = training.open_run(short, None, dataset=str(path), artifact=tmp_path)
        seen.append(run.identity["prompts"])
    assert seen[0] == seen[1] != seen[2]


def test_a_half_written_checkpoint_is_told_and_left_alone(
    short: Recipe, trained: Trained, policy: Policy, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(trained.run.artifact, folder)
    (state,) = folder.glob(f"outputs/*/*/checkpoint-{STEPS}/trainer_state.json")
    whole = state.read_text()
    state.write_text(whole[: len(whole) // 2])
    run = training.open_run(short, None, resume=True, artifact=folder)
    assert run.first_step < STEPS
    lines = training.check(run, policy, 100)
    assert f"checkpoint-{STEPS} was not saved to its end, and is left alone" in lines
    assert state.read_text() == whole[: len(whole) // 2]


def test_an_interrupt_saves_a_checkpoint_and_stops(
    short: Recipe, fresh: Path, dataset: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupt(self: Any, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(callbacks.Progress, "on_log", interrupt)
    before = signal.getsignal(signal.SIGINT)
    stopped = finish(training.open_run(short, None, artifact=fresh), dataset)
    assert stopped.trainer.state.global_step == 2
    assert training.is_complete(stopped.run.folder / "checkpoint-2")
    assert "RESUME = True goes on from there" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_stops_at_once() -> None:
    interrupt = callbacks.Interrupt()
    interrupt.ask()
    with pytest.raises(KeyboardInterrupt):
        interrupt.ask()


def test_a_run_is_trained_by_one_process_at_a_time(
    short: Recipe, fresh: Path, dataset: Any
) -> None:
    run = training.open_run(short, None, artifact=fresh)
    with (
        FileLock(run.folder / training.LOCK_FILE),
        pytest.raises(RunError, match="another process is training"),
    ):
        finish(run, dataset)


@pytest.mark.parametrize(
    ("free", "error", "said"),
    [
        (0, RunError, f"checkpoint-{SAVE_STEPS} is whole. Make room"),
        (10**12, RuntimeError, "unexpected pos 324224"),
    ],
    ids=["full disk", "another error"],
)
def test_a_save_that_breaks_off_keeps_the_checkpoint_before(
    short: Recipe,
    fresh: Path,
    dataset: Any,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    error: type[Exception],
    said: str,
) -> None:
    save = transformers.Trainer._save_rng_state

    def break_off(self: Any, folder: str) -> None:
        if folder.endswith(f"checkpoint-{STEPS}"):
            raise RuntimeError("unexpected pos 324224 vs 324112")  # torch's words on a full disk
        save(self, folder)

    disk = namedtuple("disk", "total used free")
    monkeypatch.setattr(transformers.Trainer, "_save_rng_state", break_off)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(free, 0, free))
    run = training.open_run(short, None, artifact=fresh)
    with pytest.raises(error, match=re.escape(said)):
        finish(run, dataset)
    assert [path.name for path in training.checkpoints(run.folder)] == [f"checkpoint-{SAVE_STEPS}"]
    assert [path.name for path in training.half_written(run.folder)] == [f"checkpoint-{STEPS}"]


def test_a_run_file_of_another_version_is_refused(short: Recipe, killed: Path) -> None:
    (path,) = killed.glob("outputs/smalltalk/*/run.json")
    made = json.loads(path.read_text())
    made["settings"]["renamed_since"] = 1
    path.write_text(json.dumps(made))
    with pytest.raises(RunError, match="renamed_since"):
        training.open_model(short, None, artifact=killed)


def test_nothing_to_resume_is_said(short: Recipe, tmp_path: Path) -> None:
    training.open_run(short, None, artifact=tmp_path)
    with pytest.raises(RunError, match="RESUME = False"):
        training.open_run(short, None, resume=True, artifact=tmp_path)


def test_steps_that_are_already_done_are_refused(
    short: Recipe, killed: Path, policy: Policy
) -> None:
    run = training.open_run(short, None, resume=True, max_steps=SAVE_STEPS, artifact=killed)
    with pytest.raises(RunError, match="max_steps=3 is not beyond step 3"):
        training.check(run, policy, 100)


def test_the_check_says_what_the_run_will_do(
    recipe: Recipe, policy: Policy, tmp_path: Path
) -> None:
    run = training.open_run(recipe, None, artifact=tmp_path)
    text = "\n".join(training.check(run, policy, 400))
    assert "steps 1 to 100, 1.0 times over 400 prompts" in text
    assert "32 completions a step = 4 prompts × 8" in text


def test_too_small_a_disk_is_refused(
    short: Recipe, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training.open_run(short, None, artifact=tmp_path)
    disk = namedtuple("disk", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk(10**9, 10**9 - 1000, 1000))
    with pytest.raises(RunError, match=r"0\.0 GB free; make room"):
        training.check(run, policy, 100)


def test_tags_that_are_special_tokens_are_refused(
    short: Recipe, policy: Policy, tmp_path: Path
) -> None:
    run = training.open_run(short, None, artifact=tmp_path)
    policy.tokenizer.add_tokens(list(short.tags.tags), special_tokens=True)
    with pytest.raises(RunError, match="do not survive"):
        training.check(run, policy, 100)


@pytest.mark.parametrize(
    ("gpu", "chosen", "name"),
    [
        (None, None, "tiny"),
        (GPU, None, "sbintuitions/sarashina2.2-3b-instruct-v0.1"),
        (GPU, "tiny", "tiny"),
        (None, "somebody/else", "somebody/else"),
    ],
)
def test_the_model_is_the_recipes_where_there_is_a_gpu(
    recipe: Recipe, tmp_path: Path, gpu: Gpu | None, chosen: str | None, name: str
) -> None:
    run = training.open_run(recipe, gpu, model_name=chosen, artifact=tmp_path / "runs")
    assert run.model_name == name
    assert run.settings == (recipe.tiny.settings if name == "tiny" else recipe.settings)
    base = training.open_model(
        recipe, gpu, checkpoint=None, model_name=chosen, artifact=tmp_path / "none"
    )
    assert base.model_name == name


@pytest.mark.parametrize("name", ["tiny", "somebody/else"])
def test_the_plan_follows_the_runs_model_and_settings(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shapes = {"somebody/else": NAMED_SHAPE}
    monkeypatch.setattr(training, "read_shape", shapes.__getitem__)
    run = training.open_run(recipe, GPU, model_name=name, artifact=tmp_path)
    shape = shapes.get(name, tiny.shape())
    assert training.plan_for(run, GPU) == make_plan(GPU, shape, run.settings)
    overruled = training.plan_for(run, GPU, use_vllm=False, load_in_4bit=True)
    assert (overruled.use_vllm, overruled.load_in_4bit) == (False, True)
    assert training.plan_for(run, None) == cpu_plan(run.settings)


@pytest.mark.parametrize("choice", ["use_vllm", "load_in_4bit"])
def test_a_run_on_the_cpu_has_no_choice(short: Recipe, tmp_path: Path, choice: str) -> None:
    run = training.open_run(short, None, artifact=tmp_path)
    with pytest.raises(ValueError, match=f"{choice.upper()}=True needs a CUDA GPU"):
        training.plan_for(run, None, **{choice: True})


def on_cuda(plan: Plan, **changed: bool) -> Policy:
    """A policy without a model, as if it were on a GPU."""
    return Policy(None, None, replace(plan, device="cuda", micro_batch=2, **changed))


def test_there_is_no_rehearsal_on_the_cpu(
    short: Recipe, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "rehearse", lambda *_: pytest.fail("rehearsed"))
    run = training.open_run(short, None, artifact=tmp_path)
    (line,) = training.preflight(run, Policy(None, None, plan))
    assert "no rehearsal on the CPU" in line


@pytest.mark.parametrize(
    ("step", "end"), [(0, "6 such steps end in 0:05:30, at 03:09"), (3, "3 such steps end in 0:02")]
)
def test_a_rehearsal_says_what_a_step_takes_and_when_the_run_ends(
    short: Recipe,
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_clock: None,
    step: int,
    end: str,
) -> None:
    run = training.open_run(short, None, artifact=tmp_path)
    if step:
        run = replace(run, checkpoint=save_empty(run, step))
    monkeypatch.setattr(training, "rehearse", lambda *_: (55.0, 10.5))
    took, ends = training.preflight(run, on_cuda(plan))
    assert took == "a step at full length: 55.0 s, 10.5 GB at most"
    assert ends.startswith(end)


@pytest.mark.parametrize(
    ("four_bit", "vllm", "ways"),
    [
        (False, False, ["LOAD_IN_4BIT = True"]),
        (False, True, ["LOAD_IN_4BIT = True", "USE_VLLM = False"]),
        (True, True, ["USE_VLLM = False"]),
        (True, False, []),
    ],
)
def test_a_rehearsal_that_does_not_fit_says_what_to_lower(
    short: Recipe,
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    four_bit: bool,
    vllm: bool,
    ways: list[str],
) -> None:
    def overflow(*_: Any) -> None:
        raise OutOfMemoryError("CUDA out of memory")

    run = training.open_run(short, None, artifact=tmp_path)
    monkeypatch.setattr(training, "rehearse", overflow)
    with pytest.raises(RunError) as refused:
        training.preflight(run, on_cuda(plan, load_in_4bit=four_bit, use_vllm=vllm))
    text = str(refused.value)
    assert f"a prompt of {run.settings.max_prompt_length} tokens" in text
    assert f"a completion of {run.settings.max_completion_length}" in text
    assert f"2 at once, {4 if four_bit else 16} bits" in text
    assert "lower max_completion_length or max_prompt_length" in text
    assert [way for way in ("LOAD_IN_4BIT = True", "USE_VLLM = False") if way in text] == ways


def test_runs_of_the_same_second_get_folders_of_their_own(
    short: Recipe, tmp_path: Path, stopped_clock: None
) -> None:
    names = [training.open_run(short, None, artifact=tmp_path).name for _ in range(3)]
    assert names == ["20260102-030405", "20260102-030405-02", "20260102-030405-03"]


def save_empty(run: Run, step: int) -> Path:
    """A folder that looks like a checkpoint."""
    folder = run.folder / f"checkpoint-{step}"
    folder.mkdir()
    for name in training.CHECKPOINT_FILES:
        (folder / name).touch()
    (folder / training.STATE_FILE).write_text(json.dumps({"global_step": step}))
    return folder


def test_latest_is_the_last_checkpoint_of_the_last_run_that_has_one(
    short: Recipe, tmp_path: Path
) -> None:
    first, second, _ = (training.open_run(short, None, artifact=tmp_path) for _ in range(3))
    save_empty(first, 200)
    expected = [save_empty(second, step) for step in (9, 100)][-1]
    assert training.find_checkpoint(short, "latest", tmp_path) == expected


def test_a_checkpoint_is_found_by_its_path(short: Recipe, tmp_path: Path) -> None:
    run = training.open_run(short, None, artifact=tmp_path)
    path, _ = (save_empty(run, step) for step in (3, 6))
    assert training.find_checkpoint(short, str(path), tmp_path) == path.resolve()


@pytest.mark.parametrize("wanted", ["nowhere/checkpoint-3", "nowhere", ""])
def test_a_path_without_a_checkpoint_is_refused(short: Recipe, tmp_path: Path, wanted: str) -> None:
    with pytest.raises(RunError, match="is no checkpoint"):
        training.find_checkpoint(short, wanted, tmp_path)


def test_no_checkpoint_at_all_is_said_with_the_way_out(short: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="CHECKPOINT = None"):
        training.find_checkpoint(short, "latest", tmp_path)


@pytest.mark.parametrize("missing", training.CHECKPOINT_FILES)
def test_a_checkpoint_that_lacks_a_file_is_not_complete(
    short: Recipe, tmp_path: Path, missing: str
) -> None:
    run = training.open_run(short, None, artifact=tmp_path)
    whole, broken = save_empty(run, 3), save_empty(run, 6)
    assert training.is_complete(broken)
    (broken / missing).unlink()
    assert not training.is_complete(broken)
    assert training.checkpoints(run.folder) == [whole]


def test_a_checkpoint_of_another_recipe_is_refused(short: Recipe, killed: Path) -> None:
    path = training.find_checkpoint(short, "latest", killed).parent / training.RUN_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "recipe": "poetry"}))
    with pytest.raises(RunError, match="RECIPE = 'poetry', not 'smalltalk'"):
        training.open_model(short, None, artifact=killed)


def test_a_checkpoint_brings_its_run_along(recipe: Recipe, trained: Trained) -> None:
    run = training.open_model(recipe, None, model_name="ignored", artifact=trained.run.artifact)
    assert run.identity == trained.run.identity
    assert run.checkpoint == trained.run.folder / f"checkpoint-{STEPS}"


def test_no_checkpoint_means_the_base_model(recipe: Recipe, plan: Plan, artifact: Path) -> None:
    run = training.open_model(recipe, None, checkpoint=None, artifact=artifact)
    assert (run.model_name, run.checkpoint) == ("tiny", None)
    policy = training.load_trained(run, plan)
    assert not any(
        bool(weight.any()) for name, weight in snapshot(policy).items() if ".lora_B." in name
    )


def test_a_loaded_checkpoint_speaks_as_the_trained_model(recipe: Recipe, trained: Trained) -> None:
    run = training.open_model(recipe, None, artifact=trained.run.artifact)
    loaded = training.load_trained(run, training.plan_for(run, None))
    ids = loaded.tokenizer("こんにちは", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        one, other = (
            policy.model.eval()(input_ids=ids).logits for policy in (loaded, trained.policy)
        )
    assert torch.equal(one, other)


def test_a_run_says_which_rewards_count(tmp_path: Path, recipe: Recipe) -> None:
    plain = training.open_run(recipe, None, artifact=tmp_path)
    without = training.open_run(recipe, None, japanese_reward=False, artifact=tmp_path)
    assert {"japanese_reward", "distinct_thought_reward"} < set(plain.recipe.reward_names)
    assert plain.recipe.reward_names[:3] == without.recipe.reward_names[:3]
    assert "japanese_reward" not in without.identity["rewards"]
    assert "distinct_thought_reward" in without.identity["rewards"]
    back = training.open_run(without.recipe, None, japanese_reward=True, artifact=tmp_path)
    assert back.identity["rewards"] == plain.identity["rewards"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "has no readable run.json"),
        ("[1, 2]", "does not say dataset, model_name, recipe, settings"),
        ("7", "does not say dataset, model_name, recipe, settings"),
        ('{"recipe": "smalltalk", "model_name": "tiny"}', "does not say dataset, settings"),
    ],
)
def test_a_spoilt_run_file_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / training.RUN_FILE).write_text(content)
    with pytest.raises(RunError, match=re.escape(expected)):
        training.read_run_file(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint-", "checkpoint-x", "checkpoint-3.tmp"])
def test_a_folder_that_is_named_otherwise_has_no_step(name: str) -> None:
    with pytest.raises(RunError, match=re.escape(f"checkpoint-<step>, got {name}")):
        training.step_of(Path(name))
