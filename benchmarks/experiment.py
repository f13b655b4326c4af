"""Runs the arms of an experiment on the tiny model: every arm for every seed, two at once.

An arm is a recipe and the trainer's options. Held-out prompts are answered before, during and
after training, with the same seeds for all arms of a seed.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import wraps
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

# One thread a process: more would only wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"

from tqdm import tqdm

from sarashina_grpo import backend, evaluation, training
from sarashina_grpo.data import split_dataset
from sarashina_grpo.evaluation import Evaluation
from sarashina_grpo.recipe import Recipe
from sarashina_grpo.rewards import Reward

SEEDS = (0, 1, 2, 3, 4)
NO_SPREAD = 1e-6

Measure = Callable[[Evaluation], dict[str, float]]


@dataclass(frozen=True)
class Arm:
    """What is compared: a recipe, and fields of TRL's GRPOConfig that differ."""

    name: str
    recipe: Recipe
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of an arm with a seed.

    `measures` are those of the held-out prompts by step, `spreads` the standard deviation of the
    last reward in each group of completions, `silent` the share of groups in which all rewards
    together have none.
    """

    arm: str
    seed: int
    measures: dict[int, dict[str, float]]
    spreads: list[float]
    silent: float

    @property
    def without_spread(self) -> float:
        """The share of groups in which the last reward is the same for all."""
        return mean(spread <= NO_SPREAD for spread in self.spreads)

    def first(self, name: str) -> float:
        """A measure before training."""
        return self.measures[min(self.measures)][name]

    def last(self, name: str) -> float:
        """A measure after training."""
        return self.measures[max(self.measures)][name]


class Evaluate(backend.transformers.TrainerCallback):
    """Measures the held-out prompts before training and every few steps."""

    def __init__(self, measure: Callable[[], dict[str, float]], every: int) -> None:
        self.measure = measure
        self.every = every
        self.measures = {0: measure()}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer after each step."""
        if state.global_step % self.every == 0:
            self.measures[state.global_step] = self.measure()


def watched(reward: Reward, group: int, spreads: list[float]) -> Reward:
    """The reward, which writes down its spread within each group."""

    @wraps(reward)
    def watching(**columns: Any) -> list[float | None]:
        points = reward(**columns)
        known = [point or 0.0 for point in points]
        spreads.extend(pstdev(known[at : at + group]) for at in range(0, len(known), group))
        return points

    return watching


def run_arm(arm: Arm, seed: int, measure: Measure, every: int, artifact: Path) -> Outcome:
    """Train one arm with one seed."""
    backend.transformers.logging.set_verbosity_error()
    backend.transformers.logging.disable_progress_bar()
    run = training.open_run(arm.recipe, None, seed=seed, artifact=artifact)
    parts = split_dataset(run.read_prompts()[0], seed)
    policy = training.load_policy(run, training.plan_for(run, None))

    def held_out() -> dict[str, float]:
        drawn = evaluation.evaluate(policy, parts["held_out"], arm.recipe.tags, run.sampling, seed)
        policy.model.train()
        return measure(drawn)

    spreads: list[float] = []
    *others, last = arm.recipe.reward_funcs
    evaluating = Evaluate(held_out, every)
    trainer = backend.make_trainer(
        policy,
        run.settings,
        [*others, watched(last, run.settings.num_generations, spreads)],
        parts["train"],
        run.folder,
        seed,
        [evaluating],
        save_strategy="no",
        disable_tqdm=True,
        reward_weights=list(arm.recipe.weights.values()),
        **arm.options,
    )
    trainer.remove_callback(backend.transformers.PrinterCallback)
    trainer.train()
    silent = [log["frac_reward_zero_std"] for log in trainer.state.log_history if "reward" in log]
    return Outcome(arm.name, seed, evaluating.measures, spreads, mean(silent))


def run_all(
    arms: Sequence[Arm], measure: Measure, seeds: Sequence[int] = SEEDS, every: int = 20
) -> dict[str, list[Outcome]]:
    """Every arm for every seed, from nothing, in a folder that is removed afterwards.

    Returns:
        The outcomes of each arm by its name, in the order of the seeds.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
    ):
        # Each tiny model once, before the arms that share it.
        taught = {(arm.recipe.name, seed): arm.recipe for arm, seed in product(arms, seeds)}
        models = [
            pool.submit(training.base_model, recipe, "tiny", seed, Path(folder))
            for (_, seed), recipe in taught.items()
        ]
        list(_as_completed(models, "tiny models"))
        jobs = [
            pool.submit(run_arm, arm, seed, measure, every, Path(folder))
            for seed, arm in product(seeds, arms)
        ]
        outcomes = [job.result() for job in _as_completed(jobs, "runs")]
    outcomes.sort(key=lambda outcome: outcome.seed)
    return {arm.name: [each for each in outcomes if each.arm == arm.name] for arm in arms}


def shorter(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with so many steps on the tiny model."""
    settings = replace(recipe.tiny.settings, max_steps=steps)
    return replace(recipe, tiny=replace(recipe.tiny, settings=settings))


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """The rows in Markdown."""
    for cells in (rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print("|", " | ".join(cells), "|")


def spread(values: Sequence[float], form: str = ".0%") -> str:
    """The mean, and the least and the most of several seeds."""
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _as_completed(jobs: Sequence[Any], what: str) -> Any:
    return tqdm(as_completed(jobs), total=len(jobs), desc=what, file=sys.stderr)
