"""Recipes and settings: what is refused, what follows from what, and how prompts are read."""

import logging
import math
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sarashina_grpo.data import DatasetError, LeftOut, Source
from sarashina_grpo.recipe import Course, Recipe, Sampling, Scene, Settings, TinySettings
from sarashina_grpo.recipes import get_recipe
from sarashina_grpo.rewards.format import soft_format_reward, xmlcount_reward
from sarashina_grpo.tags import TagFormat

SETTINGS = Settings(
    lora_rank=8,
    lora_alpha=16,
    lora_targets=("q_proj",),
    learning_rate=1e-5,
    adam_beta1=0.9,
    adam_beta2=0.99,
    weight_decay=0.1,
    warmup_ratio=0.1,
    lr_scheduler_type="cosine",
    optim="adamw_torch",
    max_grad_norm=0.5,
    num_generations=4,
    temperature=1.0,
    beta=0.0,
    loss_type="dapo",
    per_device_train_batch_size=4,
    gradient_accumulation_steps=3,
    max_seq_length=160,
    max_prompt_length=100,
    max_completion_length=50,
    max_steps=10,
    save_steps=5,
    seed=0,
)
SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_tokens=64)


def demonstrate(prompt: str, random: Random) -> tuple[str, str]:
    return f"someone says {prompt}", "Hi!"


COURSE = Course(demonstrate=demonstrate, lessons=8, learning_rate=1e-3, well_formed=0.2)
TINY = TinySettings(
    settings=SETTINGS,
    courses=(COURSE, replace(COURSE, lessons=3)),
    lesson_batch_size=4,
)


def make_recipe(path: Path = Path("prompts.csv"), **changes: Any) -> Recipe:
    parts: dict[str, Any] = {
        "name": "weather",
        "model_name": "someone/some-model",
        "tags": TagFormat("inner", "outer", layout="block"),
        "instructions": "\nThink in <inner></inner>, answer in <outer></outer>.\n\n",
        "example": ("rain", "Take an umbrella."),
        "source": Source(path=path, lang_column="lang", language="ja"),
        "rewards": (xmlcount_reward, soft_format_reward),
        "settings": SETTINGS,
        "sampling": SAMPLING,
        "scenes": (Scene(turns=("Will it rain?",)),),
        "tiny": TINY,
    }
    return Recipe(**parts | changes)


def write(folder: Path, content: str, name: str = "prompts.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


NOT_NUMBERS: list[Any] = [None, "1", True, math.nan]
POSITIVE: list[Any] = [0, -1, *NOT_NUMBERS]
WHOLE: list[Any] = [1.5, 2.0, *POSITIVE]
SHARE: list[Any] = [-0.01, 1.01, math.inf, *NOT_NUMBERS]
REFUSED: dict[type, dict[str, list[Any]]] = {
    Settings: {
        "lora_rank": WHOLE,
        "lora_alpha": WHOLE,
        "learning_rate": POSITIVE,
        "adam_beta1": SHARE,
        "adam_beta2": SHARE,
        "weight_decay": SHARE,
        "warmup_ratio": SHARE,
        "max_grad_norm": POSITIVE,
        "num_generations": [1, *WHOLE],
        "temperature": POSITIVE,
        "beta": SHARE,
        "per_device_train_batch_size": WHOLE,
        "gradient_accumulation_steps": WHOLE,
        "max_seq_length": WHOLE,
        "max_prompt_length": WHOLE,
        "max_completion_length": WHOLE,
        "max_steps": WHOLE,
        "save_steps": WHOLE,
        "seed": [-1, 1.5, *NOT_NUMBERS],
    },
    Sampling: {"temperature": POSITIVE, "top_p": SHARE, "max_tokens": WHOLE},
    Course: {"lessons": WHOLE, "learning_rate": POSITIVE, "well_formed": SHARE},
    TinySettings: {"lesson_batch_size": WHOLE},
}
VALID: dict[type, Any] = {
    Settings: SETTINGS,
    Sampling: SAMPLING,
    Course: COURSE,
    TinySettings: TINY,
}
TABLE = [
    pytest.param(kind, name, value, id=f"{kind.__name__}.{name}={value!r}")
    for kind, names in REFUSED.items()
    for name, values in names.items()
    for value in values
]


@pytest.mark.parametrize(("kind", "name", "value"), TABLE)
def test_a_setting_out_of_range_is_refused_by_name(kind: type, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be .*got {value!r}$"):
        replace(VALID[kind], **{name: value})


@pytest.mark.parametrize("kind", list(REFUSED), ids=lambda kind: kind.__name__)
def test_the_table_above_knows_every_number(kind: type) -> None:
    numbers = {item.name for item in fields(kind) if item.type in (int, float)}
    assert numbers == set(REFUSED[kind])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight_decay", 0),
        ("weight_decay", 1),
        ("beta", 0.0),
        ("warmup_ratio", 1.0),
        ("learning_rate", 1),
        ("learning_rate", 1e-12),
        ("num_generations", 2),
        ("lora_rank", 1),
        ("save_steps", 1000),
    ],
)
def test_the_edges_of_a_range_are_accepted(name: str, value: Any) -> None:
    assert getattr(replace(SETTINGS, **{name: value}), name) == value


