"""What this machine has, and the plan that fits it, with the reasons in words.

The plans are pure functions: they ask for nothing but their arguments. The constants of the
memory estimate were fitted to peaks measured on one H200, see `benchmarks/memory.py`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from typing import Literal

from sarashina_grpo.errors import SettingError, UserError
from sarashina_grpo.recipe import Settings

Auto = Literal["auto"]

PACKAGES = ("torch", "transformers", "trl", "peft", "unsloth", "vllm", "datasets")
# Each pass over the layers costs the CPU the same time, however many rows there are: on an H200
# 0.3 s for a model of 3 billion. More rows than these keep that GPU busy without saving passes.
ROWS_AT_ONCE = 64
# Below this, fewer rows at once cost more than keeping what they computed saves.
ROWS_TO_KEEP = 16
DRAW_AT_ONCE = 128

GB = 1e9
# Bytes a weight: bitsandbytes' NF4 has half a byte, and double-quantised scales for blocks of 64.
FOUR_BIT, SIXTEEN_BIT = 0.516, 2
# Bytes a weight of the adapter: the weight itself; its gradient and two moments of 8 bits.
ADAPTER_LOADED, ADAPTER_TRAINED = 4, 6
# Measured: values of the MLP's width that are kept for a token, beside one a layer of the model's
# width, where the rest is computed again for the gradient; and where it is not, values of the MLP's
# and of the model's width in each layer. Bytes for each logit of the one row that is scored at a
# time.
KEPT_IN_TRAINING, KEPT_IN_PREFILL, BYTES_PER_LOGIT = 5.3, 4.75, 6.5
KEPT_IN_EACH_LAYER = 2, 7.5
# What the driver, the libraries and the gaps between tensors take.
CONTEXT_GB, GAPS = 0.6, 0.05
# vLLM's own: CUDA graphs and the activations of its longest batch.
VLLM_GB = 2.5
# On a GPU with less memory than this, vLLM's cache and training have it in turns: these have to
# be in the environment before Unsloth is imported.
STANDBY_BELOW_GB = 48
STANDBY_OPTIONS = {"UNSLOTH_VLLM_STANDBY": "1", "UNSLOTH_VLLM_STANDBY_UTIL_OVERRIDE": "1"}


@dataclass(frozen=True)
class Gpu:
    """One CUDA device: its name, its memory in GB (10⁹ bytes), and what others hold of it."""

    name: str
    memory_gb: float
    taken_gb: float = 0.0

    @property
    def usable_gb(self) -> float:
        """What is left for tensors."""
        return self.memory_gb * (1 - GAPS) - CONTEXT_GB - self.taken_gb

    @property
    def is_shared(self) -> bool:
        """Whether other programs hold more of it than a desktop does."""
        return self.taken_gb > 1

    @property
    def standby(self) -> bool:
        """Whether vLLM, where it is used, gives its cache back while the model is trained."""
        return self.memory_gb < STANDBY_BELOW_GB


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes that decide a Llama's memory, by the names of its configuration."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """The width before and after each projection of a layer."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        return {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def projection_weights(self) -> int:
        """The weights that 4-bit loading shrinks."""
        one = sum(before * after for before, after in self.projections.values())
        return one * self.num_hidden_layers

    @property
    def embedding_weights(self) -> int:
        """The weights that stay in 16 bits."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def cache_bytes(self) -> int:
        """Keys and values of one token, in 16 bits."""
        return 2 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class Memory:
    """An estimate in GB: what stays, and what training and generating take in their turn.

    `cache_gb` is vLLM's, with room for twice the completions of a step.
    """

    weights_gb: float
    adapter_gb: float
    training_gb: float
    generation_gb: float
    cache_gb: float

    @property
    def peak_gb(self) -> float:
        """The most that is held at once, without vLLM."""
        return self.weights_gb + self.adapter_gb + max(self.training_gb, self.generation_gb)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the model is loaded, sampled from and trained, and why.

    With `standby` vLLM gives its cache back while the model is trained. `micro_batch` is how many
    completions are trained on at once, with `checkpointing` activations are computed again for the
    gradient; `draw_at_once` is how many are drawn at once without vLLM when a model is evaluated;
    `reasons` has a line a choice.
    """

    device: Literal["cuda", "cpu"]
    load_in_4bit: bool
    use_vllm: bool
    standby: bool
    gpu_memory_utilization: float
    micro_batch: int
    checkpointing: bool
    draw_at_once: int
    reasons: dict[str, str]


