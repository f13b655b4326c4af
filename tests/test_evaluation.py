"""Pass rates with intervals, before against after."""

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarashina_grpo.backend import Policy
from sarashina_grpo.data import split_dataset
from sarashina_grpo.evaluation import (
    Evaluation,
    Lengths,
    PairedTest,
    compare,
    describe_changes,
    evaluate,
    from_json,
    japanese_share,
    paired,
    plot_comparison,
    side_by_side,
    to_json,
    wilson_interval,
)
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
    assert list(table.loc["characters a reply"]) == ["median 1, 90% ≤ 1"] * 2
    assert list(table.loc["Japanese letters in replies"]) == ["0.0%", "0.0%"]
    assert "right answers" not in table.index


def test_a_comparison_of_answers_has_their_rows_behind_those_of_the_format() -> None:
    table = compare(MARKED_BEFORE, MARKED_AFTER)
    assert table.index.tolist() == [
        "keeps the format",
        "keeps the format, 95% interval",
        "right answers",
        "right answers, 95% interval",
        "Japanese letters in replies",
        "different replies",
        "characters a completion",
        "characters a thought",
        "characters a reply",
    ]
    assert list(table.loc["right answers"]) == ["33.3% (1 of 3)", "100.0% (3 of 3)"]
    assert table.loc["right answers, 95% interval", "after"] == "43.9% to 100.0%"


def test_a_comparison_fits_a_notebooks_width() -> None:
    texts, correct = [TAGS.render("考" * 900, "雨" * 900)] * 1000, [True] * 1000
    lines = compare(judge(*texts, correct=correct), judge(*texts, correct=correct)).to_string()
    assert max(map(len, lines.splitlines())) <= 80


def test_a_comparison_says_none_where_nothing_keeps_to_the_format() -> None:
    table = compare(judge("雨"), judge(TAGS.render("a", "雨")))
    for row in ("Japanese letters in replies", "characters a thought", "characters a reply"):
        assert table.loc[row, "before"] == "none"
    assert table.loc["Japanese letters in replies", "after"] == "100.0%"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("ひらがな", 1.0),
        ("カタカナ、コーヒー。", 1.0),
        ("ｶﾀｶﾅ", 1.0),
        ("か\u3099", 1.0),
        ("人々と〆切", 1.0),
        ("𠮷野家", 1.0),
        ("Hello there", 0.0),
        ("ＡＢＣ", 0.0),
        ("비가 온다", 0.0),
        ("雨 is", 1 / 3),
        ("AIです", 0.5),
        ("３個で100%!", 1.0),
        ("㈱", 1.0),
        ("雨☔🎉", 1.0),
        ("🎉", None),
        ("1+2=3", None),
        ("\ud800", None),
        ("", None),
    ],
)
def test_the_japanese_share_is_that_of_kana_and_kanji_among_letters(
    text: str, share: float | None
) -> None:
    assert japanese_share(text) == (share if share is None else pytest.approx(share))


@given(st.text())
def test_the_japanese_share_of_any_text_is_a_share_or_none(text: str) -> None:
    share = japanese_share(text)
    assert share is None or 0 <= share <= 1


def test_an_evaluations_japanese_share_is_the_mean_of_its_replies_with_letters() -> None:
    replies = ("雨です", "rain", "AIです", "3!")
    texts = [TAGS.render("thinking in English", reply) for reply in replies]
    assert judge(*texts, "雨雨雨").japanese_share == pytest.approx(0.5)
    assert judge("雨", TAGS.render("雨", "3")).japanese_share is None


def test_lengths_are_the_median_and_the_90th_percentile() -> None:
    texts = [TAGS.render("考" * (number + 1), "雨" * 2 * number) for number in range(1, 12)]
    lengths = judge(*texts, "no tags").lengths
    assert lengths["thought"] == Lengths(7, 11)
    assert lengths["reply"] == Lengths(12, 20)
    assert str(lengths["reply"]) == "median 12, 90% ≤ 20"
    assert set(judge("no tags").lengths) == {"completion"}


@pytest.mark.parametrize(("count", "rows"), [(2, 2), (4, 4), (9, 4)])
def test_completions_stand_side_by_side_by_prompt(count: int, rows: int) -> None:
    table = side_by_side(BEFORE, AFTER, count)
    assert table.index.tolist() == BEFORE.prompts[:rows]
    assert table["before"].tolist() == BEFORE.completions[:rows]
    assert table["after"].tolist() == AFTER.completions[:rows]


def test_rates_are_paired_by_prompt() -> None:
    assert paired(MARKED_BEFORE, MARKED_AFTER) == [
        PairedTest("keeps the format", prompts=4, better=2, worse=0),
        PairedTest("right answers", prompts=3, better=2, worse=0),
    ]
    assert paired(AFTER, BEFORE) == [PairedTest("keeps the format", 4, better=0, worse=2)]


def test_a_rate_of_only_one_of_both_is_not_paired() -> None:
    assert [test.name for test in paired(BEFORE, MARKED_AFTER)] == ["keeps the format"]


def test_other_prompts_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="same prompts, got 4 before and 2 after"):
        paired(BEFORE, judge("a", "b"))


@pytest.mark.parametrize(
    ("better", "worse", "p_value"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (0, 6, 0.03125), (5, 2, 0.453125)],
)
def test_the_p_value_is_mcnemars_exact_one(better: int, worse: int, p_value: float) -> None:
    test = PairedTest("x", 40, better, worse)
    assert test.p_value == pytest.approx(p_value)
    assert test.is_significant == (p_value < 0.05)


