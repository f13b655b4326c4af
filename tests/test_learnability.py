"""Which prompts teach something: groups are drawn as in training, scored, and counted."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import pandas as pd
import pytest

from sarashina_grpo import learnability
from sarashina_grpo.backend import Policy
from sarashina_grpo.data import split_dataset
from sarashina_grpo.hardware import cpu_plan
from sarashina_grpo.learnability import describe_scan, scan, total_rewards
from sarashina_grpo.recipe import Recipe, Sampling, Settings
from sarashina_grpo.recipes import get_recipe
from sarashina_grpo.rewards.language import distinct_thought_reward, japanese_reward

# Without the rewards for what stands in the tags, which these texts are too short for.
SMALLTALK, QA = (
    get_recipe(name).with_reward(japanese_reward, False).with_reward(distinct_thought_reward, False)
    for name in ("smalltalk", "qa")
)
GROUP = 4
SETTINGS = replace(
    SMALLTALK.tiny.settings,
    num_generations=GROUP,
    per_device_train_batch_size=GROUP,
    max_completion_length=48,
    temperature=0.9,
)
COLUMNS = ["prompt", "lowest", "mean", "highest", "learnable"]

GOOD, OTHER = SMALLTALK.tags.render("雨", "傘"), SMALLTALK.tags.render("晴れ", "帽子")
"""Both earn all of smalltalk's 1.5 points."""
TWO_TAGS = "<think>雨</think>"
"""Earns 0.25."""

Say = Callable[[str, int, int], str]
"""What is said to a question, by its place in the call, under a seed."""


@dataclass
class Speaker:
    """Stands in for `generate`: says what `say` says, and notes what it was asked for."""

    say: Say
    prompts: list[list[str]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)

    def __call__(
        self, policy: Policy, prompts: Sequence[Any], sampling: Sampling, seed: int
    ) -> list[str]:
        questions = [prompt[-1]["content"] for prompt in prompts]
        self.prompts.append(questions)
        self.seeds.append(seed)
        self.samplings.append(sampling)
        return [self.say(question, place, seed) for place, question in enumerate(questions)]


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Callable[[Say], Speaker]:
    """Puts a speaker in the model's place."""

    def put(say: Say) -> Speaker:
        speaker = Speaker(say)
        monkeypatch.setattr(learnability, "generate", speaker)
        return speaker

    return put


def in_turn(groups: dict[str, Sequence[str]]) -> Say:
    """Each question's completions one after another."""
    completions: dict[str, Iterator[str]] = {name: iter(group) for name, group in groups.items()}
    return lambda question, place, seed: next(completions[question])


def nobody(draw_at_once: int = 2 * GROUP) -> Policy:
    """A policy without a model."""
    return Policy(None, None, replace(cpu_plan(SETTINGS), draw_at_once=draw_at_once))


def ask(*questions: str, recipe: Recipe = SMALLTALK, **columns: Any) -> datasets.Dataset:
    prompts = [
        [
            {"role": "system", "content": recipe.system_prompt},
            {"role": "user", "content": question},
        ]
        for question in questions
    ]
    return datasets.Dataset.from_dict({"prompt": prompts, **columns})


def letters(count: int) -> list[str]:
    return [chr(ord("a") + number) for number in range(count)]


@pytest.mark.parametrize(
    ("prompts", "draw_at_once", "calls"),
    [
        (1, 8, ["aaaa"]),
        (2, 8, ["aaaabbbb"]),
        (3, 8, ["aaaabbbb", "cccc"]),
        (5, 8, ["aaaabbbb", "ccccdddd", "eeee"]),
        (3, 11, ["aaaabbbb", "cccc"]),
        (3, 64, ["aaaabbbbcccc"]),
        (2, 4, ["aaaa", "bbbb"]),
        (2, 1, ["aaaa", "bbbb"]),
    ],
)
def test_each_prompt_gets_a_whole_group_and_calls_hold_as_many_as_the_plan_draws(
    speak: Callable[[Say], Speaker], prompts: int, draw_at_once: int, calls: list[str]
) -> None:
    speaker = speak(lambda question, place, seed: GOOD)
    scanned = scan(nobody(draw_at_once), ask(*letters(prompts)), SMALLTALK, SETTINGS, 0)
    assert ["".join(call) for call in speaker.prompts] == calls
    assert scanned["prompt"].tolist() == letters(prompts)


