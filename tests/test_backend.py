"""Adapters that work, completions that can be repeated, and the trainer's arguments."""

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sarashina_grpo import backend, tiny, training
from sarashina_grpo.backend import BackendError, Messages, Policy, check_adapter, generate, torch
from sarashina_grpo.data import split_dataset
from sarashina_grpo.hardware import ADAPTER_LOADED, GB, Plan, estimate
from sarashina_grpo.recipe import Recipe, Sampling

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=16)
SAME_NAMES = [
    "learning_rate",
    "adam_beta1",
    "adam_beta2",
    "weight_decay",
    "max_grad_norm",
    "num_generations",
    "temperature",
    "beta",
    "loss_type",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_completion_length",
    "max_steps",
    "save_steps",
]


@pytest.fixture(scope="module")
def prompts(recipe: Recipe) -> list[Messages]:
    return list(split_dataset(recipe.load_dataset(), 0)["held_out"]["prompt"][:4])


@pytest.fixture(scope="module")
def arguments(
    recipe: Recipe, plan: Plan, artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The arguments that TRL's trainer has been given for the recipe's tiny settings."""
    settings = recipe.tiny.settings
    base = training.base_model(recipe, "tiny", 0, artifact)
    trainer = backend.make_trainer(
        backend.load_base(base, settings, plan, seed=0),
        settings,
        recipe.reward_funcs,
        recipe.load_dataset(),
        tmp_path_factory.mktemp("trainer"),
        7,
        [],
    )
    return trainer.args


def fill_adapter(policy: Policy, value: float) -> None:
    for name, weight in policy.model.named_parameters():
        if ".lora_B." in name:
            weight.data.fill_(value)


def test_an_untrained_adapter_is_an_error(policy: Policy) -> None:
    with pytest.raises(BackendError, match="never trained"):
        check_adapter(policy)


def test_an_adapter_that_was_zeroed_is_an_error(policy: Policy) -> None:
    fill_adapter(policy, 0.05)
    assert check_adapter(policy) > 0
    fill_adapter(policy, 0.0)
    with pytest.raises(BackendError, match="all zero"):
        check_adapter(policy)


def test_an_adapter_that_is_switched_off_is_an_error(policy: Policy) -> None:
    fill_adapter(policy, 0.05)
    with pytest.raises(BackendError, match="does not change"):
        check_adapter(policy.base)


def test_the_base_of_a_policy_speaks_as_the_base_model(
    policy: Policy, prompts: list[Messages]
) -> None:
    fresh = generate(policy, prompts, SAMPLING, seed=1)
    fill_adapter(policy, 0.5)
    assert generate(policy, prompts, SAMPLING, seed=1) != fresh
    assert generate(policy.base, prompts, SAMPLING, seed=1) == fresh


def test_the_same_seed_draws_the_same_completions(policy: Policy, prompts: list[Messages]) -> None:
    one = generate(policy, prompts, SAMPLING, seed=1)
    assert len(one) == len(prompts)
    torch.rand(3)
    assert generate(policy, prompts, SAMPLING, seed=1) == one
    assert generate(policy, prompts, SAMPLING, seed=2) != one


def test_completions_come_without_the_prompt_and_special_tokens(
    policy: Policy, prompts: list[Messages]
) -> None:
    for text in generate(policy, prompts, SAMPLING, seed=1):
        assert "<|assistant|>" not in text
        assert "</s>" not in text
        assert prompts[0][0]["content"] not in text


def test_batches_do_not_lose_or_swap_prompts(policy: Policy, prompts: list[Messages]) -> None:
    greedy = Sampling(temperature=1e-4, top_p=1.0, max_tokens=16)
    together = generate(policy, prompts, greedy, seed=1)
    assert generate(policy, prompts, greedy, seed=1, batch_size=3) == together


def test_tokens_are_counted_with_the_chat_template(policy: Policy) -> None:
    messages = [{"role": "user", "content": "雨です。"}]
    ids = policy.tokenizer("<s><|user|>雨です。</s><|assistant|>", add_special_tokens=False)
    assert policy.count_tokens(messages) == len(ids["input_ids"]) > 4


@pytest.mark.parametrize("name", SAME_NAMES)
def test_the_trainer_gets_the_recipes_setting(recipe: Recipe, arguments: Any, name: str) -> None:
    assert getattr(arguments, name) == getattr(recipe.tiny.settings, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 7),
        ("warmup_steps", 10),
        ("lr_scheduler_type", "cosine"),
        ("optim", "adamw_torch"),
        ("use_vllm", False),
        ("logging_steps", 1),
        ("epsilon", 0.2),
        ("epsilon_high", 0.2),
        ("mask_truncated_completions", False),
        ("bf16", False),
    ],
)
def test_the_trainer_gets_what_follows_from_recipe_and_machine(
    arguments: Any, name: str, value: Any
) -> None:
    assert getattr(arguments, name) == value


@pytest.mark.parametrize("engine", ["TRL", "Unsloth"])
@pytest.mark.parametrize("rows", [1, 2, 3, 6])
def test_the_plans_rows_are_trained_at_once_and_as_many_a_step(
    recipe: Recipe, plan: Plan, monkeypatch: pytest.MonkeyPatch, rows: int, engine: str
) -> None:
    monkeypatch.setattr(backend, "ENGINE", engine)
    few = replace(plan, micro_batch=rows)
    options = backend._trainer_options(recipe.settings, few, Path("anywhere"), 0)
    assert options["per_device_train_batch_size"] == rows
    assert rows * options["gradient_accumulation_steps"] == recipe.settings.generation_batch_size
    assert options.get("unsloth_logit_chunk_multiplier") == (1 if engine == "Unsloth" else None)


def test_rows_that_do_not_make_a_step_are_refused(recipe: Recipe, plan: Plan) -> None:
    uneven = replace(plan, micro_batch=4)
    with pytest.raises(ValueError, match="6 completions a step do not divide into parts of 4"):
        backend._trainer_options(recipe.settings, uneven, Path("anywhere"), 0)


def test_a_models_shape_is_read_from_its_folder(recipe: Recipe, artifact: Path) -> None:
    folder = training.base_model(recipe, "tiny", 0, artifact)
    assert backend.read_shape(folder) == tiny.shape()


def test_a_folder_without_a_model_has_no_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        backend.read_shape(str(tmp_path))


@pytest.mark.parametrize(("given", "width"), [(None, 32), (48, 48)], ids=["left open", "given"])
def test_the_width_of_a_head_follows_where_it_is_left_open(given: int | None, width: int) -> None:
    sizes = {**tiny.ARCHITECTURE, "head_dim": given}
    assert backend.shape_of(backend.transformers.PretrainedConfig(**sizes)).head_dim == width


def test_a_model_that_is_not_built_like_llama_is_refused() -> None:
    with pytest.raises(BackendError, match="gpt2 has no intermediate_size"):
        backend.shape_of(backend.transformers.GPT2Config())


def test_the_estimate_counts_the_weights_that_are_loaded(recipe: Recipe, policy: Policy) -> None:
    shape = tiny.shape()
    counted = {True: 0, False: 0}
    for name, weight in policy.model.named_parameters():
        counted[".lora_" in name] += weight.numel()
    weights = shape.projection_weights + shape.embedding_weights
    assert weights == pytest.approx(counted[False], rel=0.01)  # the norms are left out
    memory = estimate(shape, recipe.tiny.settings, load_in_4bit=False, micro_batch=1)
    assert memory.adapter_gb * GB == pytest.approx(counted[True] * ADAPTER_LOADED)


def test_a_rehearsal_is_at_full_length_and_leaves_no_trace(
    recipe: Recipe, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(
        recipe.tiny.settings, num_generations=2, per_device_train_batch_size=2, save_steps=1
    )
    lengths = []

    def reward(*, prompts: Any, completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(
            (policy.count_tokens(prompt), len(ids))
            for prompt, ids in zip(prompts, completion_ids, strict=True)
        )
        return [0.0, 1.0]

    monkeypatch.setattr(backend, "_coin_reward", reward)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3e9)
    few = replace(policy, plan=replace(policy.plan, micro_batch=2))
    before = {name: weight.clone() for name, weight in policy.model.named_parameters()}
    seconds, peak_gb = backend.rehearse(few, settings, tmp_path, seed=0)
    assert seconds > 0
    assert peak_gb == 3
    assert len(lengths) == 2 * 2
    longest = settings.max_prompt_length
    for prompt, completion in lengths:
        assert longest - 2 <= prompt <= longest
        assert completion == settings.max_completion_length
    for name, weight in policy.model.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert weight.grad is None
    assert not list(tmp_path.glob("checkpoint-*"))


class Vllm:
    """What is used of vLLM's engine, writing down what it is asked."""

    def __init__(self, pieces: list[str], asleep: bool) -> None:
        self.pieces, self.asleep = pieces, asleep
        self.asked: list[Any] = []
        self.llm_engine = self

    def is_sleeping(self) -> bool:
        return self.asleep

    def wake_up(self) -> None:
        self.asked.append("wake up")

    def sleep(self, level: int) -> None:
        self.asked.append(("sleep", level))

    def add_request(self, name: str, prompt: Any, sampling: Any, lora_request: Any) -> None:
        self.request = name
        self.asked.append((prompt, sampling.seed, lora_request))

    def has_unfinished_requests(self) -> bool:
        return bool(self.pieces)

    def step(self) -> list[Any]:
        piece = self.pieces.pop(0)
        if piece == "interrupt":
            raise KeyboardInterrupt
        return [SimpleNamespace(outputs=[SimpleNamespace(text=piece)])]

    def abort_request(self, names: list[str]) -> None:
        assert names == [self.request]
        self.asked.append("abort")


@pytest.fixture
def draw_with_vllm(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a policy that draws with a stand-in for vLLM, which says these pieces."""
    sampling = SimpleNamespace(SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", sampling)

    def fast_generate(prompts: Any, sampling_params: Any, lora_request: Any, use_tqdm: bool) -> Any:
        vllm.asked.append((prompts, [each.seed for each in sampling_params], lora_request))
        if "fail" in vllm.pieces:
            raise RuntimeError("out of blocks")
        return [SimpleNamespace(outputs=[SimpleNamespace(text=text)]) for text in vllm.pieces]

    def make(*pieces: str, asleep: bool = False) -> Policy:
        nonlocal vllm
        vllm = Vllm(list(pieces), asleep)
        model = SimpleNamespace(
            vllm_engine=vllm,
            fast_generate=fast_generate,
            save_lora=lambda folder: (Path(folder) / "saved").touch(),
            load_lora=lambda name, load_tensors=False: (name, load_tensors),
        )
        plan = replace(policy.plan, use_vllm=True, standby=True)
        return Policy(model, policy.tokenizer, plan)

    vllm = Vllm([], asleep=False)
    return make


def ids_of(policy: Policy, prompt: Messages) -> dict[str, list[int]]:
    text = policy.render(prompt)
    return {"prompt_token_ids": policy.tokenizer(text, add_special_tokens=False)["input_ids"]}


def test_vllm_draws_each_completion_with_a_seed_of_its_own(
    draw_with_vllm: Callable[..., Policy], prompts: list[Messages]
) -> None:
    drawing = draw_with_vllm("a", "b")
    assert generate(drawing, prompts[:2], SAMPLING, seed=5) == ["a", "b"]
    assert generate(drawing.base, prompts[:2], SAMPLING, seed=5) == ["a", "b"]
    ids = [ids_of(drawing, prompt) for prompt in prompts[:2]]
    start = drawing.tokenizer.bos_token_id
    assert [prompt["prompt_token_ids"].count(start) for prompt in ids] == [1, 1]
    assert drawing.model.vllm_engine.asked == [
        (ids, [5, 6], ("adapter", True)),
        (ids, [5, 6], None),
    ]


@pytest.mark.parametrize("text", ["a", "fail"])
def test_vllm_is_woken_and_sent_back_to_sleep_whatever_happens(
    draw_with_vllm: Callable[..., Policy], prompts: list[Messages], text: str
) -> None:
    drawing = draw_with_vllm(text, asleep=True)
    with nullcontext() if text == "a" else pytest.raises(RuntimeError, match="out of blocks"):
        generate(drawing, prompts[:1], SAMPLING, seed=5)
    first, _, last = drawing.model.vllm_engine.asked
    assert (first, last) == ("wake up", ("sleep", 1))


def test_vllm_streams_what_is_new(
    draw_with_vllm: Callable[..., Policy],
    prompts: list[Messages],
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawing = draw_with_vllm("雨", "雨で", "雨です。")
    assert backend.stream(drawing, prompts[0], SAMPLING, seed=5) == "雨です。"
    assert capsys.readouterr().out == "雨です。\n"
    ((prompt, seed, (folder, _)),) = drawing.model.vllm_engine.asked
    assert (prompt, seed) == (ids_of(drawing, prompts[0]), 5)
    assert not Path(folder).exists()
    base = draw_with_vllm("雨").base
    assert backend.stream(base, prompts[0], SAMPLING, seed=5) == "雨"
    assert base.model.vllm_engine.asked[0][2] is None


def test_a_stream_that_is_interrupted_is_given_up_by_vllm_too(
    draw_with_vllm: Callable[..., Policy], prompts: list[Messages]
) -> None:
    drawing = draw_with_vllm("雨", "interrupt", asleep=True)
    with pytest.raises(KeyboardInterrupt):
        backend.stream(drawing, prompts[0], SAMPLING, seed=5)
    assert drawing.model.vllm_engine.asked[-2:] == ["abort", ("sleep", 1)]


@pytest.mark.parametrize("use_vllm", [False, True])
def test_unsloth_is_asked_for_what_the_plan_says_and_no_pickles(
    recipe: Recipe, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_vllm: bool
) -> None:
    asked: dict[str, Any] = {}
    loaded = SimpleNamespace(generation_config=SimpleNamespace(max_length=20))

    def from_pretrained(name: str, **options: Any) -> tuple[Any, str]:
        asked.update(options, name=name)
        return loaded, "tokenizer"

    def get_peft_model(model: Any, **options: Any) -> Any:
        asked.update(options)
        return model

    language_model = SimpleNamespace(from_pretrained=from_pretrained, get_peft_model=get_peft_model)
    unsloth = SimpleNamespace(FastLanguageModel=language_model)
    monkeypatch.setattr(backend, "unsloth", unsloth, raising=False)
    monkeypatch.setattr(backend, "ENGINE", "Unsloth")
    settings = recipe.settings
    chosen = replace(plan, use_vllm=use_vllm, load_in_4bit=True, checkpointing=True)
    policy = backend.load_base("somebody/model", settings, chosen, seed=7)
    assert (policy.model, policy.tokenizer, policy.plan) == (loaded, "tokenizer", chosen)
    assert loaded.generation_config.max_length is None
    assert asked["name"] == "somebody/model"
    assert (asked["use_safetensors"], asked["trust_remote_code"]) == (True, False)
    assert (asked["load_in_4bit"], asked["fast_inference"]) == (True, use_vllm)
    assert asked["use_gradient_checkpointing"] == "unsloth"
    assert asked["random_state"] == 7
    assert (asked["r"], asked["target_modules"]) == (settings.lora_rank, [*settings.lora_targets])
    assert ("max_lora_rank" in asked) == use_vllm
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").touch()
    asked.clear()
    with pytest.raises(BackendError, match=r"no model\.safetensors"):
        backend.load_base(pickled, settings, chosen, seed=7)
    assert asked == {}


def test_a_trainer_that_is_not_unsloths_is_refused_on_cuda(
    recipe: Recipe, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class GRPOTrainer:
        def __init__(self, **options: Any) -> None:
            self.options = options

    class UnslothGRPOTrainer(GRPOTrainer):
        pass

    monkeypatch.setattr(backend, "ENGINE", "Unsloth")
    policy = Policy("model", "tokenizer", plan)
    made = (policy, recipe.tiny.settings, [], None, tmp_path, 0, [])
    trl = SimpleNamespace(GRPOConfig=dict, GRPOTrainer=UnslothGRPOTrainer)
    monkeypatch.setattr(backend, "trl", trl)
    assert backend.make_trainer(*made).options["model"] == "model"
    assert backend.trainer_name() == "UnslothGRPOTrainer"
    trl.GRPOTrainer = GRPOTrainer
    with pytest.raises(BackendError, match="the trainer is GRPOTrainer, not Unsloth's"):
        backend.make_trainer(*made)


@pytest.fixture
def saved_adapter(policy: Policy, tmp_path: Path) -> Path:
    """An adapter that changes what the tiny model says, as a checkpoint holds it."""
    fill_adapter(policy, 0.05)
    policy.model.save_pretrained(tmp_path / "checkpoint-1")
    return tmp_path / "checkpoint-1"


def test_a_saved_adapter_is_loaded_on_its_base(
    recipe: Recipe, plan: Plan, artifact: Path, policy: Policy, saved_adapter: Path
) -> None:
    base = training.base_model(recipe, "tiny", 0, artifact)
    loaded = backend.load_adapter(base, saved_adapter, recipe.tiny.settings, plan, seed=1)
    expected = dict(policy.model.named_parameters())
    for name, weight in loaded.model.named_parameters():
        assert torch.equal(weight, expected[name]), name


def test_an_adapter_of_another_shape_is_refused(
    recipe: Recipe, plan: Plan, artifact: Path, saved_adapter: Path
) -> None:
    base = training.base_model(recipe, "tiny", 0, artifact)
    smaller = replace(recipe.tiny.settings, lora_rank=4)
    with pytest.raises(BackendError, match=r"does not fit .*; was it trained") as error:
        backend.load_adapter(base, saved_adapter, smaller, plan, seed=0)
    assert str(saved_adapter) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_an_adapter_with_weights_that_have_no_place_is_refused(
    recipe: Recipe, plan: Plan, artifact: Path, saved_adapter: Path
) -> None:
    base = training.base_model(recipe, "tiny", 0, artifact)
    fewer = replace(recipe.tiny.settings, lora_targets=("q_proj",))
    with pytest.raises(BackendError, match=r"has no place for, such as .*lora_.*another model\?"):
        backend.load_adapter(base, saved_adapter, fewer, plan, seed=0)


def test_a_rehearsal_always_has_something_to_learn() -> None:
    assert backend._coin_reward(completions=["a"] * 4) == [0.0, 1.0, 0.0, 1.0]
