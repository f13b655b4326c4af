"""A run: its folders, the checks before it starts, the training itself, and how to resume.

artifact/outputs/<recipe>/<run>/run.json          what the run is made of
artifact/outputs/<recipe>/<run>/checkpoint-N/     adapter, optimiser, random states
artifact/logs/<recipe>/<run>/events…              what TensorBoard reads
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sarashina_grpo import ARTIFACT, PROJECT_ROOT, callbacks, tiny
from sarashina_grpo.backend import (
    ADAPTER_FILE,
    OutOfMemoryError,
    Policy,
    load_adapter,
    load_base,
    make_trainer,
    read_shape,
    rehearse,
)
from sarashina_grpo.data import BATCH, LeftOut
from sarashina_grpo.errors import SettingError, UserError
from sarashina_grpo.hardware import Auto, Gpu, Plan, cpu_plan, make_plan
from sarashina_grpo.recipe import Recipe, Sampling, Settings
from sarashina_grpo.rewards import language

if TYPE_CHECKING:
    from datasets import Dataset

RUN_FILE = "run.json"
LOCK_FILE = "training.lock"
STATE_FILE = "trainer_state.json"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
CHECKPOINT_FILES = (ADAPTER_FILE, "optimizer.pt", STATE_FILE)
# Adam keeps two numbers beside each weight, all of four bytes.
CHECKPOINT_BYTES_PER_WEIGHT = 12


class RunError(UserError):
    """A run that cannot start or go on; says what to change."""


@dataclass(frozen=True)
class Run:
    """One training run. `checkpoint` is where it goes on from, None for a new one."""

    recipe: Recipe
    settings: Settings
    model_name: str
    dataset: str | None
    artifact: Path
    name: str
    checkpoint: Path | None = None

    @property
    def folder(self) -> Path:
        """Where checkpoints go."""
        return self.artifact / "outputs" / self.recipe.name / self.name

    @property
    def log_folder(self) -> Path:
        """Where TensorBoard's events go."""
        return self.artifact / "logs" / self.recipe.name / self.name

    @property
    def is_tiny(self) -> bool:
        """Whether the model is the embedded tiny one."""
        return self.model_name == tiny.MODEL_NAME

    @property
    def seed(self) -> int:
        """The seed of the split, the adapter, the sampling and the tiny model."""
        return self.settings.seed

    @property
    def first_step(self) -> int:
        """The number of steps that are already done."""
        return step_of(self.checkpoint) if self.checkpoint else 0

    @property
    def sampling(self) -> Sampling:
        """The recipe's sampling, with completions no longer than the sequence leaves room for."""
        sampling = self.recipe.sampling
        room = self.settings.max_seq_length - self.settings.max_prompt_length
        return replace(sampling, max_tokens=min(sampling.max_tokens, room))

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change between a run and its continuation."""
        prompts, _ = self.read_prompts()
        return {
            "recipe": self.recipe.name,
            "model_name": self.model_name,
            "model": _model_fingerprint(self),
            "dataset": self.dataset,
            "rewards": self.recipe.weights,
            "prompts": _digest(prompts.iter(batch_size=BATCH)),
            "settings": json.loads(json.dumps(asdict(self.settings))),
        }

    def read_prompts(self) -> tuple["Dataset", list[LeftOut]]:
        """The prompts that the run is about, and the rows left out, see `Recipe.read_prompts`."""
        source = self.recipe.tiny_source if self.is_tiny else self.recipe.source
        return replace(self.recipe, source=source).read_prompts(self.dataset)


def open_run(
    recipe: Recipe,
    gpu: Gpu | None,
    *,
    model_name: str | None = None,
    dataset: str | None = None,
    seed: int | None = None,
    max_steps: int | None = None,
    completions: int | None = None,
    japanese_reward: bool | None = None,
    distinct_thought_reward: bool | None = None,
    resume: bool = False,
    artifact: str | Path = ARTIFACT,
) -> Run:
    """Start a run in a folder of its own, or open the recipe's last one to go on with it.

    The model is the recipe's where there is a GPU, else the tiny one, unless one is named;
    `dataset`, `seed`, `max_steps`, the `completions` of a step and whether a reward counts are
    the recipe's too. A relative `artifact` is one of the project's folders.

    Raises:
        RunError: there is nothing to resume, or it was another model, dataset or setting; or
            the run's folder cannot be made.
        SettingError: a value is out of range, or of another type.
        DatasetError: the prompts cannot be read.
    """
    _check_type("MODEL_NAME", model_name, (str, type(None)), "a name, a folder or None")
    _check_type("DATASET", dataset, (str, type(None)), "a file, a folder, a Hub name or None")
    _check_type("RESUME", resume, bool, "True or False")
    for reward, wanted in (
        (language.japanese_reward, japanese_reward),
        (language.distinct_thought_reward, distinct_thought_reward),
    ):
        name = reward.__name__.upper()
        _check_type(name, wanted, (bool, type(None)), "True, False or None, as the recipe says")
        recipe = recipe if wanted is None else recipe.with_reward(reward, wanted)
    name = _model_name(recipe, gpu, model_name)
    settings = _settings(
        recipe,
        name,
        seed=seed,
        max_steps=max_steps,
        per_device_train_batch_size=completions,
        gradient_accumulation_steps=None if completions is None else 1,
    )
    run = Run(recipe, settings, name, dataset, _artifact_folder(artifact), name="")
    return _reopen(run) if resume else _create(run)


def plan_for(
    run: Run, gpu: Gpu | None, use_vllm: bool | Auto = "auto", load_in_4bit: bool | Auto = "auto"
) -> Plan:
    """How to load and train the run's model on this machine.

    Raises:
        PlanError: nothing fits into the GPU.
        ValueError: see `hardware.make_plan` and `hardware.cpu_plan`.
    """
    if gpu is None:
        return cpu_plan(run.settings, use_vllm, load_in_4bit)
    shape = tiny.shape() if run.is_tiny else read_shape(run.model_name)
    return make_plan(gpu, shape, run.settings, use_vllm, load_in_4bit)


def load_policy(run: Run, plan: Plan) -> Policy:
    """The run's base model with a fresh adapter."""
    base = base_model(run.recipe, run.model_name, run.seed, run.artifact)
    return load_base(base, run.settings, plan, run.seed)