@pytest.mark.parametrize("group", [2, 3, 8])
def test_a_group_has_the_size_of_the_settings(speak: Callable[[Say], Speaker], group: int) -> None:
    speaker = speak(lambda question, place, seed: GOOD)
    settings = replace(SETTINGS, num_generations=group, per_device_train_batch_size=group)
    scan(nobody(), ask("a", "b"), SMALLTALK, settings, 0)
    drawn = [question for call in speaker.prompts for question in call]
    assert drawn == ["a"] * group + ["b"] * group


def test_completions_are_drawn_as_in_training(speak: Callable[[Say], Speaker]) -> None:
    speaker = speak(lambda question, place, seed: GOOD)
    scan(nobody(), ask("a", "b", "c"), SMALLTALK, SETTINGS, 0)
    assert speaker.samplings == [Sampling(temperature=0.9, top_p=1.0, max_tokens=48)] * 2


def by_chance(question: str, place: int, seed: int) -> str:
    return random.Random(f"{question} {place} {seed}").choice([GOOD, TWO_TAGS, "", "<think>"])


def test_the_same_seed_gives_the_same_table_and_another_seed_another(
    speak: Callable[[Say], Speaker],
) -> None:
    speak(by_chance)
    dataset = ask(*letters(9))
    one, same, other = (scan(nobody(), dataset, SMALLTALK, SETTINGS, seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(one, same)
    assert one["mean"].tolist() != other["mean"].tolist()


def test_each_call_has_a_seed_of_its_own(speak: Callable[[Say], Speaker]) -> None:
    speaker = speak(lambda question, place, seed: GOOD)
    scan(nobody(), ask(*letters(9)), SMALLTALK, SETTINGS, 7)
    assert speaker.seeds[0] == 7
    assert len(set(speaker.seeds)) == 5


def test_no_completion_has_the_seed_of_another_where_each_has_its_own(
    speak: Callable[[Say], Speaker],
) -> None:
    # With vLLM the nth completion of a call is drawn with the call's seed + n.
    speaker = speak(lambda question, place, seed: GOOD)
    scan(nobody(), ask(*letters(5)), SMALLTALK, SETTINGS, 0)
    seeds = [
        seed + place
        for seed, call in zip(speaker.seeds, speaker.prompts, strict=True)
        for place in range(len(call))
    ]
    assert len(set(seeds)) == len(seeds) == 5 * GROUP


@pytest.mark.parametrize(
    ("group", "lowest", "mean", "highest", "learnable"),
    [
        (["", "", "", ""], 0.0, 0.0, 0.0, False),
        (["", "a", "<", "雨"], 0.0, 0.0, 0.0, False),
        ([GOOD, GOOD, GOOD, GOOD], 1.5, 1.5, 1.5, False),
        ([GOOD, OTHER, GOOD, OTHER], 1.5, 1.5, 1.5, False),
        ([TWO_TAGS, TWO_TAGS, TWO_TAGS, TWO_TAGS], 0.25, 0.25, 0.25, False),
        ([GOOD, "", "", ""], 0.0, 0.375, 1.5, True),
        (["", "", "", GOOD], 0.0, 0.375, 1.5, True),
        ([GOOD, GOOD, GOOD, f"{GOOD}。"], 0.999, 1.37475, 1.5, True),
        ([GOOD, "", TWO_TAGS, "<think>"], 0.0, 0.46875, 1.5, True),
    ],
    ids=[
        "nothing",
        "different texts that earn 0",
        "one text",
        "different texts that earn the same",
        "part of the format",
        "the first is better",
        "the last is better",
        "one earns a little less",
        "all differ",
    ],
)
def test_a_prompt_teaches_where_its_completions_earn_different_rewards(
    speak: Callable[[Say], Speaker],
    group: list[str],
    lowest: float,
    mean: float,
    highest: float,
    learnable: bool,
) -> None:
    speak(in_turn({"a": group}))
    scanned = scan(nobody(), ask("a"), SMALLTALK, SETTINGS, 0)
    assert list(scanned) == COLUMNS
    (row,) = scanned.to_dict("records")
    assert row["prompt"] == "a"
    assert [row[name] for name in COLUMNS[1:4]] == pytest.approx([lowest, mean, highest])
    assert bool(row["learnable"]) is learnable


def test_groups_are_not_mixed_up_in_a_dataset_of_several_batches(
    speak: Callable[[Say], Speaker],
) -> None:
    groups = {
        "a": [GOOD] * GROUP,
        "b": [""] * GROUP,
        "c": [GOOD, "", "", ""],
        "d": [TWO_TAGS] * GROUP,
        "e": ["", "", "", TWO_TAGS],
    }
    speak(in_turn(groups))
    scanned = scan(nobody(), ask(*groups), SMALLTALK, SETTINGS, 0).set_index("prompt")
    assert scanned["lowest"].to_dict() == {"a": 1.5, "b": 0.0, "c": 0.0, "d": 0.25, "e": 0.0}
    assert scanned["highest"].to_dict() == {"a": 1.5, "b": 0.0, "c": 1.5, "d": 0.25, "e": 0.25}
    assert scanned.index[scanned["learnable"]].tolist() == ["c", "e"]


def test_the_question_is_shown_without_the_system_prompt(speak: Callable[[Say], Speaker]) -> None:
    speak(lambda question, place, seed: GOOD)
    assert scan(nobody(), ask("雨？"), SMALLTALK, SETTINGS, 0)["prompt"].tolist() == ["雨？"]


def answer(value: str) -> str:
    return QA.tags.render("考えた。", value)


FORMAT = 1.5
"""What the format alone earns from the qa recipe; a whole number earns 0.5 and a right one 2."""


def test_answers_go_with_their_own_prompts(speak: Callable[[Say], Speaker]) -> None:
    answers = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
    following = dict(zip(answers.values(), ["2", "3", "4", "5", "1"], strict=True))

    def half_right(question: str, place: int, seed: int) -> str:
        right = answers[question]
        return answer(right if place % GROUP < 2 else following[right])

    speak(half_right)
    dataset = ask(*answers, recipe=QA, answer=list(answers.values()))
    scanned = scan(nobody(), dataset, QA, SETTINGS, 0)
    assert scanned["prompt"].tolist() == list(answers)
    assert scanned["highest"].tolist() == [FORMAT + 0.5 + 2.0] * 5
    assert scanned["lowest"].tolist() == [FORMAT + 0.5] * 5
    assert scanned["mean"].tolist() == [FORMAT + 0.5 + 1.0] * 5


@pytest.mark.parametrize(
    ("said", "right", "total"),
    [
        (answer("3"), "3", FORMAT + 0.5 + 2.0),
        (answer("3"), "4", FORMAT + 0.5),
        (answer("多い"), "4", FORMAT),
        (answer("3"), None, FORMAT),
        ("3", "3", 0.0),
        ("", None, 0.0),
    ],
    ids=["right", "wrong", "no number", "open question", "no tags", "nothing"],
)
def test_rewards_that_do_not_apply_are_left_out_of_the_total(
    said: str, right: str | None, total: float
) -> None:
    columns = {"prompt": [[], []], "answer": [right, "7"]}
    assert total_rewards(QA, [said, answer("7")], columns) == [total, FORMAT + 0.5 + 2.0]


def test_where_no_reward_applies_the_total_is_0() -> None:
    def never_reward(*, completions: Sequence[str], **_: Any) -> list[float | None]:
        return [None for _ in completions]

    never = replace(SMALLTALK, rewards=(never_reward, never_reward))
    assert total_rewards(never, ["a", "b"], {"prompt": [[], []]}) == [0, 0]


def test_rewards_see_prompts_completions_and_columns_as_in_training() -> None:
    seen: dict[str, Any] = {}

    def nosy_reward(**columns: Any) -> list[float | None]:
        seen.update(columns)
        return [0.0, 1.0]

    recipe = replace(SMALLTALK, rewards=(nosy_reward,))
    prompts = [[{"role": "user", "content": text}] for text in "ab"]
    columns = {"prompt": prompts, "answer": ["1", None], "topic": ["x", "y"]}
    assert total_rewards(recipe, ["c", "d"], columns) == [0.0, 1.0]
    assert (seen["prompts"], seen["completions"]) == (prompts, ["c", "d"])
    assert (seen["answer"], seen["topic"]) == (["1", None], ["x", "y"])
    assert seen["tags"] == SMALLTALK.tags


Z, S, L = (0.0, 0.0), (1.5, 1.5), (0.0, 1.5)
"""Lowest and highest: all zero, all the same, and learnable."""


@pytest.mark.parametrize(
    ("rewards", "sentence"),
    [
        ([L, L, L], "each of the 3 prompts teaches something: its completions differ"),
        (
            [L, Z, S, L],
            "2 of 4 prompts (50%) teach nothing as the model is: all completions earn 0 for 1, "
            "and another, equal reward for 1",
        ),
        (
            [Z, Z, Z],
            "3 of 3 prompts (100%) teach nothing as the model is: all completions earn 0 for 3, "
            "and another, equal reward for 0",
        ),
        (
            [S, S, L],
            "2 of 3 prompts (67%) teach nothing as the model is: all completions earn 0 for 0, "
            "and another, equal reward for 2",
        ),
    ],
    ids=["none stuck", "some stuck", "all zero", "none zero"],
)
def test_a_sentence_says_how_many_prompts_teach_nothing_and_why(
    speak: Callable[[Say], Speaker], rewards: list[tuple[float, float]], sentence: str
) -> None:
    words = {0.0: "", 1.5: GOOD}
    groups = {
        name: [words[low], *[words[high]] * (GROUP - 1)]
        for name, (low, high) in zip(letters(len(rewards)), rewards, strict=True)
    }
    speak(in_turn(groups))
    assert describe_scan(scan(nobody(), ask(*groups), SMALLTALK, SETTINGS, 0)) == sentence


def test_the_tiny_model_is_scanned_as_it_is(recipe: Recipe, policy: Policy) -> None:
    settings: Settings = replace(
        recipe.tiny.settings, num_generations=4, per_device_train_batch_size=4
    )
    prompts = split_dataset(recipe.load_dataset(), 0)["train"].select(range(5))
    policy = replace(policy, plan=replace(policy.plan, draw_at_once=8))
    scanned, again = (scan(policy, prompts, recipe, settings, 0) for _ in range(2))
    assert scanned["prompt"].tolist() == [prompt[-1]["content"] for prompt in prompts["prompt"]]
    assert ((scanned["lowest"] >= 0) & (scanned["highest"] <= 3.5)).all()
    assert scanned["mean"].between(scanned["lowest"], scanned["highest"]).all()
    # It keeps to the format now and then.
    assert scanned["learnable"].any()
    assert scanned["highest"].max() == pytest.approx(3.5)
    pd.testing.assert_frame_equal(scanned, again)


@pytest.mark.parametrize(("count", "scanned"), [(1, 1), (3, 3), (9, 4)])
def test_the_first_prompts_are_scanned_as_far_as_there_are_any(count: int, scanned: int) -> None:
    dataset = datasets.Dataset.from_dict({"prompt": ["a", "b", "c", "d"]})
    assert list(learnability.first(dataset, count)["prompt"]) == ["a", "b", "c", "d"][:scanned]
