"""Does the tiny model learn, for every seed? Format rate before and after, as in the notebook.

    uv run python benchmarks/seeds.py [SEED ...]

Each seed has a split, a tiny model, an adapter and samples of its own. Prints the table of
LOG.md; everything is built from nothing in a temporary folder.
"""

import sys
import tempfile
import time
from pathlib import Path

from sarashina_grpo import evaluation, hardware, training
from sarashina_grpo.data import split_dataset
from sarashina_grpo.evaluation import Evaluation
from sarashina_grpo.recipes import get_recipe


def rate(result: Evaluation) -> str:
    """The format rate with its 95% interval."""
    low, high = evaluation.wilson_interval(result.well_formed, len(result.completions))
    return f"{result.format_rate:.1%} ({low:.1%} to {high:.1%})"


def measure(seed: int, artifact: Path) -> str:
    """One row: rates, distinct replies, and seconds for building and training."""
    recipe = get_recipe("smalltalk")
    plan = hardware.make_plan(hardware.detect_gpu())
    run = training.open_run(recipe, plan, model_name="tiny", seed=seed, artifact=artifact)
    parts = split_dataset(recipe.load_dataset(), seed)
    prompts = parts["held_out"]["prompt"]

    started = time.perf_counter()
    policy = training.load_policy(run, plan)
    built = time.perf_counter()
    before = evaluation.evaluate(policy, prompts, recipe.tags, run.sampling, seed)
    trained_from = time.perf_counter()
    training.train(run, policy, parts["train"])
    trained = time.perf_counter()
    after = evaluation.evaluate(policy, prompts, recipe.tags, run.sampling, seed)
    return (
        f"| {seed} | {rate(before)} | {rate(after)} | {before.distinct_replies} | "
        f"{after.distinct_replies} | {built - started:.0f} | {trained - trained_from:.0f} |"
    )


def main() -> None:
    """Print the table."""
    seeds = [int(seed) for seed in sys.argv[1:]] or list(range(5))
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(seed, Path(folder)) for seed in seeds]
    print("| seed | before | after | replies before | after | build, s | train, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
