"""Pass rates with intervals, before against after."""

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarashina_grpo.backend import Policy
from sarashina_grpo.data import split_dataset
from sarashina_grpo.evaluation import Evaluation, compare, evaluate, side_by_side, wilson_interval
from sarashina_grpo.recipe import Recipe, Sampling
from sarashina_grpo.tags import TagFormat

if TYPE_CHECKING:
    from datasets import Dataset

TAGS = TagFormat("think", "response")


SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_tokens=48)


def judge(*completions: str, correct: list[bool | None] | None = None) -> Evaluation:
    prompts = [f"prompt {number}" for number in range(len(completions))]
    parsed = [TAGS.parse(text) for text in completions]
    return Evaluation(prompts, list(completions), parsed, correct or [None] * len(completions))


def held_out(recipe: Recipe, count: int) -> "Dataset":
    return split_dataset(recipe.load_dataset(), 0)["held_out"].select(range(count))


BEFORE_TEXTS = ("雨", TAGS.render("a", "b"), "<think>", "")
AFTER_TEXTS = (TAGS.render("a", "b"), TAGS.render("c", "b"), TAGS.render("a", "d"), "no tags")
BEFORE, AFTER = judge(*BEFORE_TEXTS), judge(*AFTER_TEXTS)
MARKED_BEFORE = judge(*BEFORE_TEXTS, correct=[False, True, None, False])
MARKED_AFTER = judge(*AFTER_TEXTS, correct=[True, True, None, True])


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (52, 104, 0.4056, 0.5944),
    ],
)
def test_the_interval_is_wilsons(successes: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate_and_stays_a_share(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert 0 <= low < high <= 1
    assert low - 1e-12 <= counts[0] / counts[1] <= high + 1e-12


def test_more_completions_make_the_interval_narrower() -> None:
    widths = [high - low for low, high in (wilson_interval(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


def test_an_evaluation_counts_what_keeps_to_the_format() -> None:
    assert (BEFORE.well_formed, BEFORE.format_rate, BEFORE.distinct_replies) == (1, 0.25, 1)
    assert (AFTER.well_formed, AFTER.format_rate, AFTER.distinct_replies) == (3, 0.75, 2)


def test_only_prompts_with_an_answer_are_marked() -> None:
    assert MARKED_BEFORE.marked == [False, True, False]
    assert BEFORE.marked == []


def test_rates_are_successes_and_trials_and_have_answers_only_where_there_are_any() -> None:
    assert BEFORE.rates == {"keeps the format": (1, 4)}
    assert MARKED_BEFORE.rates == {"keeps the format": (1, 4), "right answers": (1, 3)}


def test_wrong_answers_alone_are_a_rate_too() -> None:
    assert judge("雨", correct=[False]).rates["right answers"] == (0, 1)


def test_an_evaluation_says_its_rates_in_one_line() -> None:
    assert str(BEFORE) == "keeps the format: 25.0% of 4"
    assert str(MARKED_BEFORE) == "keeps the format: 25.0% of 4, right answers: 33.3% of 3"


def test_a_comparison_has_a_row_a_measure() -> None:
    table = compare(BEFORE, AFTER)
    assert list(table.columns) == ["before", "after"]
    assert list(table.loc["keeps the format"]) == ["25.0% (1 of 4)", "75.0% (3 of 4)"]
    assert list(table.loc["different replies"]) == ["1", "2"]
    assert table.loc["keeps the format, 95% interval", "after"] == "30.1% to 95.4%"
    assert table.loc["characters, median", "before"] == "4"
    assert "right answers" not in table.index


def test_a_comparison_of_answers_has_their_rows_behind_those_of_the_format() -> None:
    table = compare(MARKED_BEFORE, MARKED_AFTER)
    assert table.index.tolist() == [
        "keeps the format",
        "keeps the format, 95% interval",
        "right answers",
        "right answers, 95% interval",
        "different replies",
        "characters, median",
    ]
    assert list(table.loc["right answers"]) == ["33.3% (1 of 3)", "100.0% (3 of 3)"]
    assert table.loc["right answers, 95% interval", "after"] == "43.9% to 100.0%"


@pytest.mark.parametrize(("count", "rows"), [(2, 2), (4, 4), (9, 4)])
def test_completions_stand_side_by_side_by_prompt(count: int, rows: int) -> None:
    table = side_by_side(BEFORE, AFTER, count)
    assert table.index.tolist() == BEFORE.prompts[:rows]
    assert table["before"].tolist() == BEFORE.completions[:rows]
    assert table["after"].tolist() == AFTER.completions[:rows]


@pytest.mark.parametrize(
    ("completion", "answer", "correct"),
    [
        (TAGS.render("1+2=3", "3個です。"), "3", True),
        (TAGS.render("次の日。", "木曜日です"), "木曜日", True),
        (TAGS.render("3", "4"), "3", False),
        ("3", "3", False),
        ("", "3", False),
        ("<response>3</response>", "3", True),
        (TAGS.render("1+2=3", "3"), None, None),
    ],
    ids=[
        "number",
        "text",
        "only the thought is right",
        "no tags",
        "nothing",
        "only the reply tags",
        "open question",
    ],
)
def test_an_answer_is_marked_by_what_the_reply_tags_hold(
    monkeypatch: pytest.MonkeyPatch, completion: str, answer: str | None, correct: bool | None
) -> None:
    from datasets import Dataset

    monkeypatch.setattr("sarashina_grpo.evaluation.generate", lambda *_: [completion])
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+2?"}]
    no_policy: Any = None
    dataset = Dataset.from_dict({"prompt": [prompt], "answer": [answer]})
    result = evaluate(no_policy, dataset, TAGS, SAMPLING, seed=0)
    assert result == Evaluation(["1+2?"], [completion], [TAGS.parse(completion)], [correct])


def test_a_model_is_evaluated_on_each_prompt_once(policy: Policy, recipe: Recipe) -> None:
    dataset = held_out(recipe, 6)
    result = evaluate(policy, dataset, recipe.tags, SAMPLING, seed=3)
    assert result.prompts == [prompt[-1]["content"] for prompt in dataset["prompt"]]
    assert result.parsed == [recipe.tags.parse(text) for text in result.completions]
    assert result.correct == [None] * 6
    assert evaluate(policy, dataset, recipe.tags, SAMPLING, seed=3) == result


def test_answers_to_compare_with_do_not_change_what_is_drawn(
    policy: Policy, recipe: Recipe
) -> None:
    dataset = held_out(recipe, 3)
    open_questions = evaluate(policy, dataset, recipe.tags, SAMPLING, seed=3)
    answered = dataset.add_column("answer", ["3", None, "東京"])
    result = evaluate(policy, answered, recipe.tags, SAMPLING, seed=3)
    assert result.completions == open_questions.completions
    assert [correct is None for correct in result.correct] == [False, True, False]
