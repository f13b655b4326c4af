"""Held-out prompts -> pass rates with confidence intervals, before against after."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from scipy.stats import binomtest

from sarashina_grpo.backend import Policy, generate
from sarashina_grpo.recipe import Sampling
from sarashina_grpo.rewards.answer import is_correct, reply_of
from sarashina_grpo.tags import Parsed, TagFormat

if TYPE_CHECKING:
    from datasets import Dataset


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
        return sum(parsed is not None for parsed in self.parsed)

    @property
    def format_rate(self) -> float:
        """The share of completions that keep to the format, 0 to 1."""
        return self.well_formed / len(self.completions)

    @property
    def marked(self) -> list[bool]:
        """Right or wrong, for the prompts that have an answer."""
        return [correct for correct in self.correct if correct is not None]

    @property
    def distinct_replies(self) -> int:
        """How many different replies the well-formed completions give."""
        return len({parsed.reply for parsed in self.parsed if parsed is not None})

    @property
    def rates(self) -> dict[str, tuple[int, int]]:
        """What is counted: successes and trials by name. Answers only where there are any."""
        rates = {"keeps the format": (self.well_formed, len(self.completions))}
        if self.marked:
            rates["right answers"] = (sum(self.marked), len(self.marked))
        return rates

    def __str__(self) -> str:
        """The rates in one line."""
        return ", ".join(
            f"{name}: {successes / total:.1%} of {total}"
            for name, (successes, total) in self.rates.items()
        )


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


def compare(before: Evaluation, after: Evaluation) -> pd.DataFrame:
    """Both evaluations beside each other: one row a measure, columns "before" and "after"."""
    return pd.DataFrame({"before": _measures(before), "after": _measures(after)})


def side_by_side(before: Evaluation, after: Evaluation, count: int = 5) -> pd.DataFrame:
    """The first completions of both, by prompt."""
    return pd.DataFrame(
        {"before": before.completions[:count], "after": after.completions[:count]},
        index=pd.Index(before.prompts[:count], name="prompt"),
    )


def _measures(evaluation: Evaluation) -> dict[str, str]:
    measures = {}
    for name, (successes, total) in evaluation.rates.items():
        low, high = wilson_interval(successes, total)
        measures[name] = f"{successes / total:.1%} ({successes} of {total})"
        measures[f"{name}, 95% interval"] = f"{low:.1%} to {high:.1%}"
    measures["different replies"] = str(evaluation.distinct_replies)
    median = pd.Series(evaluation.completions).str.len().median()
    return {**measures, "characters, median": f"{median:.0f}"}