def open_model(
    recipe: Recipe,
    gpu: Gpu | None,
    *,
    checkpoint: str | None = "latest",
    model_name: str | None = None,
    seed: int | None = None,
    artifact: str | Path = ARTIFACT,
) -> Run:
    """What to talk to: a checkpoint with the run it comes from, or None for the base model.

    Raises:
        RunError: there is no such checkpoint, or it belongs to another recipe.
    """
    _check_type("CHECKPOINT", checkpoint, (str, type(None)), '"latest", a folder or None')
    _check_type("MODEL_NAME", model_name, (str, type(None)), "a name, a folder or None")
    artifact = _artifact_folder(artifact)
    if checkpoint is None:
        name = _model_name(recipe, gpu, model_name)
        return Run(recipe, _settings(recipe, name, seed=seed), name, None, artifact, name="base")
    path = find_checkpoint(recipe, checkpoint, artifact)
    made = read_run_file(path.parent)
    if made["recipe"] != recipe.name:
        raise RunError(f"{path} was trained with RECIPE = {made['recipe']!r}, not {recipe.name!r}")
    try:
        settings = Settings(**made["settings"])
    except TypeError as error:
        raise RunError(
            f"{path.parent / RUN_FILE} has settings of another version of this project: {error}"
        ) from error
    name, dataset = path.parent.name, made["dataset"]
    return Run(recipe, settings, made["model_name"], dataset, artifact, name, path)


def load_trained(run: Run, plan: Plan) -> Policy:
    """The run's base model with its checkpoint's adapter, checked to work.

    Raises:
        BackendError: the adapter has no effect, or belongs to another model.
    """
    if run.checkpoint is None:
        return load_policy(run, plan)
    base = base_model(run.recipe, run.model_name, run.seed, run.artifact)
    return load_adapter(base, run.checkpoint, run.settings, plan, run.seed)


