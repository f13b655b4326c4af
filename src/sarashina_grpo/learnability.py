"""Which prompts can the model learn from? Those whose completions earn different rewards.

GRPO compares the completions to one prompt; where all of them earn the same, nothing is learned.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from sarashina_grpo.backend import Policy, generate
from sarashina_grpo.errors import SettingError
from sarashina_grpo.recipe import Recipe, Sampling, Settings

if TYPE_CHECKING:
    from datasets import Dataset

SAME = 1e-6


def scan(
    policy: Policy, dataset: "Dataset", recipe: Recipe, settings: Settings, seed: int
) -> pd.DataFrame:
    """Draw a group of completions for each prompt, as in training, and score them.

    A progress bar shows how long it will take.

    Returns:
        One row a prompt: "prompt", "lowest", "mean" and "highest" of its group's rewards, and
        "learnable", whether they differ.
    """
    sampling = Sampling(
        temperature=settings.temperature, top_p=1.0, max_tokens=settings.max_completion_length
    )
    group = settings.num_generations
    at_once = max(1, policy.plan.draw_at_once // group)
    rows = []
    for start in tqdm(range(0, len(dataset), at_once), desc="scanning prompts"):
        batch = dataset[start : start + at_once]
        columns = {name: _repeat(values, group) for name, values in batch.items()}
        completions = generate(policy, columns["prompt"], sampling, seed + start * group)
        totals = total_rewards(recipe, completions, columns)
        for number, prompt in enumerate(batch["prompt"]):
            rewards = pd.Series(totals[number * group : (number + 1) * group])
            rows.append((prompt[-1]["content"], rewards.min(), rewards.mean(), rewards.max()))
    table = pd.DataFrame(rows, columns=["prompt", "lowest", "mean", "highest"])
    return table.assign(learnable=table["highest"] - table["lowest"] > SAME)


def first(dataset: "Dataset", count: int) -> "Dataset":
    """The first prompts of a dataset, to be scanned.

    Raises:
        SettingError: `count` is not a whole number of at least 1.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SettingError(f"SCAN_PROMPTS must be a whole number, 0 for none, got {count!r}")
    return dataset.select(range(min(count, len(dataset))))


def total_rewards(
    recipe: Recipe, completions: Sequence[str], columns: dict[str, list[Any]]
) -> list[float]:
    """What a recipe's rewards make together for each completion; None counts nothing."""
    inputs = {**columns, "prompts": columns["prompt"], "completions": completions}
    weights = [recipe.weights[reward.__name__] for reward in recipe.rewards]
    scores = [reward(**inputs) for reward in recipe.reward_funcs]
    return [
        sum(weight * (score or 0.0) for weight, score in zip(weights, each, strict=True))
        for each in zip(*scores, strict=True)
    ]


def describe_scan(scanned: pd.DataFrame) -> str:
    """How many prompts teach nothing, and why."""
    stuck = scanned[~scanned["learnable"]]
    if stuck.empty:
        return f"each of the {len(scanned)} prompts teaches something: its completions differ"
    always_zero = int((stuck["highest"].abs() <= SAME).sum())
    return (
        f"{len(stuck)} of {len(scanned)} prompts ({len(stuck) / len(scanned):.0%}) teach nothing "
        f"as the model is: all completions earn 0 for {always_zero}, and another, equal reward "
        f"for {len(stuck) - always_zero}"
    )


def _repeat(values: Sequence[Any], times: int) -> list[Any]:
    return [value for value in values for _ in range(times)]
