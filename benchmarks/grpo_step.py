"""What does a GRPO step cost, and where does its time go? All contenders on one GPU, in turn.

    uv run python benchmarks/grpo_step.py FOLDER [CONTENDER:SIZE[,SIZE ...] ...]

A size is PROMPTSxGROUPxTOKENS: 8x8x256 is 64 completions of 256 tokens. Each job has a process
of its own, the same model (Sarashina's shape, random weights, made in FOLDER), the same prompts
of about 128 tokens, the same rewards and LoRA settings:

    seed      Unsloth, 4-bit, Hugging Face generation: the settings of the seed's notebook
    trl       TRL alone, 16-bit, Hugging Face generation
    trl-vllm  TRL alone, 16-bit, vLLM in the same process
    unsloth   Unsloth, 16-bit, vLLM, everything else as Unsloth has it
    ours      this project, as `hardware.make_plan` plans it

Prints a table, and writes what it measured to FOLDER/grpo_step.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
    *("seed:1x6x256", "trl:1x6x256", "unsloth:1x6x256"),
    *(f"trl-vllm:{size}" for size in ("1x6x256", "8x8x256", "16x8x256", "32x8x256")),
    "ours:1x6x256,8x8x256,16x8x256,32x8x256",
    "ours:1x8x256,1x8x512,1x8x1024,1x8x2048",
    "ours:1x4x256,1x16x256,1x32x256,1x64x256",
)
PLANNED = {
    "seed": {"use_vllm": False, "load_in_4bit": True, "checkpointing": True},
    "unsloth": {"use_vllm": True, "checkpointing": True},
}
COLUMNS = (
    *("contender", "size", "s_per_step", "generating_s", "scoring_s", "training_s", "saving_s"),
    *("tokens_per_s", "peak_gb", "ready_s", "first_step_s", "roofline_s", "over_roofline"),
)


def coin_reward(*, completions: list[Any], **_: Any) -> list[float]:
    """Heads, tails: random weights never keep to a format, and every group needs a winner."""
    return [float(number % 2) for number in range(len(completions))]


def settings_of(size: str) -> Settings:
    """The recipe's settings with the size's batch and length."""
    prompts, group, tokens = map(int, size.split("x"))
    return replace(
        RECIPE.settings,
        num_generations=group,
        per_device_train_batch_size=prompts * group,
        gradient_accumulation_steps=1,
        max_prompt_length=128,
        max_completion_length=tokens,
        max_seq_length=128 + tokens,
        max_steps=STEPS,
        save_steps=STEPS,
    )


def unsloth_trainers(contender: str, sizes: Sequence[str], path: Path) -> Callable[..., Any]:
    """Makes this project's trainers, which on CUDA are Unsloth's, around one loaded model."""
    from sarashina_grpo import backend

    def plan(settings: Settings) -> hardware.Plan:
        gpu = hardware.detect_gpu()
        assert gpu is not None, "this needs a GPU"
        return hardware.make_plan(gpu, SHAPES[MODEL], settings, **PLANNED.get(contender, {}))

    def cost(settings: Settings) -> int:
        return settings.generation_batch_size * settings.max_seq_length

    longest = max(settings_of(size).max_seq_length for size in sizes)
    largest = max((settings_of(size) for size in sizes), key=cost)
    policy = backend.load_base(
        path, replace(largest, max_seq_length=longest), plan(largest), seed=0
    )
    # As Unsloth does without a word from us: all rows at once, in four pieces each.
    bare = {"gradient_accumulation_steps": 1, "unsloth_logit_chunk_multiplier": None}

    def make(settings: Settings, dataset: Any, output: Path) -> Any:
        rows = {"per_device_train_batch_size": settings.generation_batch_size}
        return backend.make_trainer(
            replace(policy, plan=plan(settings)),
            settings,
            [*RECIPE.reward_funcs, coin_reward],
            dataset,
            output,
            0,
            [],
            **(bare | rows if contender == "unsloth" else {}),
        )

    return make


def bare_trainers(contender: str, path: Path) -> Callable[..., Any]:
    """Makes TRL's trainer as its documentation sets it up, with the same values."""
    import peft
    import torch
    import transformers
    import trl

    def make(settings: Settings, dataset: Any, output: Path) -> Any:
        rows = next(iter(hardware.micro_batches(settings)))
        vllm = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.4}
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
            **(vllm if contender == "trl-vllm" else {}),
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

    return make


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

    def mean(self, name: str, skip: int = 0) -> float:
        """The mean of a name's seconds, without the first few."""
        return statistics.mean(self.seconds[name][skip:])


