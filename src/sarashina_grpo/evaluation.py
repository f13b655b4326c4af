"""Held-out prompts -> pass rates with confidence intervals, before against after."""

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.stats import binomtest

from sarashina_grpo.backend import Policy, generate
from sarashina_grpo.recipe import Sampling
from sarashina_grpo.rewards.answer import is_correct, reply_of
from sarashina_grpo.tags import Parsed, TagFormat

if TYPE_CHECKING:
    from datasets import Dataset

SIGNIFICANCE, POWER = 0.05, 0.8
# Five changes that all go one way are chance once in 16 times, six once in 32.
FEWEST_CHANGES = 6
# How Unicode names kana, kanji and the marks 々 and 〆 begin.
JAPANESE_NAMES = ("HIRAGANA", "KATAKANA", "CJK", "IDEOGRAPHIC")


class Lengths(NamedTuple):
    """How long texts are, in characters: half of them, and 90% of them, at most that."""

    median: float
    percentile_90: float

    def __str__(self) -> str:
        """Both in whole characters."""
        return f"median {self.median:.0f}, 90% ≤ {self.percentile_90:.0f}"


@dataclass(frozen=True)
class Evaluation:
    """One completion for each held-out prompt, as drawn, as parsed and as marked.

    `parsed` has None for a completion that does not keep to the format, `correct` None for a
    prompt without an answer to compare with.
    """

    prompts: list[str]
    completions: list[str]
    parsed: list[Parsed | None]
    correct: list[bool | None]

    @property
    def well_formed(self) -> int:
        """How many completions keep to the format."""
        return len(self.replies)

    @property
    def format_rate(self) -> float:
        """The share of completions that keep to the format, 0 to 1."""
        return self.well_formed / len(self.completions)

    @property
    def marked(self) -> list[bool]:
        """Right or wrong, for the prompts that have an answer."""
        return [correct for correct in self.correct if correct is not None]

    @property
    def thoughts(self) -> list[str]:
        """The thoughts of the well-formed completions."""
        return [parsed.thought for parsed in self.parsed if parsed is not None]

    @property
    def replies(self) -> list[str]:
        """The replies of the well-formed completions."""
        return [parsed.reply for parsed in self.parsed if parsed is not None]

    @property
    def distinct_replies(self) -> int:
        """How many different replies the well-formed completions give."""
        return len(set(self.replies))

    @property
    def japanese_share(self) -> float | None:
        """The mean of `japanese_share` over the replies with letters, 0 to 1; None without any.

        Unlike `japanese_reward` it lets nothing pass that is not Japanese.
        """
        shares = [share for share in map(japanese_share, self.replies) if share is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def lengths(self) -> dict[str, Lengths]:
        """Lengths of completions, and of the thoughts and replies of those that have them."""
        texts = {"completion": self.completions, "thought": self.thoughts, "reply": self.replies}
        return {part: _lengths(written) for part, written in texts.items() if written}

    @property
    def outcomes(self) -> dict[str, list[bool | None]]:
        """What is counted, by name and prompt; None: does not apply to that prompt."""
        outcomes: dict[str, list[bool | None]] = {
            "keeps the format": [parsed is not None for parsed in self.parsed]
        }
        return outcomes | ({"right answers": self.correct} if self.marked else {})

    @property
    def rates(self) -> dict[str, tuple[int, int]]:
        """What is counted: successes and trials by name. Answers only where there are any."""
        return {
            name: (outcomes.count(True), len(outcomes) - outcomes.count(None))
            for name, outcomes in self.outcomes.items()
        }

    def __str__(self) -> str:
        """The rates in one line."""
        return ", ".join(
            f"{name}: {successes / total:.1%} of {total}"
            for name, (successes, total) in self.rates.items()
        )


@dataclass(frozen=True)
class PairedTest:
    """McNemar's exact test of a rate, before against after on the same prompts.

    Of `prompts`, `better` failed before and pass now, `worse` the other way round. The others
    say nothing about the change.
    """

    name: str
    prompts: int
    better: int
    worse: int

    @property
    def changed(self) -> int:
        """How many prompts changed either way."""
        return self.better + self.worse

    @property
    def p_value(self) -> float:
        """How often chance alone, a fair coin for each change, parts them as far, 0 to 1."""
        return float(binomtest(self.better, self.changed).pvalue) if self.changed else 1.0

    @property
    def is_significant(self) -> bool:
        """Whether chance does so less than once in 20 times."""
        return self.p_value < SIGNIFICANCE

    @property
    def prompts_needed(self) -> int | None:
        """About how many prompts show such a change in 4 of 5 tries; None: it has no direction.

        Takes the shares of changes seen for the true ones: a rough guide after few changes.
        Source: R. J. Connor, Biometrics 43 (1987), 207-211.
        """
        if self.better == self.worse:
            return None
        changed = self.changed / self.prompts
        net = (self.better - self.worse) / self.prompts
        chance, miss = (NormalDist().inv_cdf(share) for share in (1 - SIGNIFICANCE / 2, POWER))
        spread = chance * math.sqrt(changed) + miss * math.sqrt(changed - net**2)
        return _round_up(max(spread**2 / net**2, FEWEST_CHANGES / changed))

    def __str__(self) -> str:
        """The changes, and whether they can be told from chance."""
        if not self.changed:
            return f"{self.name}: no prompt changed for the better or for the worse"
        prompts = "prompt" if self.better == 1 else "prompts"
        return (
            f"{self.name}: {self.better} {prompts} changed for the better and {self.worse} for "
            f"the worse: {self._verdict}"
        )

    @property
    def _verdict(self) -> str:
        if self.is_significant:
            return f"that is more than chance ({_p_value(self)})"
        verdict = f"that could be chance ({_p_value(self)})"
        if self.changed < FEWEST_CHANGES:
            verdict += f"; fewer than {FEWEST_CHANGES} changes never tell"
        if self.prompts_needed is None:
            return verdict
        return f"{verdict}; about {self.prompts_needed} prompts would be needed"


def evaluate(
    policy: Policy, dataset: "Dataset", tags: TagFormat, sampling: Sampling, seed: int
) -> Evaluation:
    """Answer each prompt once, drawn as in a conversation; the same for the same seed.

    A right answer is one that `rewards.answer.is_correct` finds inside the reply tags.
    """
    completions = generate(policy, dataset["prompt"], sampling, seed)
    answers = dataset["answer"] if "answer" in dataset.column_names else [None] * len(dataset)
    return Evaluation(
        prompts=[prompt[-1]["content"] for prompt in dataset["prompt"]],
        completions=completions,
        parsed=[tags.parse(completion) for completion in completions],
        correct=[
            None if answer is None else is_correct(reply_of(completion, tags), answer)
            for completion, answer in zip(completions, answers, strict=True)
        ],
    )


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a rate.

    >>> wilson_interval(52, 104)
    (0.4056..., 0.5943...)
    """
    interval = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def japanese_share(text: str) -> float | None:
    """The share of a text's letters that are kana or kanji, 0 to 1; None if it has no letters.

    Full-width and half-width forms count as what they stand for (NFKC); digits, punctuation
    and emoji are no letters. Kanji alone pass, so Chinese does too.

    >>> japanese_share("雨です。"), japanese_share("雨 is rain"), japanese_share("3!")
    (1.0, 0.1428..., None)
    """
    normal = unicodedata.normalize("NFKC", text)
    letters = [char for char in normal if unicodedata.category(char).startswith("L")]
    japanese = sum(unicodedata.name(char, "").startswith(JAPANESE_NAMES) for char in letters)
    return japanese / len(letters) if letters else None


def compare(before: Evaluation, after: Evaluation) -> pd.DataFrame:
    """Both evaluations beside each other: one row a measure, columns "before" and "after"."""
    return pd.DataFrame({"before": _measures(before), "after": _measures(after)})


def paired(before: Evaluation, after: Evaluation) -> list[PairedTest]:
    """Whether each rate changed by more than chance, one test a rate.

    Raises:
        ValueError: the two were not evaluated on the same prompts.
    """
    if before.prompts != after.prompts:
        raise ValueError(
            f"both have to be evaluated on the same prompts, got {len(before.prompts)} before "
            f"and {len(after.prompts)} after, in part others or in another order"
        )
    return [
        _paired_test(name, outcomes, after.outcomes[name])
        for name, outcomes in before.outcomes.items()
        if name in after.outcomes
    ]


def describe_changes(before: Evaluation, after: Evaluation) -> list[str]:
    """A sentence a rate: which prompts changed, and whether that can be told from chance.

    Raises:
        ValueError: see `paired`.
    """
    return [str(test) for test in paired(before, after)]


def side_by_side(before: Evaluation, after: Evaluation, count: int = 5) -> pd.DataFrame:
    """The first completions of both, by prompt."""
    return pd.DataFrame(
        {"before": before.completions[:count], "after": after.completions[:count]},
        index=pd.Index(before.prompts[:count], name="prompt"),
    )


def plot_comparison(before: Evaluation, after: Evaluation) -> Figure:
    """Each rate before and after with its 95% interval, and the p value of the change.

    Raises:
        ValueError: see `paired`.
    """
    tests = paired(before, after)
    figure = Figure(figsize=(2.5 + 2.5 * len(tests), 4), layout="constrained")
    axes = figure.subplots()
    names = [test.name for test in tests]
    _draw_rates(axes, "before", [before.rates[name] for name in names], -0.2, "0.7")
    _draw_rates(axes, "after", [after.rates[name] for name in names], 0.2, "C0")
    axes.set_xticks(range(len(tests)), [f"{test.name}\n{_p_value(test)}" for test in tests])
    axes.set(xlim=(-0.6, len(tests) - 0.4), ylim=(0, 1.15), ylabel="share of prompts")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2, frameon=False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def to_json(before: Evaluation, after: Evaluation, about: Mapping[str, Any] | None = None) -> str:
    """Everything there is to say about both, for `from_json` and for other programs.

    Args:
        before: the evaluation of the base model.
        after: the evaluation of the checkpoint, on the same prompts.
        about: what was evaluated and how, kept as it is.

    Returns:
        "about", "metrics" ("before" and "after"), "tests" (one a rate), and "samples" (one a
        prompt). Rates and shares from 0 to 1, lengths in characters, null where there is none.

    Raises:
        ValueError: see `paired`.
    """
    document = {
        "about": dict(about or {}),
        "metrics": {"before": _metrics(before), "after": _metrics(after)},
        "tests": [_test_record(test) for test in paired(before, after)],
        "samples": [
            {"prompt": prompt, "before": drawn_before, "after": drawn_after}
            for prompt, drawn_before, drawn_after in zip(
                before.prompts, _samples(before), _samples(after), strict=True
            )
        ],
    }
    text = json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False)
    # A lone surrogate is no Unicode and could not be written to a file; as \ud800 it can.
    return text.encode("utf-8", "backslashreplace").decode()


def from_json(text: str) -> tuple[Evaluation, Evaluation]:
    """Both evaluations, before and after, out of what `to_json` wrote."""
    samples = json.loads(text)["samples"]
    before, after = (_evaluation(samples, when) for when in ("before", "after"))
    return before, after


def _lengths(texts: Sequence[str]) -> Lengths:
    characters = pd.Series([len(text) for text in texts])
    return Lengths(float(characters.median()), float(characters.quantile(0.9)))


def _round_up(number: float) -> int:
    """To two digits that count: more would claim more than is known."""
    whole = math.ceil(number)
    step: int = 10 ** max(0, len(str(whole)) - 2)
    return -(-whole // step) * step


def _p_value(test: PairedTest) -> str:
    return "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.2g}"


def _paired_test(
    name: str, before: Sequence[bool | None], after: Sequence[bool | None]
) -> PairedTest:
    pairs = [pair for pair in zip(before, after, strict=True) if None not in pair]
    return PairedTest(name, len(pairs), pairs.count((False, True)), pairs.count((True, False)))


def _measures(evaluation: Evaluation) -> dict[str, str]:
    measures = {}
    for name, (successes, total) in evaluation.rates.items():
        low, high = wilson_interval(successes, total)
        measures[name] = f"{successes / total:.1%} ({successes} of {total})"
        measures[f"{name}, 95% interval"] = f"{low:.1%} to {high:.1%}"
    share = evaluation.japanese_share
    measures["Japanese letters in replies"] = "none" if share is None else f"{share:.1%}"
    measures["different replies"] = str(evaluation.distinct_replies)
    for part in ("completion", "thought", "reply"):
        measures[f"characters a {part}"] = str(evaluation.lengths.get(part, "none"))
    return measures


def _draw_rates(
    axes: Axes, label: str, rates: Sequence[tuple[int, int]], shift: float, color: str
) -> None:
    for position, (successes, total) in enumerate(rates):
        rate = successes / total
        low, high = wilson_interval(successes, total)
        # The interval of 0 or 1 ends there but for rounding, and matplotlib takes no negatives.
        reach = [[max(0.0, rate - low)], [max(0.0, high - rate)]]
        x = position + shift
        axes.bar(x, rate, 0.36, color=color, label="" if position else label)
        axes.errorbar(x, rate, reach, color="0.25", capsize=4, linewidth=1.2)
        axes.text(x, high + 0.02, f"{rate:.0%}", ha="center", va="bottom")


def _metrics(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "rates": {
            name: {
                "successes": successes,
                "total": total,
                "rate": successes / total,
                "interval_95": wilson_interval(successes, total),
            }
            for name, (successes, total) in evaluation.rates.items()
        },
        "japanese_share": evaluation.japanese_share,
        "distinct_replies": evaluation.distinct_replies,
        "characters": {part: each._asdict() for part, each in evaluation.lengths.items()},
    }


def _test_record(test: PairedTest) -> dict[str, Any]:
    return {
        **asdict(test),
        "p_value": test.p_value,
        "is_significant": test.is_significant,
        "prompts_needed": test.prompts_needed,
        "sentence": str(test),
    }


def _samples(evaluation: Evaluation) -> list[dict[str, Any]]:
    columns = (evaluation.completions, evaluation.parsed, evaluation.correct)
    return [
        {
            "completion": completion,
            "thought": parsed.thought if parsed else None,
            "reply": parsed.reply if parsed else None,
            "correct": correct,
        }
        for completion, parsed, correct in zip(*columns, strict=True)
    ]


def _evaluation(samples: Sequence[dict[str, Any]], when: str) -> Evaluation:
    drawn = [sample[when] for sample in samples]
    return Evaluation(
        prompts=[sample["prompt"] for sample in samples],
        completions=[each["completion"] for each in drawn],
        parsed=[
            None if each["thought"] is None else Parsed(each["thought"], each["reply"])
            for each in drawn
        ],
        correct=[each["correct"] for each in drawn],
    )