@pytest.mark.parametrize(
    ("prompts", "better", "worse", "sentence"),
    [
        (40, 0, 0, "no prompt changed for the better or for the worse"),
        (
            40,
            5,
            2,
            "5 prompts changed for the better and 2 for the worse: that could be chance "
            "(p = 0.45); about 250 prompts would be needed",
        ),
        (
            104,
            1,
            0,
            "1 prompt changed for the better and 0 for the worse: that could be chance (p = 1); "
            "fewer than 6 changes never tell; about 820 prompts would be needed",
        ),
        (
            104,
            4,
            4,
            "4 prompts changed for the better and 4 for the worse: that could be chance (p = 1)",
        ),
        (
            104,
            6,
            0,
            "6 prompts changed for the better and 0 for the worse: that is more than chance "
            "(p = 0.031)",
        ),
        (
            104,
            2,
            30,
            "2 prompts changed for the better and 30 for the worse: that is more than chance "
            "(p < 0.001)",
        ),
    ],
)
def test_a_test_says_in_words_what_it_can_tell(
    prompts: int, better: int, worse: int, sentence: str
) -> None:
    assert str(PairedTest("right answers", prompts, better, worse)) == f"right answers: {sentence}"


def test_an_insignificant_change_needs_more_prompts_than_there_were() -> None:
    counts = [(b, c) for b in range(21) for c in range(21 - b) if b != c]
    tests = [PairedTest("x", prompts, b, c) for b, c in counts for prompts in (20, 100)]
    unclear = [test for test in tests if not test.is_significant]
    assert len(unclear) > 100
    assert all((test.prompts_needed or 0) > test.prompts for test in unclear)


def test_so_many_prompts_do_show_the_change_in_about_four_of_five_tries() -> None:
    from numpy.random import default_rng

    test = PairedTest("x", 40, 5, 2)
    needed, shares = test.prompts_needed or 0, [5 / 40, 2 / 40, 33 / 40]
    draws = default_rng(0).multinomial(needed, shares, size=400)
    shown = sum(PairedTest("x", needed, b, c).is_significant for b, c, _ in draws.tolist())
    assert 0.7 < shown / 400 < 0.9


def test_changes_are_described_a_sentence_a_rate() -> None:
    first, second = describe_changes(MARKED_BEFORE, MARKED_AFTER)
    assert first.startswith("keeps the format: 2 prompts changed for the better")
    assert second.startswith("right answers: 2 prompts changed for the better")


@given(st.lists(st.tuples(st.text(), st.text(), st.text(), st.sampled_from([None, True, False]))))
def test_any_evaluations_come_back_from_json(rows: list[tuple[str, str, str, bool | None]]) -> None:
    rows = [*rows, ("", "</script>", "\u2028\ud800\0\\", None)]
    texts = [[TAGS.render(thought, reply), reply] for _, thought, reply, _ in rows]
    prompts, marks = [row[0] for row in rows], [row[3] for row in rows]
    before, after = (
        Evaluation(prompts, list(drawn), [TAGS.parse(text) for text in drawn], marks)
        for drawn in zip(*texts, strict=True)
    )
    text = to_json(before, after)
    assert from_json(text.encode().decode()) == (before, after)


def test_json_holds_the_rates_the_tests_and_the_samples() -> None:
    document = json.loads(to_json(MARKED_BEFORE, MARKED_AFTER, {"recipe": "smalltalk"}))
    assert list(document) == ["about", "metrics", "tests", "samples"]
    assert document["about"] == {"recipe": "smalltalk"}
    rate = document["metrics"]["after"]["rates"]["keeps the format"]
    assert rate["interval_95"] == pytest.approx([0.3006, 0.9544], abs=5e-5)
    assert (rate["successes"], rate["total"], rate["rate"]) == (3, 4, 0.75)
    assert document["metrics"]["before"]["characters"]["reply"] == {
        "median": 1.0,
        "percentile_90": 1.0,
    }
    assert document["tests"][0] == {
        "name": "keeps the format",
        "prompts": 4,
        "better": 2,
        "worse": 0,
        "p_value": 0.5,
        "is_significant": False,
        "prompts_needed": 14,
        "sentence": describe_changes(MARKED_BEFORE, MARKED_AFTER)[0],
    }
    assert document["samples"][0] == {
        "prompt": "prompt 0",
        "before": {"completion": "雨", "thought": None, "reply": None, "correct": False},
        "after": {"completion": AFTER_TEXTS[0], "thought": "a", "reply": "b", "correct": True},
    }


def test_json_is_written_in_plain_japanese() -> None:
    assert "雨" in to_json(BEFORE, AFTER)


@pytest.mark.parametrize(
    ("before", "after", "rates"),
    [(MARKED_BEFORE, MARKED_AFTER, 2), (BEFORE, AFTER, 1), (judge("a"), judge("a"), 1)],
)
def test_the_figure_shows_each_rate_before_and_after(
    before: Evaluation, after: Evaluation, rates: int
) -> None:
    figure = plot_comparison(before, after)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert len(axes.containers) == 2 * 2 * rates
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert [label.split("\n")[0] for label in labels] == list(before.rates)
    assert axes.get_ylim()[1] > 1


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
