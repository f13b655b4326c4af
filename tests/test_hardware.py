"""The plan for each machine, and that a parameter overrules it."""

from typing import Any

import pytest

from sarashina_grpo.hardware import PACKAGES, Gpu, make_plan, versions

SMALL, LARGE = Gpu("T4", 8.0), Gpu("H200", 150.0)


def test_without_a_gpu_the_plan_is_the_cpu() -> None:
    plan = make_plan(None)
    assert (plan.device, plan.load_in_4bit, plan.use_vllm) == ("cpu", False, False)
    assert plan.gpu_memory_utilization == 0
    assert "no CUDA GPU" in plan.reasons["device"]


@pytest.mark.parametrize(
    ("memory_gb", "load_in_4bit", "use_vllm"),
    [
        (8.0, True, False),
        (15.9, True, False),
        (16.0, True, True),
        (19.9, True, True),
        (20.0, False, True),
        (150.0, False, True),
    ],
)
def test_the_memory_decides(memory_gb: float, load_in_4bit: bool, use_vllm: bool) -> None:
    plan = make_plan(Gpu("Some GPU", memory_gb))
    assert (plan.device, plan.load_in_4bit, plan.use_vllm) == ("cuda", load_in_4bit, use_vllm)
    assert (0 < plan.gpu_memory_utilization < 1) == use_vllm


def test_each_choice_has_a_reason_in_words() -> None:
    reasons = make_plan(LARGE).reasons
    assert set(reasons) == {"device", "load_in_4bit", "use_vllm"}
    assert "H200 with 150 GB" in reasons["device"]
    assert "at least 20 GB" in reasons["load_in_4bit"]
    assert "below 16 GB" in make_plan(SMALL).reasons["use_vllm"]


@pytest.mark.parametrize("gpu", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("choice", [True, False])
def test_a_parameter_overrules_the_plan(gpu: Gpu, choice: bool) -> None:
    plan = make_plan(gpu, use_vllm=choice, load_in_4bit=choice)
    assert (plan.load_in_4bit, plan.use_vllm) == (choice, choice)
    assert set(plan.reasons) == {"device"}


@pytest.mark.parametrize("name", ["use_vllm", "load_in_4bit"])
def test_what_needs_a_gpu_is_refused_without_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name.upper()}=True needs a CUDA GPU"):
        make_plan(None, **{name: True})
    assert make_plan(None, **{name: False}).device == "cpu"


@pytest.mark.parametrize("gpu", [None, LARGE], ids=["CPU", "GPU"])
@pytest.mark.parametrize("name", ["use_vllm", "load_in_4bit"])
@pytest.mark.parametrize("choice", ["yes", "True", 1, 0, None], ids=repr)
def test_a_choice_of_another_type_is_refused(gpu: Gpu | None, name: str, choice: Any) -> None:
    with pytest.raises(ValueError, match=name.upper()) as refused:
        make_plan(gpu, **{name: choice})
    assert f"got {choice!r}" in str(refused.value)


def test_every_package_has_its_version() -> None:
    found = versions()
    assert {"torch", "transformers", "trl", "unsloth", "vllm"} <= set(PACKAGES) == set(found)
    assert all(number[0].isdigit() for number in found.values())
