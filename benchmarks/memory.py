"""Does the memory estimate hold? The peak of a step at full length, a process a configuration.

    uv run python benchmarks/memory.py FOLDER [NAME ...]

Random weights in the recipes' shapes are made in FOLDER. Prints a line of JSON each.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

CONFIGURATIONS = {
    # name: recipe, shape, 4-bit, completions a step, prompt, completion
    "3b-16-short": ("smalltalk", "sarashina2.2-3b", False, 6, 256, 256),
    "3b-16": ("smalltalk", "sarashina2.2-3b", False, 6, 1024, 512),
    "3b-4": ("smalltalk", "sarashina2.2-3b", True, 6, 1024, 512),
    "3b-4-short": ("smalltalk", "sarashina2.2-3b", True, 6, 256, 256),
    "3b-4-rows": ("smalltalk", "sarashina2.2-3b", True, 24, 1024, 512),
    "14b-4": ("qa", "phi-4-14b", True, 4, 1536, 1200),
    "14b-4-short": ("qa", "phi-4-14b", True, 4, 512, 256),
}


def measure(name: str, folder: Path) -> dict[str, object]:
    """Load and train one step at full length."""
    import shapes

    from sarashina_grpo import backend, hardware
    from sarashina_grpo.recipes import get_recipe

    started = time.perf_counter()
    recipe_name, shape, four_bit, rows, prompt, completion = CONFIGURATIONS[name]
    settings = replace(
        get_recipe(recipe_name).settings,
        num_generations=min(rows, 6),
        per_device_train_batch_size=rows,
        max_prompt_length=prompt,
        max_completion_length=completion,
        max_seq_length=prompt + completion,
    )
    path = shapes.make_model(shape, folder)
    gpu = hardware.detect_gpu()
    assert gpu is not None, "this needs a GPU"
    plan = hardware.make_plan(gpu, shapes.SHAPES[shape], settings, False, four_bit)
    made = time.perf_counter()
    policy = backend.load_base(path, settings, plan, 0)
    loaded_gb = backend.torch.cuda.memory_allocated() / 1e9
    loaded = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        seconds, reserved_gb = backend.rehearse(policy, settings, Path(scratch), 0)
    return {
        "name": name,
        "plan": plan.reasons["memory"],
        "loaded_gb": round(loaded_gb, 2),
        "peak_gb": round(backend.torch.cuda.max_memory_allocated() / 1e9, 2),
        "reserved_gb": round(reserved_gb, 2),
        "make_s": round(made - started),
        "load_s": round(loaded - made),
        "two_steps_s": round(time.perf_counter() - loaded),
        "step_s": round(seconds, 2),
    }


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
