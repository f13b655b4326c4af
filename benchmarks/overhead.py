"""What do our hundred steps cost over a bare TRL script that does the same steps?

    uv run python benchmarks/overhead.py [ROUNDS]

Both train the same tiny model on the same prompts with the same GRPOConfig, save as often,
and write to TensorBoard; the rounds alternate. Prints seconds and the ratio of the medians.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from sarashina_grpo import hardware, training
from sarashina_grpo.backend import make_trainer, transformers
from sarashina_grpo.data import split_dataset
from sarashina_grpo.recipes import get_recipe

RECIPE = get_recipe("smalltalk")
GPU = hardware.detect_gpu()


def ours(artifact: Path) -> float:
    """Seconds of our training, from the call to its return."""
    run = training.open_run(RECIPE, GPU, model_name="tiny", artifact=artifact)
    policy = training.load_policy(run, training.plan_for(run, GPU))
    prompts = split_dataset(RECIPE.load_dataset(), run.seed)["train"]
    started = time.perf_counter()
    training.train(run, policy, prompts)
    return time.perf_counter() - started


def bare(artifact: Path) -> float:
    """Seconds of TRL's trainer alone, with Hugging Face's own TensorBoard callback."""
    run = training.open_model(RECIPE, GPU, checkpoint=None, model_name="tiny", artifact=artifact)
    policy = training.load_policy(run, training.plan_for(run, GPU))
    prompts = split_dataset(RECIPE.load_dataset(), run.seed)["train"]
    callback = transformers.integrations.TensorBoardCallback()
    started = time.perf_counter()
    trainer = make_trainer(
        policy, run.settings, RECIPE.reward_funcs, prompts, artifact / "bare", run.seed, [callback]
    )
    trainer.train()
    return time.perf_counter() - started


def main() -> None:
    """Alternate both and compare the medians."""
    rounds = int(sys.argv[1]) if sys.argv[1:] else 3
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            seconds["bare"].append(bare(Path(folder)))
            seconds["ours"].append(ours(Path(folder)))
    for name, values in seconds.items():
        print(f"{name}: " + ", ".join(f"{value:.1f} s" for value in values))
    ratio = statistics.median(seconds["ours"]) / statistics.median(seconds["bare"])
    print(f"ours / bare, medians: {ratio:.3f}")


if __name__ == "__main__":
    main()