def base_model(recipe: Recipe, model_name: str, seed: int, artifact: Path = ARTIFACT) -> str:
    """What to load for a model name: the tiny model's folder, or the name itself."""
    if model_name == tiny.MODEL_NAME:
        return str(tiny.build(recipe, seed, artifact))
    return model_name


def find_checkpoint(recipe: Recipe, wanted: str, artifact: Path = ARTIFACT) -> Path:
    """The checkpoint at a path, or for "latest" the last one of the recipe's last run.

    Raises:
        RunError: there is none.
    """
    if wanted != "latest":
        path = Path(wanted)
        if not is_complete(path):
            raise RunError(
                f"{path} is no checkpoint: it lacks one of {CHECKPOINT_FILES}, or was not saved "
                "to its end"
            )
        return path.resolve()
    for folder in _runs(recipe, artifact):
        for checkpoint in checkpoints(folder):
            return checkpoint
    raise RunError(
        f"no checkpoint of the recipe {recipe.name!r} under {artifact}: run finetuning.ipynb "
        "first, or set CHECKPOINT = None to talk to the base model"
    )


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run's folder, the last one first."""
    found = [path for path in folder.glob("checkpoint-*") if is_complete(path)]
    return sorted(found, key=step_of, reverse=True)


def is_complete(checkpoint: Path) -> bool:
    """Whether the folder is named like a checkpoint and was saved to its end.

    The trainer writes its state last, so a save that was killed lacks it, or part of it.
    """
    if not CHECKPOINT_NAME.fullmatch(checkpoint.name):
        return False
    if not all((checkpoint / name).is_file() for name in CHECKPOINT_FILES):
        return False
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == step_of(checkpoint)


