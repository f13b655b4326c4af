"""What tests share: a tiny model that is taught once, and a policy made from it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sarashina_grpo.hardware import Plan, cpu_plan
from sarashina_grpo.recipe import Recipe
from sarashina_grpo.recipes import get_recipe

if TYPE_CHECKING:
    from sarashina_grpo.backend import Policy
    from sarashina_grpo.training import Run

# Threads that wait by spinning slow one another down tenfold where the cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return get_recipe("smalltalk")


@pytest.fixture(scope="session")
def in_small_steps(recipe: Recipe) -> Callable[..., Recipe]:
    """Makes the recipe with small steps, and with other settings of the tiny model."""
    batch = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 48}

    def make(**changed: Any) -> Recipe:
        settings = replace(recipe.tiny.settings, **batch, **changed)
        return replace(recipe, tiny=replace(recipe.tiny, settings=settings))

    return make


@pytest.fixture(scope="session")
def plan(recipe: Recipe) -> Plan:
    import torch

    if torch.cuda.is_available():
        pytest.skip("tests of the CPU path; those marked gpu cover this machine")
    return cpu_plan(recipe.tiny.settings)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, plan: Plan) -> Path:
    """An artifact folder with smalltalk's tiny model of seed 0."""
    from sarashina_grpo import tiny

    folder = tmp_path_factory.mktemp("artifact")
    tiny.build(recipe, 0, folder)
    return folder


@pytest.fixture(scope="session")
def train_to_end() -> "Callable[[Run], Any]":
    """Trains a run to its end, or on from its checkpoint; gives the trainer."""
    from sarashina_grpo import training
    from sarashina_grpo.data import split_dataset

    def train(run: "Run") -> Any:
        policy = training.load_policy(run, training.plan_for(run, None))
        prompts = split_dataset(run.read_prompts()[0], run.seed)["train"]
        return training.train(run, policy, prompts)

    return train


@pytest.fixture(scope="session")
def with_checkpoint(
    in_small_steps: Callable[..., Recipe],
    artifact: Path,
    train_to_end: "Callable[[Run], Any]",
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[int], Path]:
    """Makes an artifact folder with one checkpoint, so many steps old."""
    from sarashina_grpo import training

    def make(steps: int) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        shutil.copytree(artifact / "tiny", folder / "tiny")
        recipe = in_small_steps(max_steps=steps, save_steps=steps)
        train_to_end(training.open_run(recipe, None, artifact=folder))
        return folder

    return make


@pytest.fixture
def policy(recipe: Recipe, plan: Plan, artifact: Path) -> "Policy":
    """The tiny model with a fresh adapter, nobody else's."""
    from sarashina_grpo import training
    from sarashina_grpo.backend import load_base

    base = training.base_model(recipe, "tiny", 0, artifact)
    return load_base(base, recipe.tiny.settings, plan, seed=0)


HOSTILE = (
    "<script>document.title = 'run'</script>",
    "</div></section></body><script>document.title = 'run'</script>",
    "<img src=x onerror=\"document.title = 'run'\">",
    "\" onmouseover=\"document.title = 'run'",
    "javascript:alert(1) [x](javascript:alert(1)) {{ 7 * 7 }} {% raw %} &lt;b&gt;",
    "half a character \ud83d, a null \x00, a bell \x07, right to left \u202e",
    "<style>body { display: none }</style><meta http-equiv=refresh content='0;url=x:'>",
)
"""What a model could be made to say that does harm where it is not escaped."""


@pytest.fixture(scope="session")
def hostile_texts() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Path:
    """The report of a run whose prompts and completions are all hostile."""
    import pandas as pd

    from sarashina_grpo import report, training
    from sarashina_grpo.evaluation import Evaluation

    folder = tmp_path_factory.mktemp("hostile")
    run = training.open_run(recipe, None, model_name="tiny", artifact=folder)
    completions = [recipe.tags.render(text, text) for text in HOSTILE]
    parsed = [recipe.tags.parse(text) for text in completions]
    evaluation = Evaluation(list(HOSTILE), completions, parsed, [None] * len(HOSTILE))
    malformed = Evaluation(list(HOSTILE), list(HOSTILE), [None] * len(HOSTILE), [True] * 7)
    rewards = {f"rewards/{name}/mean": 0.5 for name in recipe.reward_names}
    steps = pd.RangeIndex(1, 41, name="step")
    history = pd.DataFrame({"reward": 1.5, "reward_std": 0.0, **rewards}, index=steps)
    plan = cpu_plan(run.settings)
    return report.write_report(run, plan, history, malformed, evaluation)
