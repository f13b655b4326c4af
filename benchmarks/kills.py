"""Is anything lost when training is killed? Kills it at random moments, resumes, and compares.

    uv run python benchmarks/kills.py KILLS [SEED [TINY]]

A run of the tiny small-talk model is killed with SIGKILL: every third time while it saves, else
at any moment. It goes on from its last checkpoint until it is done, and has to end with the
weights and rewards, to the last bit, of a run that was never killed. Exits with 1 if not. TINY is
a folder with a tiny model that was built before, `artifact/tiny`.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

STEPS, SAVE_STEPS = 12, 2
SERVER = multiprocessing.get_context("forkserver")
# Imported once, in a process that never computes; each run is a fork of it.
SERVER.set_forkserver_preload(["sarashina_grpo.training"])


def train(artifact: Path) -> None:
    """Start the run, or go on with it where there is a checkpoint."""
    from sarashina_grpo import training
    from sarashina_grpo.data import split_dataset
    from sarashina_grpo.recipes import get_recipe

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    recipe = get_recipe("smalltalk")
    batch = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 48}
    settings = replace(recipe.tiny.settings, max_steps=STEPS, save_steps=SAVE_STEPS, **batch)
    recipe = replace(recipe, tiny=replace(recipe.tiny, settings=settings))
    resume = any(training.is_complete(path) for path in artifact.glob("outputs/*/*/checkpoint-*"))
    run = training.open_run(recipe, None, model_name="tiny", resume=resume, artifact=artifact)
    policy = training.load_policy(run, training.plan_for(run, None))
    training.train(run, policy, split_dataset(run.read_prompts()[0], 0)["train"])


def start(artifact: Path) -> Any:
    """The process that trains."""
    process = SERVER.Process(target=train, args=(artifact,))
    process.start()
    return process


def half_saved(artifact: Path) -> bool:
    """Whether a checkpoint is being written right now."""
    folders = artifact.glob("outputs/*/*/checkpoint-*")
    return any(not (folder / "trainer_state.json").is_file() for folder in folders)


def kill(process: Any, is_time: Callable[[], bool]) -> bool:
    """Kill the process when it is time; False if it was done before."""
    while process.is_alive():
        if is_time():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            return True
        time.sleep(0.0005)
    return False


def result(artifact: Path) -> tuple[bytes, list[float], list[str]]:
    """The last run's final weights and rewards, and the checkpoints that are not whole."""
    from sarashina_grpo import training

    folders = sorted(path.parent for path in artifact.glob("outputs/*/*/run.json"))
    last = folders[-1] / f"checkpoint-{STEPS}"
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    rewards = [entry["reward"] for entry in history if "reward" in entry]
    broken = [path.name for folder in folders for path in training.half_written(folder)]
    return (last / "adapter_model.safetensors").read_bytes(), rewards, broken


def main() -> None:
    """Run, kill, resume, compare."""
    kills, seed, *tiny = sys.argv[1:] if len(sys.argv) > 2 else [sys.argv[1], "0"]
    chance = random.Random(int(seed))
    with tempfile.TemporaryDirectory() as scratch:
        whole, broken = Path(scratch, "whole"), Path(scratch, "broken")
        started = time.perf_counter()
        for folder in tiny:
            shutil.copytree(folder, whole / "tiny")
        start(whole).join()
        shutil.copytree(whole / "tiny", broken / "tiny")
        done = saving = 0
        while done < int(kills):
            process = start(broken)
            until = time.perf_counter() + chance.uniform(1, 12)
            if done % 3 == 2:
                saving += kill(process, lambda: half_saved(broken))
                done += 1
            elif kill(process, lambda until=until: time.perf_counter() >= until):
                done += 1
            else:
                shutil.rmtree(broken / "outputs")  # it was done; once more from the start
        start(broken).join()
        expected, got = result(whole), result(broken)
        same = expected[:2] == got[:2]
        print(
            f"{done} kills, {saving} of them during a save; the same weights and rewards: {same}; "
            f"half-written checkpoints left: {got[2]}; {time.perf_counter() - started:.0f} s"
        )
    sys.exit(not same)


if __name__ == "__main__":
    main()
