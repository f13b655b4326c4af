"""Adapters that work, completions that can be repeated, and the trainer's arguments."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sarashina_grpo import backend, training
from sarashina_grpo.backend import BackendError, Messages, Policy, check_adapter, generate, torch
from sarashina_grpo.data import split_dataset
from sarashina_grpo.hardware import Plan
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


@pytest.mark.parametrize(
    ("rows", "times", "rows_at_once"),
    [(6, 1, 6), (16, 1, 8), (64, 1, 8), (6, 4, 6), (12, 1, 6), (7, 3, 7), (13, 1, 1), (10, 3, 6)],
)
def test_unsloth_trains_few_rows_at_once_and_as_many_a_step(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, rows: int, times: int, rows_at_once: int
) -> None:
    monkeypatch.setattr(backend, "ENGINE", "Unsloth")
    settings = replace(
        recipe.settings,
        num_generations=rows,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=times,
    )
    options = backend._micro_batch(settings)
    assert options["per_device_train_batch_size"] == rows_at_once
    assert rows_at_once * options["gradient_accumulation_steps"] == rows * times
    assert options["unsloth_logit_chunk_multiplier"] == 1
