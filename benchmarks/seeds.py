"""Does the tiny model learn, for every seed? Rates before and after, as in the notebook.

    uv run python benchmarks/seeds.py RECIPE [SEED ...]

Each seed has a split, a tiny model, an adapter and samples of its own. Prints the table of
LOG.md; everything is built from nothing in a temporary folder.
"""

import sys
import tempfile
import time
from pathlib import Path

from sarashina_grpo import evaluation, hardware, training
from sarashina_grpo.data import split_dataset
from sarashina_grpo.recipes import get_recipe


def rate(successes: int, total: int) -> str:
    """A rate with its 95% interval."""
    low, high = evaluation.wilson_interval(successes, total)
    return f"{successes / total:.1%} ({low:.1%} to {high:.1%})"


def measure(recipe_name: str, seed: int, artifact: Path) -> dict[str, str]:
    """One row: rates, distinct replies, and seconds for building and training."""
    recipe = get_recipe(recipe_name)
    gpu = hardware.detect_gpu()
    run = training.open_run(recipe, gpu, model_name="tiny", seed=seed, artifact=artifact)
    plan = training.plan_for(run, gpu)
    parts = split_dataset(run.read_prompts()[0], seed)

    started = time.perf_counter()
    policy = training.load_policy(run, plan)
    built = time.perf_counter()
    before = evaluation.evaluate(policy, parts["held_out"], recipe.tags, run.sampling, seed)
    trained_from = time.perf_counter()
    training.train(run, policy, parts["train"])
    trained = time.perf_counter()
    after = evaluation.evaluate(policy, parts["held_out"], recipe.tags, run.sampling, seed)
    rates = {
        f"{name}, {when}": rate(*counted)
        for name in before.rates
        for when, counted in (("before", before.rates[name]), ("after", after.rates[name]))
    }
    return {
        "seed": str(seed),
        **rates,
        "replies": f"{before.distinct_replies}, {after.distinct_replies}",
        "build, s": f"{built - started:.0f}",
        "train, s": f"{trained - trained_from:.0f}",
    }


def main() -> None:
    """Print the table."""
    recipe_name, *chosen = sys.argv[1:]
    seeds = [int(seed) for seed in chosen] or list(range(5))
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(recipe_name, seed, Path(folder)) for seed in seeds]
    for cells in (rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
