"""What does a GRPO step cost, and where does its time go? All contenders on one GPU, in turn.

    uv run python benchmarks/grpo_step.py FOLDER [CONTENDER:COMPLETIONSxTOKENS ...]

Each job has a process of its own, the same model (Sarashina's shape, random weights, made in
FOLDER), the same prompts of about 128 tokens, the same rewards and LoRA settings:

    seed      Unsloth, 4-bit, Hugging Face generation: the settings of the seed's notebook
    trl       TRL alone, 16-bit, Hugging Face generation
    trl-vllm  TRL alone, 16-bit, vLLM in the same process
    ours      this project, as `hardware.make_plan` plans it

Prints a table, and writes what it measured to FOLDER/grpo_step.json.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shapes import SHAPES

from sarashina_grpo import hardware
from sarashina_grpo.recipe import Settings
from sarashina_grpo.recipes import get_recipe

MODEL = "sarashina2.2-3b"
STEPS = 4
PROMPT = [{"role": "user", "content": " a" * 60}]
RECIPE = get_recipe("smalltalk")
JOBS = (
    *("seed:6x256", "trl:6x256", "trl-vllm:6x256", "ours:6x256"),
    *("trl-vllm:64x256", "ours:64x256", "trl-vllm:128x256", "ours:128x256"),
)
COLUMNS = (
    *("job", "s_per_step", "generating_s", "scoring_s", "training_s", "saving_s"),
    *("tokens_per_s", "peak_gb", "first_step_after_s", "roofline_s", "over_roofline"),
)


def coin_reward(*, completions: list[Any], **_: Any) -> list[float]:
    """Heads, tails: random weights never keep to a format, and every group needs a winner."""
    return [float(number % 2) for number in range(len(completions))]


def settings_of(job: str) -> tuple[str, Settings]:
    """The contender, and the recipe's settings with the job's batch and length."""
    contender, _, size = job.partition(":")
    completions, tokens = map(int, size.split("x"))
    return contender, replace(
        RECIPE.settings,
        num_generations=6 if completions % 6 == 0 else 8,
        per_device_train_batch_size=completions,
        max_prompt_length=128,
        max_completion_length=tokens,
        max_seq_length=128 + tokens,
        max_steps=STEPS,
        save_steps=STEPS,
    )


def make_ours(
    backend: Any, plan: hardware.Plan, settings: Settings, path: Path, output: Path, dataset: Any
) -> Any:
    """This project's trainer, which on CUDA is Unsloth's."""
    policy = backend.load_base(path, settings, plan, 0)
    rewards = [*RECIPE.reward_funcs, coin_reward]
    return backend.make_trainer(policy, settings, rewards, dataset, output, 0, [])


def make_bare(vllm: bool, settings: Settings, path: Path, output: Path, dataset: Any) -> Any:
    """TRL's trainer as its documentation sets it up, with the same values."""
    import peft
    import torch
    import transformers
    import trl

    rows = next(iter(hardware.micro_batches(settings)))
    on_gpu = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.4}
    options = trl.GRPOConfig(
        output_dir=str(output),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=settings.generation_batch_size // rows,
        num_generations=settings.num_generations,
        max_completion_length=settings.max_completion_length,
        learning_rate=settings.learning_rate,
        optim=settings.optim,
        max_grad_norm=settings.max_grad_norm,
        max_steps=settings.max_steps,
        save_steps=settings.save_steps,
        bf16=True,
        gradient_checkpointing=True,
        logging_steps=1,
        report_to="none",
        **(on_gpu | {"vllm_max_model_length": settings.max_seq_length} if vllm else {}),
    )
    adapter = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules=list(settings.lora_targets),
        task_type="CAUSAL_LM",
    )
    return trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.bfloat16, device_map="cuda"
        ),
        processing_class=transformers.AutoTokenizer.from_pretrained(path, padding_side="left"),
        reward_funcs=[*RECIPE.reward_funcs, coin_reward],
        args=options,
        train_dataset=dataset,
        peft_config=adapter,
    )