@pytest.mark.parametrize(
    ("batch", "accumulation", "generations"), [(4, 1, 3), (4, 1, 8), (6, 2, 5), (1, 1, 2)]
)
def test_a_batch_that_does_not_divide_into_groups_is_refused(
    batch: int, accumulation: int, generations: int
) -> None:
    with pytest.raises(ValueError, match=f"num_generations={generations}") as refused:
        replace(
            SETTINGS,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            num_generations=generations,
        )
    assert f"{batch} × {accumulation} = {batch * accumulation}" in str(refused.value)


@pytest.mark.parametrize(
    ("batch", "accumulation", "generations", "prompts"),
    [(6, 1, 6, 1), (4, 3, 4, 3), (4, 3, 6, 2), (2, 4, 8, 1), (16, 1, 8, 2)],
)
def test_a_batch_may_divide_into_groups_over_several_passes(
    batch: int, accumulation: int, generations: int, prompts: int
) -> None:
    settings = replace(
        SETTINGS,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_generations=generations,
    )
    assert settings.generation_batch_size == batch * accumulation
    assert settings.prompts_per_step == prompts


def test_a_sequence_shorter_than_prompt_and_completion_is_refused() -> None:
    assert replace(SETTINGS, max_seq_length=150).max_seq_length == 150
    with pytest.raises(ValueError, match=r"max_seq_length must be at least .* = 150, got 149"):
        replace(SETTINGS, max_seq_length=149)


