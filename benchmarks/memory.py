"""Does the memory estimate hold? The peak of a step at full length, a process a configuration.

    uv run python benchmarks/memory.py FOLDER [NAME[@GB] ...]

Random weights in the recipes' shapes are made in FOLDER. With @GB the plan is made for a GPU with
as much memory, and PyTorch gets no more. Prints a line of JSON each.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Configuration:
    """What is loaded and trained: `completions` of `prompt` + `completion` tokens a step.

    With `kept` activations are not computed again for the gradient.
    """

    recipe: str
    shape: str
    load_in_4bit: bool
    completions: int
    prompt: int
    completion: int
    use_vllm: bool = False
    kept: bool = False


SMALL, LARGE = ("smalltalk", "sarashina2.2-3b"), ("qa", "phi-4-14b")
CONFIGURATIONS = {
    "3b-16-short": Configuration(*SMALL, False, 6, 256, 256),
    "3b-16": Configuration(*SMALL, False, 6, 1024, 512),
    "3b-16-rows": Configuration(*SMALL, False, 64, 128, 256),
    "3b-4-short": Configuration(*SMALL, True, 6, 256, 256),
    "3b-4": Configuration(*SMALL, True, 6, 1024, 512),
    "3b-4-rows": Configuration(*SMALL, True, 24, 1024, 512),
    "3b-4-long": Configuration(*SMALL, True, 8, 256, 2048),
    "14b-4": Configuration(*LARGE, True, 4, 1536, 1200),
    "14b-4-short": Configuration(*LARGE, True, 4, 512, 256),
    "14b-4-rows": Configuration(*LARGE, True, 16, 512, 512),
    "3b-16-vllm": Configuration(*SMALL, False, 6, 1024, 512, use_vllm=True),
    "3b-4-vllm": Configuration(*SMALL, True, 6, 1024, 512, use_vllm=True),
    "3b-16-kept": Configuration(*SMALL, False, 6, 1024, 512, kept=True),
    "3b-16-rows-kept": Configuration(*SMALL, False, 64, 128, 256, kept=True),
    "14b-4-short-kept": Configuration(*LARGE, True, 4, 512, 256, kept=True),
    "14b-4-vllm": Configuration(*LARGE, True, 4, 1536, 1200, use_vllm=True),
}


def measure(name: str, folder: Path) -> dict[str, object]:
    """Load and train two steps at full length."""
    import shapes

    from sarashina_grpo import hardware
    from sarashina_grpo.recipes import get_recipe

    started = time.perf_counter()
    key, _, cap = name.partition("@")
    chosen = CONFIGURATIONS[key]
    real = hardware.detect_gpu()
    assert real is not None, "this needs a GPU"
    gpu = replace(real, memory_gb=float(cap)) if cap else real
    if gpu.standby:
        os.environ |= hardware.STANDBY_OPTIONS
    from sarashina_grpo import backend

    cuda = backend.torch.cuda
    smaller = gpu.memory_gb / real.memory_gb
    if cap and not chosen.use_vllm:
        cuda.set_per_process_memory_fraction(smaller - hardware.CONTEXT_GB / real.memory_gb)
    settings = replace(
        get_recipe(chosen.recipe).settings,
        num_generations=2,
        per_device_train_batch_size=chosen.completions,
        gradient_accumulation_steps=1,
        max_prompt_length=chosen.prompt,
        max_completion_length=chosen.completion,
        max_seq_length=chosen.prompt + chosen.completion,
    )
    path = shapes.make_model(chosen.shape, folder)
    shape = shapes.SHAPES[chosen.shape]
    plan = hardware.make_plan(
        gpu, shape, settings, chosen.use_vllm, chosen.load_in_4bit, not chosen.kept
    )
    share = plan.gpu_memory_utilization * smaller
    made = time.perf_counter()
    with Watch() as watch:
        loading = replace(plan, gpu_memory_utilization=share)
        policy = backend.load_base(path, settings, loading, 0)
        loaded = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            seconds, reserved_gb = backend.rehearse(policy, settings, Path(scratch), 0)
    return {
        "name": name,
        "plan": plan.reasons["peak memory"],
        "rows": plan.micro_batch,
        "standby": plan.standby,
        "vllm_gb": round(share * real.memory_gb, 2),
        "peak_gb": round(cuda.max_memory_allocated() / 1e9, 2),
        "reserved_gb": round(reserved_gb, 2),
        "device_gb": round(watch.most_gb, 2),
        "make_s": round(made - started),
        "load_s": round(loaded - made),
        "two_steps_s": round(time.perf_counter() - loaded),
        "step_s": round(seconds, 2),
    }


class Watch(threading.Thread):
    """The most memory that was in use on the device, other processes included."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most_gb = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        """Look ten times a second."""
        import torch

        while not self.done.wait(0.1):
            free, total = torch.cuda.mem_get_info()
            self.most_gb = max(self.most_gb, (total - free) / 1e9)

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


def main() -> None:
    """Measure each configuration in a process of its own."""
    folder, *names = sys.argv[1:]
    if len(names) == 1:
        print(json.dumps(measure(names[0], Path(folder))), flush=True)
        return
    for name in names or CONFIGURATIONS:
        subprocess.run([sys.executable, __file__, folder, name], check=False)


if __name__ == "__main__":
    main()
