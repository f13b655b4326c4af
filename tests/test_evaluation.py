"""Pass rates with intervals, before against after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarashina_grpo.backend import Policy
from sarashina_grpo.data import split_dataset
from sarashina_grpo.evaluation import Evaluation, compare, evaluate, side_by_side, wilson_interval
from sarashina_grpo.recipe import Recipe, Sampling
from sarashina_grpo.tags import TagFormat

TAGS = TagFormat("think", "response")


def judge(*completions: str) -> Evaluation:
    prompts = [f"prompt {number}" for number in range(len(completions))]
    return Evaluation(prompts, list(completions), [TAGS.parse(text) for text in completions])


BEFORE = judge("雨", TAGS.render("a", "b"), "<think>", "")
AFTER = judge(TAGS.render("a", "b"), TAGS.render("c", "b"), TAGS.render("a", "d"), "no tags")


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


def test_a_comparison_has_a_row_a_measure() -> None:
    table = compare(BEFORE, AFTER)
    assert list(table.columns) == ["before", "after"]
    assert table.loc["keeps the format"].tolist() == ["25.0%", "75.0%"]
    assert table.loc["well-formed"].tolist() == ["1 of 4", "3 of 4"]
    assert table.loc["different replies"].tolist() == ["1", "2"]
    assert table.loc["95% interval", "after"] == "30.1% to 95.4%"
    assert table.loc["characters, median", "before"] == "4"


@pytest.mark.parametrize(("count", "rows"), [(2, 2), (4, 4), (9, 4)])
def test_completions_stand_side_by_side_by_prompt(count: int, rows: int) -> None:
    table = side_by_side(BEFORE, AFTER, count)
    assert table.index.tolist() == BEFORE.prompts[:rows]
    assert table["before"].tolist() == BEFORE.completions[:rows]
    assert table["after"].tolist() == AFTER.completions[:rows]


def test_a_model_is_evaluated_on_each_prompt_once(policy: Policy, recipe: Recipe) -> None:
    prompts = split_dataset(recipe.load_dataset(), 0)["held_out"]["prompt"][:6]
    sampling = Sampling(temperature=0.7, top_p=0.95, max_tokens=48)
    result = evaluate(policy, prompts, recipe.tags, sampling, seed=3)
    assert result.prompts == [prompt[-1]["content"] for prompt in prompts]
    assert result.parsed == [recipe.tags.parse(text) for text in result.completions]
    assert evaluate(policy, prompts, recipe.tags, sampling, seed=3) == result
