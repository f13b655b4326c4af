"""The recipes that are shipped: each is sound, and smalltalk is the article's."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from sarashina_grpo.demonstrations import read_solutions
from sarashina_grpo.recipes import get_recipe, recipe_names
from sarashina_grpo.rewards.lab import explain
from sarashina_grpo.tags import Parsed, TagFormat

EACH_RECIPE = pytest.mark.parametrize("name", recipe_names())
FORMAT_REWARDS = ["xmlcount_reward", "soft_format_reward", "strict_format_reward"]


def test_there_are_two_recipes() -> None:
    assert recipe_names() == ["qa", "smalltalk"]


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
def test_the_tiny_model_is_saved_halfway_and_at_the_end(name: str) -> None:
    settings = get_recipe(name).tiny.settings
    assert settings.save_steps < settings.max_steps
    assert settings.max_steps % settings.save_steps == 0


@EACH_RECIPE
def test_a_conversation_fits_into_the_sequence(name: str) -> None:
    recipe = get_recipe(name)
    room = recipe.settings.max_seq_length - recipe.settings.max_prompt_length
    assert recipe.sampling.max_tokens <= room


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


def test_qa_reasons_and_answers_in_blocks() -> None:
    recipe = get_recipe("qa")
    assert recipe.model_name == "unsloth/Phi-4"
    assert recipe.tags == TagFormat("reasoning", "answer", layout="block")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 7e-6),
        ("adam_beta1", 0.9),
        ("adam_beta2", 0.99),
        ("weight_decay", 0.1),
        ("warmup_ratio", 0.1),
        ("lr_scheduler_type", "cosine"),
        ("optim", "paged_adamw_8bit"),
        ("max_grad_norm", 0.1),
        ("lora_rank", 16),
        ("lora_alpha", 16),
        ("lora_targets", ("gate_proj", "up_proj", "down_proj")),
        ("num_generations", 4),
        ("prompts_per_step", 1),
        ("max_seq_length", 3584),
        ("max_prompt_length", 1536),
        ("max_completion_length", 1200),
        ("max_steps", 100),
        ("save_steps", 250),
        ("seed", 3442),
    ],
)
def test_the_qa_settings_are_the_articles(setting: str, value: Any) -> None:
    assert getattr(get_recipe("qa").settings, setting) == value


def test_the_qa_sampling_is_the_articles() -> None:
    sampling = get_recipe("qa").sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.5, 0.95, 2048)


def test_qa_has_the_articles_five_rewards_in_its_order_and_two_that_count_little() -> None:
    recipe = get_recipe("qa")
    articles = [*FORMAT_REWARDS, "int_reward", "correctness_reward"]
    assert recipe.reward_names == [*articles, "japanese_reward", "distinct_thought_reward"]
    assert list(recipe.weights.values()) == [1.0] * 5 + [0.1] * 2


def test_qa_asks_the_articles_four_questions_without_a_role() -> None:
    scenes = get_recipe("qa").scenes
    assert [(len(scene.turns), scene.role) for scene in scenes] == [(1, "")] * 4
    words = ["9.11", "香港", "冷蔵庫", "リンゴ"]
    assert all(word in scene.turns[0] for word, scene in zip(words, scenes, strict=True))


def test_qa_trains_on_406_questions_with_an_answer_and_49_without() -> None:
    dataset = get_recipe("qa").load_dataset()
    assert dataset.column_names == ["prompt", "answer"]
    assert sum(answer is None for answer in dataset["answer"]) == 49
    assert len(dataset) == 406 + 49
    assert not [answer for answer in dataset["answer"] if answer and "#" in answer]


def test_the_right_answer_earns_all_points_of_qa_and_a_wrong_one_two_less() -> None:
    recipe = get_recipe("qa")
    thought = "3個に4個を足すので、合わせて数える。"
    batch = [recipe.tags.render(thought, answer) for answer in ("7個", "8個", "東京")]
    table = explain(batch, recipe, ["7"] * 3)
    assert table["total"].tolist() == pytest.approx([4.2, 2.2, 1.7])


def test_an_open_question_is_left_to_the_format_rewards() -> None:
    recipe = get_recipe("qa")
    text = recipe.tags.render("好みは人によるので、自分の好みを言おう。", "私は好きです。")
    (scores,) = explain([text], recipe, [None])[recipe.reward_names].to_numpy().tolist()
    assert scores == pytest.approx([0.5, 0.5, 0.5, math.nan, math.nan, 1.0, 1.0], nan_ok=True)


def test_the_tiny_questions_have_the_answers_that_their_solutions_compute() -> None:
    source = get_recipe("qa").tiny.source
    assert source is not None
    solutions = read_solutions(Path(str(source.path)))
    assert len(solutions) >= 500
    numbers = set()
    for question, (solution, value) in solutions.items():
        steps = re.fullmatch(r"(\d)([+-])(\d)=(\d)、(\d)([+-])(\d)=(\d)", solution)
        assert steps, solution
        a, first, b, middle, again, second, c, end = steps.groups()
        assert re.findall(r"\d", question) == [a, b, c]
        assert (middle, end) == (again, value)
        assert int(a) + int(first + b) == int(middle)
        assert int(middle) + int(second + c) == int(end)
        numbers.add((a, first, b, second, c))
    assert len(numbers) == len(solutions)