def measure(contender: str, sizes: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Load, train STEPS steps of each size, and say what each part took after the first step."""
    started = time.perf_counter()
    path = folder / MODEL
    # Unsloth patches what is imported after it, so it is imported here, or not at all.
    if contender in ("trl", "trl-vllm"):
        make = bare_trainers(contender, path)
    else:
        make = unsloth_trainers(contender, sizes, path)
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

    for size in sizes:
        settings = settings_of(size)
        prompts = [PROMPT] * STEPS * settings.prompts_per_step
        clock, steps = Clock(), Steps()
        torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as output:
            dataset = datasets.Dataset.from_dict({"prompt": prompts})
            trainer = make(settings, dataset, Path(output))
            trainer.add_callback(steps)
            clock.watch(trainer, "_generate", "generating")
            clock.watch(trainer, "_calculate_rewards", "scoring")
            clock.watch(trainer, "_save_checkpoint", "saving")
            trainer.train()
        lasted = [end - begin for begin, end in zip(steps.begun, steps.ended, strict=True)]
        seconds = statistics.mean(lasted[1:])
        generating, scoring = clock.mean("generating", 1), clock.mean("scoring", 1)
        tokens = settings.generation_batch_size * settings.max_completion_length
        roof = roofline(settings)
        yield {
            "contender": contender,
            "size": size,
            "s_per_step": seconds,
            "generating_s": generating,
            "scoring_s": scoring,
            "training_s": seconds - generating - scoring,
            "saving_s": clock.mean("saving"),
            "tokens_per_s": tokens / seconds,
            "peak_gb": torch.cuda.max_memory_reserved() / 1e9,
            "ready_s": steps.begun[0] - started,
            "first_step_s": lasted[0],
            "roofline_s": roof,
            "over_roofline": seconds / roof,
            "all_steps_s": lasted,
            "gpu": torch.cuda.get_device_name(),
            "versions": hardware.versions(),
        }
        started = time.perf_counter()


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
    # Forward, and the gradients of activations: the weights have none.
    flops = 4 * weights * settings.generation_batch_size * settings.max_seq_length
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


def run_job(job: str, folder: Path) -> Iterator[dict[str, Any]]:
    """What a process of its own measures."""
    contender = job.partition(":")[0]
    # What this project asks of Unsloth, see `backend`, is not Unsloth's own choice.
    plain = {} if contender == "ours" else {"UNSLOTH_VLLM_MERGED_ROLLOUT": "0"}
    command = [sys.executable, __file__, str(folder), "--one", job]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **plain}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"contender"'):
                yield json.loads(line)
    if process.returncode:
        print(f"{job} failed with {process.returncode}", file=sys.stderr)


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """The results in Markdown, a row a size."""
    for cells in (COLUMNS, ["---"] * len(COLUMNS)):
        print("|", " | ".join(cells), "|")
    for result in results:
        cells = [result[name] for name in COLUMNS]
        print("|", " | ".join(f"{c:.2f}" if isinstance(c, float) else c for c in cells), "|")


def main() -> None:
    """Measure each job, and print the table."""
    folder, *jobs = Path(sys.argv[1]), *sys.argv[2:]
    if jobs[:1] == ["--one"]:
        contender, _, sizes = jobs[1].partition(":")
        for result in measure(contender, sizes.split(","), folder):
            print(json.dumps(result), flush=True)
        return
    make = f"import shapes, pathlib; shapes.make_model({MODEL!r}, pathlib.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", make], cwd=Path(__file__).parent, check=True)
    results = []
    for job in jobs or JOBS:
        for result in run_job(job, folder):
            results.append(result)
            (folder / "grpo_step.json").write_text(json.dumps(results, indent=2))
    print_table(results)


if __name__ == "__main__":
    main()