class Clock:
    """Seconds by name, each waiting for the GPU; a list, one item a call."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def time(self, name: str) -> Any:
        """Time a block."""
        import torch

        torch.cuda.synchronize()
        started = time.perf_counter()
        yield
        torch.cuda.synchronize()
        self.seconds[name].append(time.perf_counter() - started)

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time every call of a method."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **options: Any) -> Any:
            with self.time(name):
                return original(*args, **options)

        setattr(owner, method, timed)


def measure(job: str, folder: Path) -> dict[str, Any]:
    """Load, train STEPS steps, and say what each part took; the first step is left out."""
    started = time.perf_counter()
    contender, settings = settings_of(job)
    # Unsloth patches what is imported after it, so it is imported here, or not at all.
    make: Callable[..., Any]
    if contender in ("seed", "ours"):
        from sarashina_grpo import backend

        choices = {"use_vllm": False, "four_bit": True} if contender == "seed" else {}
        make = partial(make_ours, backend, plan_of(settings, **choices))
    else:
        make = partial(make_bare, contender == "trl-vllm")
    import datasets
    import torch
    import transformers

    class Steps(transformers.TrainerCallback):
        """When each step began and ended."""

        def __init__(self) -> None:
            self.begun: list[float] = []
            self.ended: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self.begun.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self.ended.append(time.perf_counter())

    dataset = datasets.Dataset.from_dict({"prompt": [PROMPT] * STEPS * settings.prompts_per_step})
    clock, steps = Clock(), Steps()
    with tempfile.TemporaryDirectory() as output:
        trainer = make(settings, folder / MODEL, Path(output), dataset)
        trainer.add_callback(steps)
        clock.watch(trainer, "_generate", "generating")
        clock.watch(trainer, "_calculate_rewards", "scoring")
        clock.watch(trainer, "_save_checkpoint", "saving")
        trainer.train()
    lasted = [end - begin for begin, end in zip(steps.begun, steps.ended, strict=True)][1:]
    seconds = statistics.mean(lasted)
    generating = statistics.mean(clock.seconds["generating"][1:])
    scoring = statistics.mean(clock.seconds["scoring"][1:])
    tokens = settings.generation_batch_size * settings.max_completion_length
    roof = roofline(settings)
    return {
        "job": job,
        "s_per_step": seconds,
        "generating_s": generating,
        "scoring_s": scoring,
        "training_s": seconds - generating - scoring,
        "saving_s": statistics.mean(clock.seconds["saving"]),
        "tokens_per_s": tokens / seconds,
        "peak_gb": torch.cuda.max_memory_reserved() / 1e9,
        "first_step_after_s": steps.begun[0] - started,
        "first_step_s": steps.ended[0] - steps.begun[0],
        "roofline_s": roof,
        "over_roofline": seconds / roof,
        "all_steps_s": lasted,
        "gpu": torch.cuda.get_device_name(),
        "versions": hardware.versions(),
    }


def plan_of(settings: Settings, use_vllm: Any = "auto", four_bit: Any = "auto") -> hardware.Plan:
    """The plan for the job on this GPU."""
    gpu = hardware.detect_gpu()
    assert gpu is not None, "this needs a GPU"
    return hardware.make_plan(gpu, SHAPES[MODEL], settings, use_vllm, four_bit)


def roofline(settings: Settings) -> float:
    """The least seconds for a step: weights read once a token, FLOPs at this GPU's own rates."""
    import torch

    shape = SHAPES[MODEL]
    weights = shape.projection_weights + shape.hidden_size * shape.vocab_size
    buffer = torch.empty(2 * 10**9, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(buffer)
    bandwidth = 2 * len(buffer) / _best_of(lambda: target.copy_(buffer))
    matrix = torch.ones(8192, 8192, dtype=torch.bfloat16, device="cuda")
    rate = 2 * 8192**3 / _best_of(lambda: matrix @ matrix)
    reading = settings.max_completion_length * 2 * weights / bandwidth
    # Forward, recomputed forward, and the gradients of activations: the weights have none.
    flops = 6 * weights * settings.generation_batch_size * settings.max_seq_length
    return reading + flops / rate


def _best_of(work: Callable[[], Any], times: int = 10) -> float:
    import torch

    seconds = []
    for _ in range(times):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Measure each job in a process of its own, and print the table."""
    folder, *jobs = Path(sys.argv[1]), *sys.argv[2:]
    if jobs[:1] == ["--one"]:
        print(json.dumps(measure(jobs[1], folder)), flush=True)
        return
    make = f"import shapes, pathlib; shapes.make_model({MODEL!r}, pathlib.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", make], cwd=Path(__file__).parent, check=True)
    results = []
    for job in jobs or JOBS:
        command = [sys.executable, __file__, str(folder), "--one", job]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"job"')]
        if done.returncode or not lines:
            print(f"{job} failed with {done.returncode}", file=sys.stderr)
            continue
        results.append(json.loads(lines[-1]))
        (folder / "grpo_step.json").write_text(json.dumps(results, indent=2))
    for cells in (COLUMNS, ["---"] * len(COLUMNS)):
        print("|", " | ".join(cells), "|")
    for result in results:
        cells = [result[name] for name in COLUMNS]
        print("|", " | ".join(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells), "|")


if __name__ == "__main__":
    main()
