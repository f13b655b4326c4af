"""What this machine has, and the plan that fits it, with the reasons in words.

`make_plan` is a pure function: it asks for nothing but its arguments.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

Auto = Literal["auto"]

FOUR_BIT_BELOW_GB = 20
VLLM_FROM_GB = 16
PACKAGES = ("torch", "transformers", "trl", "peft", "unsloth", "vllm", "datasets")


@dataclass(frozen=True)
class Gpu:
    """One CUDA device: its name and its memory in GB (10⁹ bytes)."""

    name: str
    memory_gb: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the model is loaded and sampled from, and why. `reasons` has one line a choice."""

    device: Literal["cuda", "cpu"]
    load_in_4bit: bool
    use_vllm: bool
    gpu_memory_utilization: float
    reasons: dict[str, str]


def detect_gpu() -> Gpu | None:
    """The first CUDA device, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Gpu(properties.name, properties.total_memory / 1e9)


def make_plan(
    gpu: Gpu | None, use_vllm: bool | Auto = "auto", load_in_4bit: bool | Auto = "auto"
) -> Plan:
    """Choose between 4 and 16 bits, and between vLLM and Hugging Face generation.

    Raises:
        ValueError: vLLM or 4 bits are asked for on a machine without CUDA, or a choice is
            neither True, False nor "auto".
    """
    for name, choice in (("USE_VLLM", use_vllm), ("LOAD_IN_4BIT", load_in_4bit)):
        if not isinstance(choice, bool) and choice != "auto":
            raise ValueError(f'{name} must be True, False or "auto", got {choice!r}')
        if choice is True and gpu is None:
            raise ValueError(f'{name}=True needs a CUDA GPU, and none was found; use "auto"')
    if gpu is None:
        reason = "no CUDA GPU was found"
        return Plan(
            device="cpu",
            load_in_4bit=False,
            use_vllm=False,
            gpu_memory_utilization=0.0,
            reasons={"device": f"CPU: {reason}"},
        )
    reasons = {"device": f"CUDA: {gpu.name} with {gpu.memory_gb:.0f} GB"}
    if load_in_4bit == "auto":
        load_in_4bit = gpu.memory_gb < FOUR_BIT_BELOW_GB
        reasons["load_in_4bit"] = (
            f"{'below' if load_in_4bit else 'at least'} {FOUR_BIT_BELOW_GB} GB, "
            f"{'the weights must shrink' if load_in_4bit else '16 bits are faster and fit'}"
        )
    if use_vllm == "auto":
        use_vllm = gpu.memory_gb >= VLLM_FROM_GB
        reasons["use_vllm"] = (
            f"{'at least' if use_vllm else 'below'} {VLLM_FROM_GB} GB, "
            f"{'room for its cache' if use_vllm else 'no room for its cache'}"
        )
    return Plan(
        device="cuda",
        load_in_4bit=load_in_4bit,
        use_vllm=use_vllm,
        gpu_memory_utilization=0.5 if use_vllm else 0.0,
        reasons=reasons,
    )


def versions() -> dict[str, str]:
    """The versions of the packages that decide how a run goes."""
    return {package: version(package) for package in PACKAGES}