def half_written(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder whose save was interrupted."""
    found = (path for path in folder.glob("checkpoint-*") if CHECKPOINT_NAME.fullmatch(path.name))
    return sorted((path for path in found if not is_complete(path)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    name = CHECKPOINT_NAME.fullmatch(checkpoint.name)
    if name is None:
        raise RunError(f"a checkpoint's folder is named checkpoint-<step>, got {checkpoint.name}")
    return int(name[1])


def read_run_file(folder: Path) -> dict[str, Any]:
    """What a run is made of.

    Raises:
        RunError: the folder is not that of a run.
    """
    try:
        made = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} has no readable {RUN_FILE}: it is not a run's folder") from error
    missing = {"recipe", "model_name", "dataset", "settings"} - set(
        made if isinstance(made, dict) else ()
    )
    if missing:
        raise RunError(f"{folder / RUN_FILE} does not say {', '.join(sorted(missing))}")
    return made


def check(run: Run, policy: Policy, prompts: int) -> list[str]:
    """Make sure that a run can work before hours go into it, and say what it will do.

    Raises:
        RunError: the tags do not survive the tokenizer, the steps are already done, or the
            disk is too small for the checkpoints.
    """
    settings = run.settings
    _check_tags(run, policy)
    if run.first_step >= settings.max_steps:
        raise RunError(
            f"max_steps={settings.max_steps} is not beyond step {run.first_step}, where "
            f"{run.checkpoint} was saved; ask for more steps"
        )
    needed = _checkpoint_bytes(run, policy)
    free = shutil.disk_usage(run.folder).free
    if needed > free:
        raise RunError(
            f"the checkpoints need about {needed / 1e9:.1f} GB and {run.folder} has "
            f"{free / 1e9:.1f} GB free; make room or save less often (save_steps)"
        )
    epochs = settings.max_steps * settings.prompts_per_step / prompts
    return [
        *(
            f"{path.name} was not saved to its end, and is left alone"
            for path in half_written(run.folder)
        ),
        f"steps {run.first_step + 1} to {settings.max_steps}, {epochs:.1f} times over {prompts} "
        "prompts",
        f"{settings.generation_batch_size} completions a step = {settings.prompts_per_step} "
        f"prompts × {settings.num_generations} to compare",
        f"checkpoints every {settings.save_steps} steps: {needed / 1e9:.2f} GB of "
        f"{free / 1e9:.0f} GB free",
    ]


def preflight(run: Run, policy: Policy) -> list[str]:
    """Rehearse a step at full length on the GPU, and say what it took and when the run may end.

    Raises:
        RunError: it does not fit; says what to lower.
    """
    settings = run.settings
    if policy.plan.device == "cpu":
        return ["no rehearsal on the CPU: there is no GPU memory to run out of"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            seconds, peak_gb = rehearse(policy, settings, Path(folder), run.seed)
    except OutOfMemoryError as error:
        raise RunError(
            f"a prompt of {settings.max_prompt_length} tokens and a completion of "
            f"{settings.max_completion_length} do not fit into the GPU's memory "
            f"({policy.plan.micro_batch} at once, {4 if policy.plan.load_in_4bit else 16} bits); "
            "lower max_completion_length or max_prompt_length in the recipe"
            + ("" if policy.plan.load_in_4bit else ", or set LOAD_IN_4BIT = True")
            + (", or set USE_VLLM = False" if policy.plan.use_vllm else "")
        ) from error
    steps = settings.max_steps - run.first_step
    left = timedelta(seconds=round(steps * seconds))
    return [
        f"a step at full length: {seconds:.1f} s, {peak_gb:.1f} GB at most",
        f"{steps} such steps end in {left}, at {datetime.now() + left:%H:%M}; shorter ones sooner",
    ]


def train(run: Run, policy: Policy, dataset: Any) -> Any:
    """Train to the end, or on from the run's checkpoint; returns the trainer.

    An interrupt saves a checkpoint at the end of the step and stops, see `callbacks`.

    Raises:
        RunError: another process is training the same run, the disk is full, or the checkpoint
            holds what only running it would tell.
    """
    trainer = make_trainer(
        policy,
        run.settings,
        run.recipe.reward_funcs,
        dataset,
        run.folder,
        run.seed,
        [],
        log_completions=True,
        reward_weights=list(run.recipe.weights.values()),
    )
    callbacks.install(trainer, run.log_folder, run.first_step, run.recipe)
    watching = _watching_the_disk(run, policy)
    with _alone(run), watching, _only_tensors(run), callbacks.interruptible(trainer):
        trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    return trainer


@contextmanager
def _watching_the_disk(run: Run, policy: Policy) -> Iterator[None]:
    """A full disk in a sentence: what was saved before it is whole."""
    try:
        yield
    except Exception as error:
        # torch and safetensors have errors of their own for it, which do not name the disk.
        free = shutil.disk_usage(run.folder).free
        if free > _bytes_of_one_checkpoint(policy) or not half_written(run.folder):
            raise
        saved = checkpoints(run.folder)
        last = f"{saved[0].name} is whole" if saved else "nothing was saved before"
        raise RunError(
            f"the disk of {run.folder} is full, and a save broke off; {last}. Make room, and go on "
            "with RESUME = True"
        ) from error


@contextmanager
def _only_tensors(run: Run) -> Iterator[None]:
    """What is more than tensors and numbers in a checkpoint, in a sentence; it was not run."""
    try:
        yield
    except UnpicklingError as error:
        raise RunError(
            f"optimizer.pt, scheduler.pt or rng_state.pth of {run.checkpoint} holds more than "
            "tensors and numbers, or is damaged; delete that folder to go on from the checkpoint "
            "before it, or start a new run with RESUME = False"
        ) from error


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Two processes that go on with one run would write into the same files."""
    try:
        with FileLock(run.folder / LOCK_FILE, timeout=0):
            yield
    except Timeout as error:
        raise RunError(
            f"another process is training {run.folder}; wait for its end, or start a run of your "
            "own with RESUME = False"
        ) from error


def _model_name(recipe: Recipe, gpu: Gpu | None, chosen: str | None) -> str:
    return chosen or (recipe.model_name if gpu else tiny.MODEL_NAME)


def _settings(recipe: Recipe, model_name: str, **chosen: int | None) -> Settings:
    settings = recipe.tiny.settings if model_name == tiny.MODEL_NAME else recipe.settings
    changed: dict[str, Any] = {k: v for k, v in chosen.items() if v is not None}
    return replace(settings, **changed)


def _check_type(name: str, value: Any, kinds: Any, accepted: str) -> None:
    if not isinstance(value, kinds):
        raise SettingError(f"{name} must be {accepted}, got {value!r}")


def _artifact_folder(artifact: str | Path) -> Path:
    _check_type("ARTIFACT", artifact, (str, Path), "a folder")
    folder = PROJECT_ROOT / artifact
    if folder.is_file():
        raise SettingError(f"ARTIFACT must be a folder, and {folder} is a file")
    return folder


def _create(run: Run) -> Run:
    text = json.dumps(run.identity, indent=2, ensure_ascii=False)
    for name in _new_names():
        run = replace(run, name=name)
        try:
            run.folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"{run.folder} cannot be made: {error.strerror}") from error
        (run.folder / RUN_FILE).write_text(text + "\n", encoding="utf-8")
        return run
    raise AssertionError("names never run out")


