"""Held-out prompts -> pass rates with confidence intervals, before against after."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest

from sarashina_grpo.backend import Messages, Policy, generate
from sarashina_grpo.recipe import Sampling
from sarashina_grpo.tags import Parsed, TagFormat


@dataclass(frozen=True)
class Evaluation:
    """One completion for each held-out prompt, as drawn and as parsed (None: it does not)."""

    prompts: list[str]
    completions: list[str]
    parsed: list[Parsed | None]

    @property
    def well_formed(self) -> int:
        """How many completions keep to the format."""
        return sum(parsed is not None for parsed in self.parsed)

    @property
    def format_rate(self) -> float:
        """The share of completions that keep to the format, 0 to 1."""
        return self.well_formed / len(self.completions)

    @property
    def distinct_replies(self) -> int:
        """How many different replies the well-formed completions give."""
        return len({parsed.reply for parsed in self.parsed if parsed is not None})


def evaluate(
    policy: Policy, prompts: Sequence[Messages], tags: TagFormat, sampling: Sampling, seed: int
) -> Evaluation:
    """Answer each prompt once, drawn as in a conversation; the same for the same seed."""
    completions = generate(policy, prompts, sampling, seed)
    return Evaluation(
        prompts=[prompt[-1]["content"] for prompt in prompts],
        completions=completions,
        parsed=[tags.parse(completion) for completion in completions],
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
    total = len(evaluation.completions)
    low, high = wilson_interval(evaluation.well_formed, total)
    lengths = pd.Series(evaluation.completions).str.len()
    return {
        "keeps the format": f"{evaluation.format_rate:.1%}",
        "95% interval": f"{low:.1%} to {high:.1%}",
        "well-formed": f"{evaluation.well_formed} of {total}",
        "different replies": str(evaluation.distinct_replies),
        "characters, median": f"{lengths.median():.0f}",
    }
