"""The plan for each machine and recipe, what it advises, and the estimate behind it."""

import re
import sys
from dataclasses import astuple, replace
from types import SimpleNamespace
from typing import Any

import pytest
import shapes
from hypothesis import given
from hypothesis import strategies as st

from sarashina_grpo.hardware import (
    GB,
    PACKAGES,
    Auto,
    Gpu,
    Plan,
    PlanError,
    cpu_plan,
    detect_gpu,
    estimate,
    make_plan,
    micro_batches,
    versions,
)
from sarashina_grpo.recipe import Settings
from sarashina_grpo.recipes import get_recipe

SHAPES = {"3B": shapes.SHAPES["sarashina2.2-3b"], "14B": shapes.SHAPES["phi-4-14b"]}
SETTINGS = {name: get_recipe(name).settings for name in ("smalltalk", "qa")}
RUNS = {
    "smalltalk": (SHAPES["3B"], SETTINGS["smalltalk"]),
    "qa": (SHAPES["14B"], SETTINGS["qa"]),
}
GPUS = [Gpu("Some GPU", half / 2) for half in range(8, 300)]
LENGTHS = re.compile(
    r"lower max_prompt_length and max_completion_length, to (\d+) and (\d+) tokens"
)
recipes = st.sampled_from(list(RUNS))


def plan_of(memory_gb: float, recipe: str, **overruled: Any) -> Plan:
    return make_plan(Gpu("Some GPU", memory_gb), *RUNS[recipe], **overruled)


def plans(recipe: str) -> list[tuple[Gpu, Plan]]:
    """The machines that the recipe fits into, from the smallest, and their plans."""
    found = []
    for gpu in GPUS:
        try:
            found.append((gpu, make_plan(gpu, *RUNS[recipe])))
        except PlanError:
            assert not found, f"{recipe} fits into less than {gpu.memory_gb} GB"
    return found


@pytest.mark.parametrize(
    ("recipe", "memory_gb", "bits", "vllm", "rows", "kept"),
    [
        ("smalltalk", 8, 4, False, 6, False),
        ("smalltalk", 12, 4, True, 6, False),
        ("smalltalk", 16, 16, True, 6, False),
        ("smalltalk", 24, 16, True, 6, False),
        ("smalltalk", 40, 16, True, 6, True),
        ("smalltalk", 80, 16, True, 6, True),
        ("smalltalk", 141, 16, True, 6, True),
        ("qa", 16, 4, False, 2, False),
        ("qa", 24, 4, True, 2, False),
        ("qa", 40, 4, True, 4, False),
        ("qa", 80, 16, True, 4, False),
        ("qa", 141, 16, True, 4, True),
    ],
)
def test_the_memory_and_the_model_decide(
    recipe: str, memory_gb: float, bits: int, vllm: bool, rows: int, kept: bool
) -> None:
    plan = plan_of(memory_gb, recipe)
    assert plan.device == "cuda"
    assert (plan.load_in_4bit, plan.use_vllm, plan.micro_batch) == (bits == 4, vllm, rows)
    assert plan.checkpointing == (not kept)
    assert (0 < plan.gpu_memory_utilization < 1) == vllm
    assert plan.standby == (vllm and memory_gb < 48)


