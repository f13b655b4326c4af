"""What tests share: a tiny model that is taught once, and a policy made from it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sarashina_grpo.hardware import Plan, cpu_plan
from sarashina_grpo.recipe import Recipe
from sarashina_grpo.recipes import get_recipe

if TYPE_CHECKING:
    from sarashina_grpo.backend import Policy

# Threads that wait by spinning slow one another down tenfold where the cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return get_recipe("smalltalk")


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


@pytest.fixture
def policy(recipe: Recipe, plan: Plan, artifact: Path) -> "Policy":
    """The tiny model with a fresh adapter, nobody else's."""
    from sarashina_grpo import training
    from sarashina_grpo.backend import load_base

    base = training.base_model(recipe, "tiny", 0, artifact)
    return load_base(base, recipe.tiny.settings, plan, seed=0)
