"""The recipes that are shipped: each is sound, and smalltalk is the article's."""

from typing import Any

import pytest

from sarashina_grpo.recipes import get_recipe, recipe_names
from sarashina_grpo.tags import Parsed, TagFormat

EACH_RECIPE = pytest.mark.parametrize("name", recipe_names())
FORMAT_REWARDS = ["xmlcount_reward", "soft_format_reward", "strict_format_reward"]


def test_smalltalk_is_among_the_names_and_they_are_sorted() -> None:
    assert "smalltalk" in recipe_names()
    assert recipe_names() == sorted(recipe_names())


@EACH_RECIPE
def test_a_recipe_is_found_by_its_name(name: str) -> None:
    assert get_recipe(name).name == name
    assert get_recipe(name) is get_recipe(name)


@pytest.mark.parametrize("name", ["poetry", "", "Smalltalk", "smalltalk.py"])
def test_an_unknown_name_raises_a_key_error_naming_the_known_ones(name: str) -> None:
    with pytest.raises(KeyError) as refused:
        get_recipe(name)
    assert repr(name) in refused.value.args[0]
    for known in recipe_names():
        assert known in refused.value.args[0]


@EACH_RECIPE
def test_the_system_prompt_names_all_four_tags_before_the_example(name: str) -> None:
    recipe = get_recipe(name)
    instructions = recipe.system_prompt.removesuffix(recipe.tags.render(*recipe.example))
    assert instructions != recipe.system_prompt
    for tag in recipe.tags.tags:
        assert tag in instructions


@EACH_RECIPE
def test_the_example_in_the_system_prompt_parses_with_the_recipes_own_tags(name: str) -> None:
    recipe = get_recipe(name)
    example = recipe.system_prompt[recipe.system_prompt.rindex(f"<{recipe.tags.thought}>") :]
    assert recipe.tags.parse(example) == Parsed(*recipe.example)
    assert recipe.tags.parses_in_layout(example)


@EACH_RECIPE
def test_the_rewards_begin_with_those_for_the_format(name: str) -> None:
    recipe = get_recipe(name)
    assert [reward.__name__ for reward in recipe.reward_funcs][:3] == FORMAT_REWARDS
    assert len(set(recipe.reward_names)) == len(recipe.reward_names)


@EACH_RECIPE
def test_the_example_earns_full_format_points(name: str) -> None:
    recipe = get_recipe(name)
    example = recipe.tags.render(*recipe.example)
    as_message = [{"role": "assistant", "content": example}]
    for reward in recipe.reward_funcs[:3]:
        assert reward(prompts=["p"] * 2, completions=[example, ""]) == [0.5, 0.0]
        assert reward(prompts=["p"], completions=[as_message]) == [0.5]


@EACH_RECIPE
def test_checkpoints_are_saved_before_and_at_the_end(name: str) -> None:
    recipe = get_recipe(name)
    for settings in (recipe.settings, recipe.tiny.settings):
        assert settings.save_steps < settings.max_steps
        assert settings.max_steps % settings.save_steps == 0


def test_smalltalk_thinks_and_responds_inline() -> None:
    recipe = get_recipe("smalltalk")
    assert recipe.model_name == "sbintuitions/sarashina2.2-3b-instruct-v0.1"
    assert recipe.tags == TagFormat("think", "response", layout="inline")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 5e-6),
        ("adam_beta1", 0.9),
        ("adam_beta2", 0.99),
        ("weight_decay", 0.1),
        ("warmup_ratio", 0.1),
        ("lr_scheduler_type", "cosine"),
        ("optim", "paged_adamw_8bit"),
        ("max_grad_norm", 0.1),
        ("lora_rank", 32),
        ("num_generations", 6),
        ("max_prompt_length", 1024),
        ("max_completion_length", 512),
        ("max_steps", 500),
        ("save_steps", 250),
    ],
)
def test_the_smalltalk_settings_are_the_articles(setting: str, value: Any) -> None:
    assert getattr(get_recipe("smalltalk").settings, setting) == value


def test_the_smalltalk_adapter_is_on_all_seven_projections() -> None:
    targets = get_recipe("smalltalk").settings.lora_targets
    assert len(targets) == 7
    assert set(targets) == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


def test_smalltalk_trains_on_520_system_and_user_messages() -> None:
    recipe = get_recipe("smalltalk")
    dataset = recipe.load_dataset()
    assert len(dataset) == 520
    assert dataset.column_names == ["prompt"]
    for messages in dataset["prompt"]:
        assert [message["role"] for message in messages] == ["system", "user"]
        assert messages[0]["content"] == recipe.system_prompt
        assert messages[1]["content"]


def test_smalltalk_leaves_out_the_english_rows_alone() -> None:
    _, left_out = get_recipe("smalltalk").read_prompts()
    assert [item.reason for item in left_out] == ["lang is en"] * 29