def _new_names() -> Iterator[str]:
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    yield now
    for number in count(2):
        yield f"{now}-{number:02}"


def _reopen(run: Run) -> Run:
    for folder in _runs(run.recipe, run.artifact):
        saved = checkpoints(folder)
        if not saved:
            continue
        before = read_run_file(folder)
        _check_same(before, run.identity, folder)
        return replace(run, name=folder.name, checkpoint=saved[0])
    raise RunError(
        f"no run of {run.recipe.name!r} under {run.artifact} has a checkpoint to resume from; "
        "set RESUME = False to start one"
    )


def _check_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for key in ("recipe", "model_name", "dataset", "rewards"):
        if before.get(key) != now[key]:
            raise RunError(
                f"{folder.name} was run with {key}={before.get(key)!r}, and is resumed with "
                f"{now[key]!r}; set it back, or start a new run with RESUME = False"
            )
    for key, value in now["settings"].items():
        if key != "max_steps" and before["settings"].get(key) != value:
            raise RunError(
                f"{folder.name} was run with {key}={before['settings'].get(key)!r}, and is "
                f"resumed with {value!r}; only max_steps may change"
            )
    for key, what in (("model", now["model_name"]), ("prompts", now["dataset"] or "the dataset")):
        if before.get(key) != now[key]:
            raise RunError(
                f"{what} has changed since {folder.name} was run: it holds other {key}; put it "
                "back, or start a new run with RESUME = False"
            )


def _model_fingerprint(run: Run) -> str | None:
    """What a model's folder holds, by names and sizes; None for a name on the Hub."""
    if run.is_tiny:
        return tiny.folder_name(run.recipe, run.seed)
    folder = Path(run.model_name)
    if not folder.is_dir():
        return None
    return _digest(sorted((path.name, path.stat().st_size) for path in folder.iterdir()))


def _digest(parts: Iterable[Any]) -> str:
    """The same for the same parts, which JSON can hold."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _runs(recipe: Recipe, artifact: Path) -> list[Path]:
    """The folders of the recipe's runs, the last one first."""
    folders = [path.parent for path in (artifact / "outputs" / recipe.name).glob(f"*/{RUN_FILE}")]
    return sorted(folders, key=lambda folder: folder.name, reverse=True)


def _check_tags(run: Run, policy: Policy) -> None:
    text = run.recipe.tags.render("a", "b")
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    decoded = policy.tokenizer.decode(ids, skip_special_tokens=True)
    if run.recipe.tags.parse(decoded) is None:
        raise RunError(
            f"the tags do not survive the tokenizer of {run.model_name}: {text!r} comes back as "
            f"{decoded!r}. Are they special tokens? Those vanish before rewards see them"
        )


def _checkpoint_bytes(run: Run, policy: Policy) -> int:
    saves = -(-(run.settings.max_steps - run.first_step) // run.settings.save_steps)
    return saves * _bytes_of_one_checkpoint(policy)


def _bytes_of_one_checkpoint(policy: Policy) -> int:
    weights = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    return weights * CHECKPOINT_BYTES_PER_WEIGHT