class PlanError(UserError):
    """Nothing fits; says what to lower, and to what."""


def detect_gpu() -> Gpu | None:
    """The first CUDA device, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    ours = torch.cuda.memory_reserved() + CONTEXT_GB * GB
    return Gpu(torch.cuda.get_device_name(), total / GB, max(0, total - free - ours) / GB)


def make_plan(
    gpu: Gpu,
    shape: ModelShape,
    settings: Settings,
    use_vllm: bool | Auto = "auto",
    load_in_4bit: bool | Auto = "auto",
    checkpointing: bool | Auto = "auto",
) -> Plan:
    """The fastest way to load, sample from and train a model that fits into the GPU.

    vLLM comes first, then 16 bits, then activations that are kept, then many rows at once.

    Raises:
        SettingError: a choice is neither True, False nor "auto".
        PlanError: nothing fits.
    """
    _check_choices(use_vllm, load_in_4bit)
    vllm_choices = [True, False] if use_vllm == "auto" else [use_vllm]
    bit_choices = [False, True] if load_in_4bit == "auto" else [load_in_4bit]
    passes = list(_passes(settings, checkpointing))
    for vllm, four_bit, (again, rows) in product(vllm_choices, bit_choices, passes):
        memory = estimate(
            shape, settings, load_in_4bit=four_bit, micro_batch=rows, checkpointing=again
        )
        if _needed_gb(memory, vllm) <= gpu.usable_gb:
            plan = Plan(
                device="cuda",
                load_in_4bit=four_bit,
                use_vllm=vllm,
                standby=vllm and gpu.standby,
                gpu_memory_utilization=_utilization(gpu, memory) if vllm else 0.0,
                micro_batch=rows,
                checkpointing=again,
                draw_at_once=_draw_at_once(gpu, shape, settings, memory),
                reasons={},
            )
            asked_for = use_vllm != "auto", load_in_4bit != "auto"
            return replace(plan, reasons=_reasons(plan, gpu, settings, memory, *asked_for))
    raise PlanError(_advice(gpu, shape, settings, bool(vllm_choices[-1]), bool(bit_choices[-1])))


def cpu_plan(
    settings: Settings, use_vllm: bool | Auto = "auto", load_in_4bit: bool | Auto = "auto"
) -> Plan:
    """The plan without a GPU: 32 bits, Hugging Face generation, the recipe's batch.

    Raises:
        SettingError: vLLM or 4 bits are asked for, or a choice is neither True, False nor "auto".
    """
    _check_choices(use_vllm, load_in_4bit)
    for name, choice in (("USE_VLLM", use_vllm), ("LOAD_IN_4BIT", load_in_4bit)):
        if choice is True:
            raise SettingError(f'{name}=True needs a CUDA GPU, and none was found; use "auto"')
    return Plan(
        device="cpu",
        load_in_4bit=False,
        use_vllm=False,
        standby=False,
        gpu_memory_utilization=0.0,
        micro_batch=settings.per_device_train_batch_size,
        checkpointing=False,
        draw_at_once=DRAW_AT_ONCE,
        reasons={"device": "CPU: no CUDA GPU was found"},
    )


def estimate(
    shape: ModelShape,
    settings: Settings,
    *,
    load_in_4bit: bool,
    micro_batch: int,
    checkpointing: bool = True,
) -> Memory:
    """What training with Unsloth takes at the longest prompt and completion."""
    width, inner = shape.hidden_size, shape.intermediate_size
    tokens = settings.max_prompt_length + settings.max_completion_length
    adapter = _adapter_weights(shape, settings)
    bytes_per_weight = FOUR_BIT if load_in_4bit else SIXTEEN_BIT
    weights = shape.projection_weights * bytes_per_weight + shape.embedding_weights * SIXTEEN_BIT
    layers = shape.num_hidden_layers
    inner_kept, width_kept = KEPT_IN_EACH_LAYER
    values = (
        layers * width + KEPT_IN_TRAINING * inner
        if checkpointing
        else layers * (width_kept * width + inner_kept * inner)
    )
    training = (
        adapter * ADAPTER_TRAINED
        + (SIXTEEN_BIT * width * inner if load_in_4bit else 0)
        + micro_batch * tokens * values * SIXTEEN_BIT
        + settings.max_completion_length * shape.vocab_size * BYTES_PER_LOGIT
    )
    generation = settings.generation_batch_size * _drawing_bytes(shape, settings, tokens)
    # vLLM refuses less than one sequence.
    cached = max(2 * settings.generation_batch_size * tokens, settings.max_seq_length)
    return Memory(
        weights_gb=weights / GB,
        adapter_gb=adapter * ADAPTER_LOADED / GB,
        training_gb=training / GB,
        generation_gb=generation / GB,
        cache_gb=cached * shape.cache_bytes / GB,
    )


def micro_batches(settings: Settings) -> Iterator[int]:
    """How many completions may be trained on at once, the most first."""
    total = settings.generation_batch_size
    return (rows for rows in range(min(total, ROWS_AT_ONCE), 0, -1) if total % rows == 0)


def _passes(settings: Settings, checkpointing: bool | Auto) -> Iterator[tuple[bool, int]]:
    """Whether activations are computed again, and how many completions at once, fastest first."""
    total = settings.generation_batch_size
    if checkpointing is not True:
        fewest = 1 if checkpointing is False else min(total, ROWS_TO_KEEP)
        yield from ((False, rows) for rows in micro_batches(settings) if rows >= fewest)
    if checkpointing is not False:
        yield from ((True, rows) for rows in micro_batches(settings))


def versions() -> dict[str, str]:
    """The versions of the packages that decide how a run goes."""
    return {package: version(package) for package in PACKAGES}


def _adapter_weights(shape: ModelShape, settings: Settings) -> int:
    widths = sum(sum(shape.projections.get(name, (0, 0))) for name in settings.lora_targets)
    return settings.lora_rank * widths * shape.num_hidden_layers


def _drawing_bytes(shape: ModelShape, settings: Settings, tokens: int) -> float:
    """What one completion takes while it is drawn: its cache, and its prompt when that is read."""
    prompt = settings.max_prompt_length * 2 * KEPT_IN_PREFILL * shape.intermediate_size
    return tokens * shape.cache_bytes + prompt


def _draw_at_once(gpu: Gpu, shape: ModelShape, settings: Settings, memory: Memory) -> int:
    one = _drawing_bytes(shape, settings, settings.max_seq_length)
    free_gb = gpu.usable_gb - memory.weights_gb - memory.adapter_gb
    return max(1, min(DRAW_AT_ONCE, int(free_gb * GB / one)))


def _utilization(gpu: Gpu, memory: Memory) -> float:
    """The share of the GPU that vLLM gets: what it needs, and up to half where that is free."""
    free_gb = gpu.usable_gb - memory.adapter_gb - memory.training_gb
    needed_gb = memory.weights_gb + VLLM_GB + memory.cache_gb
    return math.floor(100 * max(needed_gb, min(gpu.memory_gb / 2, free_gb)) / gpu.memory_gb) / 100


def _check_choices(use_vllm: bool | Auto, load_in_4bit: bool | Auto) -> None:
    for name, choice in (("USE_VLLM", use_vllm), ("LOAD_IN_4BIT", load_in_4bit)):
        if not isinstance(choice, bool) and choice != "auto":
            raise SettingError(f'{name} must be True, False or "auto", got {choice!r}')


def _reasons(
    plan: Plan,
    gpu: Gpu,
    settings: Settings,
    memory: Memory,
    vllm_asked_for: bool,
    bits_asked_for: bool,
) -> dict[str, str]:
    """A plan for CUDA in words."""
    bits, total = 4 if plan.load_in_4bit else 16, settings.generation_batch_size
    why_bits = "16 would not fit" if plan.load_in_4bit else "faster, and fits"
    why_vllm = "faster, and fits" if plan.use_vllm else "vLLM would not fit"
    why_share = "given back while training" if plan.standby else "kept, there is room"
    share = f"{plan.gpu_memory_utilization:.0%} of the GPU: {why_share}"
    why_rows = "fit" if 2 * plan.micro_batch <= ROWS_AT_ONCE else "be faster"
    times = f", {total // plan.micro_batch} times a step: more would not {why_rows}"
    why_again = "computed again for the gradient: keeping them would not fit"
    needed_gb = _needed_gb(memory, plan.use_vllm)
    return {
        "device": f"CUDA: {gpu.name} with {gpu.memory_gb:.0f} GB"
        + (f", {gpu.taken_gb:.1f} GB of them taken" if gpu.is_shared else ""),
        "weights": f"{bits} bits, {memory.weights_gb:.1f} GB: "
        + ("as asked for" if bits_asked_for else why_bits),
        "generation": ("vLLM: " if plan.use_vllm else "Hugging Face: ")
        + ("as asked for" if vllm_asked_for else why_vllm),
        "vLLM's memory": share if plan.use_vllm else "none",
        "completions a step": f"{total}, all drawn at once",
        "trained at once": f"{plan.micro_batch}" + (times if plan.micro_batch < total else ""),
        "activations": why_again if plan.checkpointing else "kept: faster, and they fit",
        "peak memory": f"about {needed_gb:.1f} GB at the longest prompt and completion",
    }


def _needed_gb(memory: Memory, vllm: bool) -> float:
    """The peak; vLLM shares its weights with training, and standby was not seen to lower it."""
    if not vllm:
        return memory.peak_gb
    loaded_gb = memory.weights_gb + memory.adapter_gb + VLLM_GB
    return loaded_gb + memory.cache_gb + memory.training_gb


def _advice(gpu: Gpu, shape: ModelShape, settings: Settings, vllm: bool, four_bit: bool) -> str:
    """What is missing, and the ways out, for the choices that take the least."""

    def needed(lengths: Settings) -> float:
        memory = estimate(shape, lengths, load_in_4bit=four_bit, micro_batch=1)
        return _needed_gb(memory, vllm)

    asked_for = (("USE_VLLM", vllm), ("LOAD_IN_4BIT", not four_bit))
    ways = [f'set {name} = "auto"' for name, overruled in asked_for if overruled]
    if gpu.is_shared:
        ways.append(f"end the programs that hold {gpu.taken_gb:.1f} GB of the GPU")
    shorter = (_shorten(settings, percent) for percent in range(95, 0, -5))
    fitting = next((lengths for lengths in shorter if needed(lengths) <= gpu.usable_gb), None)
    if fitting:
        ways.append(
            "lower max_prompt_length and max_completion_length, to "
            f"{fitting.max_prompt_length} and {fitting.max_completion_length} tokens"
        )
    else:
        weights_gb = estimate(shape, settings, load_in_4bit=four_bit, micro_batch=1).weights_gb
        ways.append(f"use a smaller model: the weights alone take {weights_gb:.1f} GB")
    return (
        f"the run needs about {needed(settings):.1f} GB, one completion at a time, and {gpu.name} "
        f"has {gpu.usable_gb:.1f} GB to use; {', or '.join(ways)}"
    )


def _shorten(settings: Settings, percent: int) -> Settings:
    prompt, completion = (
        length * percent // 100
        for length in (settings.max_prompt_length, settings.max_completion_length)
    )
    return replace(settings, max_prompt_length=prompt, max_completion_length=completion)