@pytest.mark.parametrize(
    ("recipe", "memory_gb", "overruled", "advice"),
    [
        ("qa", 8, {}, ["the weights alone take 9.1 GB", "a smaller model"]),
        ("qa", 12, {}, ["Some GPU has 10.8 GB to use", "max_completion_length, to"]),
        ("qa", 16, {"use_vllm": True}, ['set USE_VLLM = "auto"']),
        ("qa", 24, {"load_in_4bit": False}, ['set LOAD_IN_4BIT = "auto"']),
        ("qa", 32, {"load_in_4bit": False, "use_vllm": True}, ["USE_VLLM", "LOAD_IN_4BIT"]),
        ("smalltalk", 8, {"load_in_4bit": False}, ['set LOAD_IN_4BIT = "auto"']),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(
    recipe: str, memory_gb: float, overruled: dict[str, bool], advice: list[str]
) -> None:
    with pytest.raises(PlanError) as refused:
        plan_of(memory_gb, recipe, **overruled)
    assert [text for text in advice if text not in str(refused.value)] == []
    for name in ("use_vllm", "load_in_4bit"):
        assert (name.upper() in str(refused.value)) == (name in overruled)


def advised(gpu: Gpu, recipe: str, **overruled: Any) -> tuple[int, int] | None:
    """The lengths that are advised where the run does not fit."""
    try:
        make_plan(gpu, *RUNS[recipe], **overruled)
    except PlanError as error:
        if lengths := LENGTHS.search(str(error)):
            return int(lengths[1]), int(lengths[2])
    return None


@pytest.mark.parametrize("recipe", RUNS)
@pytest.mark.parametrize("use_vllm", [True, False, "auto"])
@pytest.mark.parametrize("load_in_4bit", [True, False, "auto"])
def test_advice_that_is_followed_fits(
    recipe: str, use_vllm: bool | Auto, load_in_4bit: bool | Auto
) -> None:
    shape, settings = RUNS[recipe]
    followed = 0
    for gpu in (Gpu("Some GPU", tenth / 10) for tenth in range(20, 500)):
        if lengths := advised(gpu, recipe, use_vllm=use_vllm, load_in_4bit=load_in_4bit):
            prompt, completion = lengths
            assert 0 < prompt < settings.max_prompt_length
            assert 0 < completion < settings.max_completion_length
            shorter = replace(settings, max_prompt_length=prompt, max_completion_length=completion)
            assert make_plan(gpu, shape, shorter, use_vllm, load_in_4bit).device == "cuda"
            followed += 1
    assert followed > 3


@pytest.mark.parametrize("recipe", RUNS)
def test_what_other_programs_hold_is_left_to_them(recipe: str) -> None:
    shape, settings = RUNS[recipe]
    alone, shared = Gpu("Some GPU", 80), Gpu("Some GPU", 80, taken_gb=45)
    before, after = (make_plan(gpu, shape, settings) for gpu in (alone, shared))
    assert before.gpu_memory_utilization * 80 + 45 > 80 * 0.95
    assert after.gpu_memory_utilization * 80 + 45 < 80 * 0.95
    assert "45.0 GB of them taken" in after.reasons["device"]
    assert "taken" not in before.reasons["device"]
    with pytest.raises(PlanError, match=r"end the programs that hold 75\.0 GB of the GPU"):
        make_plan(replace(alone, taken_gb=75), shape, settings)


@pytest.mark.parametrize("recipe", RUNS)
def test_no_plan_needs_more_than_the_gpu_has(recipe: str) -> None:
    for gpu, plan in plans(recipe):
        memory = estimate(
            *RUNS[recipe],
            load_in_4bit=plan.load_in_4bit,
            micro_batch=plan.micro_batch,
            checkpointing=plan.checkpointing,
        )
        if plan.use_vllm:
            vllm_gb = plan.gpu_memory_utilization * gpu.memory_gb
            assert memory.weights_gb + memory.cache_gb < vllm_gb
            assert vllm_gb + memory.training_gb + memory.adapter_gb < gpu.memory_gb
        else:
            assert memory.peak_gb <= gpu.usable_gb < gpu.memory_gb


@pytest.mark.parametrize("recipe", RUNS)
def test_more_memory_never_gives_a_slower_plan(recipe: str) -> None:
    speeds = [
        (plan.use_vllm, not plan.load_in_4bit, not plan.checkpointing, plan.micro_batch)
        for _, plan in plans(recipe)
    ]
    assert speeds == sorted(speeds)
    assert len(set(speeds)) > 2


@pytest.mark.parametrize("recipe", RUNS)
@pytest.mark.parametrize("use_vllm", [True, False])
@pytest.mark.parametrize("load_in_4bit", [True, False])
def test_a_parameter_overrules_the_plan(recipe: str, use_vllm: bool, load_in_4bit: bool) -> None:
    plan = plan_of(80, recipe, use_vllm=use_vllm, load_in_4bit=load_in_4bit)
    assert (plan.use_vllm, plan.load_in_4bit) == (use_vllm, load_in_4bit)
    assert "as asked for" in plan.reasons["weights"]
    assert "as asked for" in plan.reasons["generation"]


def test_each_choice_has_a_reason_in_words() -> None:
    assert plan_of(141, "qa").reasons == {
        "device": "CUDA: Some GPU with 141 GB",
        "weights": "16 bits, 29.3 GB: faster, and fits",
        "generation": "vLLM: faster, and fits",
        "vLLM's memory": "47% of the GPU: kept, there is room",
        "completions a step": "4, all drawn at once",
        "trained at once": "4",
        "activations": "kept: faster, and they fit",
        "peak memory": "about 102.5 GB at the longest prompt and completion",
    }
    small = plan_of(16, "qa").reasons
    assert small["weights"] == "4 bits, 9.1 GB: 16 would not fit"
    assert small["generation"] == "Hugging Face: vLLM would not fit"
    assert small["vLLM's memory"] == "none"
    assert small["activations"].endswith("keeping them would not fit")
    assert small["trained at once"] == "2, 2 times a step: more would not fit"
    assert small["peak memory"] == "about 13.8 GB at the longest prompt and completion"
    many = replace(SETTINGS["qa"], per_device_train_batch_size=128)
    plan = make_plan(Gpu("Some GPU", 141), SHAPES["3B"], many)
    assert plan.reasons["trained at once"] == "64, 2 times a step: more would not be faster"
    assert plan_of(24, "qa").reasons["vLLM's memory"] == "66% of the GPU: given back while training"


def test_without_a_gpu_the_plan_is_the_cpu_and_the_recipes_batch() -> None:
    plan = cpu_plan(SETTINGS["smalltalk"])
    assert (plan.device, plan.load_in_4bit, plan.use_vllm) == ("cpu", False, False)
    assert plan.gpu_memory_utilization == 0
    assert plan.micro_batch == SETTINGS["smalltalk"].per_device_train_batch_size
    assert "no CUDA GPU" in plan.reasons["device"]


@pytest.mark.parametrize("name", ["use_vllm", "load_in_4bit"])
def test_what_needs_a_gpu_is_refused_without_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name.upper()}=True needs a CUDA GPU"):
        cpu_plan(SETTINGS["qa"], **{name: True})
    assert cpu_plan(SETTINGS["qa"], **{name: False}).device == "cpu"


@pytest.mark.parametrize("name", ["use_vllm", "load_in_4bit"])
@pytest.mark.parametrize("choice", ["yes", "True", 1, 0, None], ids=repr)
def test_a_choice_of_another_type_is_refused(name: str, choice: Any) -> None:
    refusal = f"{name.upper()} must be .*, got {choice!r}"
    with pytest.raises(ValueError, match=refusal):
        plan_of(141, "qa", **{name: choice})
    with pytest.raises(ValueError, match=refusal):
        cpu_plan(SETTINGS["qa"], **{name: choice})


@pytest.mark.parametrize(
    ("rows", "times", "expected"),
    [
        (6, 1, [6, 3, 2, 1]),
        (1, 2, [2, 1]),
        (6, 4, [24, 12, 8, 6, 4, 3, 2, 1]),
        (7, 3, [21, 7, 3, 1]),
        (13, 1, [13, 1]),
        (64, 1, [64, 32, 16, 8, 4, 2, 1]),
        (65, 1, [13, 5, 1]),
        (64, 2, [64, 32, 16, 8, 4, 2, 1]),
    ],
)
def test_equal_parts_of_a_step_are_trained_at_once_the_largest_first(
    rows: int, times: int, expected: list[int]
) -> None:
    settings = replace(
        SETTINGS["qa"],
        num_generations=rows * times,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=times,
    )
    assert list(micro_batches(settings)) == expected


@pytest.mark.parametrize(("shape", "weights"), [("3B", 3.23e9), ("14B", 14.66e9)])
def test_the_shape_gives_the_models_weights(shape: str, weights: float) -> None:
    counted = SHAPES[shape].projection_weights + SHAPES[shape].embedding_weights
    assert counted == pytest.approx(weights, rel=0.02)
    tied = replace(SHAPES[shape], tie_word_embeddings=True)
    assert 2 * tied.embedding_weights == SHAPES[shape].embedding_weights


@pytest.mark.parametrize(
    ("recipe", "shape", "four_bit", "rows", "prompt", "completion", "peak_gb"),
    [
        ("smalltalk", "3B", False, 6, 256, 256, 7.76),
        ("smalltalk", "3B", False, 6, 1024, 512, 9.27),
        ("smalltalk", "3B", False, 64, 128, 256, 13.44),
        ("smalltalk", "3B", True, 6, 1024, 512, 5.32),
        ("smalltalk", "3B", True, 24, 1024, 512, 12.04),
        ("qa", "14B", True, 4, 512, 256, 11.52),
    ],
)
def test_the_estimate_is_near_what_an_h200_measured(
    recipe: str,
    shape: str,
    four_bit: bool,
    rows: int,
    prompt: int,
    completion: int,
    peak_gb: float,
) -> None:
    settings = replace(
        SETTINGS[recipe],
        num_generations=2,
        per_device_train_batch_size=rows,
        max_prompt_length=prompt,
        max_completion_length=completion,
    )
    most = next(iter(micro_batches(settings)))
    memory = estimate(SHAPES[shape], settings, load_in_4bit=four_bit, micro_batch=most)
    assert memory.peak_gb == pytest.approx(peak_gb, rel=0.15)


def more_of(settings: Settings, name: str, more: int) -> Settings:
    room = settings.max_seq_length + more
    return replace(settings, **{"max_seq_length": room, name: getattr(settings, name) + more})


@pytest.mark.parametrize(
    "name",
    ["max_prompt_length", "max_completion_length", "lora_rank", "gradient_accumulation_steps"],
)
@given(recipe=recipes, four_bit=st.booleans(), more=st.integers(1, 4096))
def test_the_estimate_grows_with_lengths_rank_and_completions(
    name: str, recipe: str, four_bit: bool, more: int
) -> None:
    shape, settings = RUNS[recipe]
    less, greater = (
        astuple(estimate(shape, each, load_in_4bit=four_bit, micro_batch=1))
        for each in (settings, more_of(settings, name, more))
    )
    assert all(one <= other for one, other in zip(less, greater, strict=True))
    assert less != greater


@given(recipes, st.booleans(), st.integers(1, 64), st.integers(1, 64))
def test_the_estimate_grows_with_the_rows_trained_at_once(
    recipe: str, four_bit: bool, rows: int, more: int
) -> None:
    few, many = (
        estimate(*RUNS[recipe], load_in_4bit=four_bit, micro_batch=count)
        for count in (rows, rows + more)
    )
    assert few.training_gb < many.training_gb
    assert few.peak_gb <= many.peak_gb


def test_every_package_has_its_version() -> None:
    found = versions()
    assert {"torch", "transformers", "trl", "unsloth", "vllm"} <= set(PACKAGES) == set(found)
    assert all(number[0].isdigit() for number in found.values())


@pytest.mark.parametrize(
    ("free", "reserved", "taken"),
    [(79.4, 0.0, 0.0), (59.4, 0.0, 20.0), (59.4, 20.0, 0.0), (80.0, 0.0, 0.0)],
    ids=["nobody else", "another program", "ours", "not yet in use"],
)
def test_what_others_hold_of_a_gpu_is_told_from_what_is_ours(
    monkeypatch: pytest.MonkeyPatch, free: float, reserved: float, taken: float
) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True,
        mem_get_info=lambda: (free * GB, 80.0 * GB),
        memory_reserved=lambda: reserved * GB,
        get_device_name=lambda: "Some GPU",
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    gpu = detect_gpu()
    assert gpu is not None
    assert (gpu.name, gpu.memory_gb) == ("Some GPU", 80.0)
    assert gpu.taken_gb == pytest.approx(taken)


def test_without_cuda_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert detect_gpu() is None