def test_the_lessons_of_all_courses_are_counted() -> None:
    assert TINY.lessons == 11


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (SETTINGS, "learning_rate"),
        (SAMPLING, "top_p"),
        (COURSE, "lessons"),
        (make_recipe(), "name"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_what_was_validated_cannot_be_changed(made: Any, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(made, name, 1)


def test_a_recipe_without_rewards_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'weather' needs at least one reward"):
        make_recipe(rewards=())


@pytest.mark.parametrize(
    ("weights", "refusal"),
    [
        ({"kindness": 1.0}, r"must name the recipe's rewards .*, got 'kindness'"),
        ({"xmlcount_reward": 0}, "the weight of xmlcount_reward must be above 0, got 0"),
        ({"xmlcount_reward": -1.0}, r"got -1\.0"),
        ({"xmlcount_reward": float("inf")}, "got inf"),
        ({"xmlcount_reward": float("nan")}, "got nan"),
    ],
)
def test_a_weight_needs_a_reward_and_a_size(weights: dict[str, float], refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal):
        make_recipe(rewards=(xmlcount_reward,), reward_weights=weights)


def test_a_reward_counts_once_unless_it_is_said_otherwise() -> None:
    recipe = make_recipe(
        rewards=(xmlcount_reward, soft_format_reward), reward_weights={"soft_format_reward": 3.0}
    )
    assert recipe.weights == {"xmlcount_reward": 1.0, "soft_format_reward": 3.0}


def test_a_reward_is_taken_in_and_left_out() -> None:
    both = make_recipe(
        rewards=(xmlcount_reward, soft_format_reward), reward_weights={"soft_format_reward": 3.0}
    )
    one = both.with_reward(soft_format_reward, wanted=False)
    assert one.weights == {"xmlcount_reward": 1.0}
    assert one.with_reward(soft_format_reward, wanted=False) is one
    assert both.with_reward(soft_format_reward, wanted=True) is both
    again = one.with_reward(soft_format_reward, wanted=True)
    assert again.weights == {"xmlcount_reward": 1.0, "soft_format_reward": 1.0}


def test_the_system_prompt_is_the_instructions_and_the_example_in_tags() -> None:
    assert make_recipe().system_prompt == (
        "Think in <inner></inner>, answer in <outer></outer>.\n"
        "<inner>\nrain\n</inner>\n<outer>\nTake an umbrella.\n</outer>"
    )


def test_the_rewards_keep_their_order_and_names() -> None:
    recipe = make_recipe()
    assert recipe.reward_names == ["xmlcount_reward", "soft_format_reward"]
    assert [reward.__name__ for reward in recipe.reward_funcs] == recipe.reward_names


def test_the_rewards_read_the_recipes_tags() -> None:
    recipe = make_recipe()
    batch = [recipe.tags.render("a", "b"), "<think>a</think>\n<response>b</response>"]
    for reward in recipe.reward_funcs:
        assert reward(prompts=["p", "p"], completions=batch, answer=["1", "2"]) == [0.5, 0.0]


def test_prompts_are_read_behind_the_recipes_system_prompt(tmp_path: Path) -> None:
    recipe = make_recipe(write(tmp_path, "prompt,lang\n雨,ja\nRain,en\n"))
    dataset, left_out = recipe.read_prompts()
    assert dataset["prompt"][:] == [
        [
            {"role": "system", "content": recipe.system_prompt},
            {"role": "user", "content": "雨"},
        ]
    ]
    assert left_out == [LeftOut(3, "Rain", "lang is en")]


@pytest.mark.parametrize("as_type", [str, Path])
def test_another_file_can_stand_in_for_the_recipes_own(
    tmp_path: Path, as_type: type[str] | type[Path]
) -> None:
    other = write(tmp_path, "prompt,lang\n風,ja\n", name="other.csv")
    dataset = make_recipe(tmp_path / "absent.csv").load_dataset(as_type(other))
    assert [messages[1]["content"] for messages in dataset["prompt"]] == ["風"]


def test_another_file_needs_the_same_columns(tmp_path: Path) -> None:
    other = write(tmp_path, "question\n風\n", name="other.csv")
    with pytest.raises(DatasetError, match=r"other\.csv: column 'prompt' is missing"):
        make_recipe().load_dataset(other)


def test_answers_are_read_beside_the_prompts(tmp_path: Path) -> None:
    path = write(tmp_path, "q,a\n1+2は?,1+2=3 #### 3\nどう思う?,人による。\n")
    source = Source(path=path, prompt_column="q", answer_column="a")
    dataset = make_recipe(source=source).load_dataset()
    assert dataset["answer"][:] == ["3", None]


def test_rows_left_out_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "prompt,lang\n雨,ja\nRain,en\n雨,ja\n雨 ,ja\n")
    with caplog.at_level(logging.INFO, logger="sarashina_grpo"):
        make_recipe(path).load_dataset()
    assert caplog.messages == [
        "weather: 1 rows left out: lang is en",
        "weather: 2 rows left out: duplicate",
    ]


@pytest.mark.parametrize("targets", ["q_proj", ()])
def test_targets_that_are_no_list_of_names_are_refused(targets: Any) -> None:
    settings = get_recipe("smalltalk").settings
    with pytest.raises(ValueError, match=r"lora_targets must be module names .*, got ") as refused:
        replace(settings, lora_targets=targets)
    assert str(refused.value).endswith(repr(targets))
