"""What a run's history says: the reward curve, and a verdict in plain words.

A finding's figures compare the first tenth of the logged steps with the last. Noise alone, as
it is in recorded runs, passes for a rise in 1 or 2% of runs, and as often for a fall.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import fisher_exact, mannwhitneyu, theilslopes

from sarashina_grpo.recipe import Settings

SMOOTHING_STEPS = 10

Level = Literal["good", "note", "problem"]
LEVELS: tuple[Level, ...] = ("problem", "note", "good")
"""The worst first."""

# A tenth of fewer steps would be one or two of them, and their noise.
LEAST_STEPS = 30
# Neighbouring steps are alike, and a test that takes them for independent sees trends in noise;
# the means of this many parts are nearly independent.
PARTS = 20
TREND_CONFIDENCE = 0.99
# Two tenths are compared step by step, and the best of the ten is the highest by chance too.
TENTHS_CHANCE = 0.005
# Between two evaluations of about a hundred prompts nothing stricter sees a fall of 15 points.
HELD_OUT_CHANCE = 0.05
# A reward that falls by less is no harm, however sure the fall; nor is the last bit to the top.
MARGIN = 0.05
# Below it, the 1e-4 that TRL adds to a group's deviation outweighs the deviation.
LEAST_REWARD_STD = 1e-4
# From here on most of the completions were drawn for nothing; above, nearly all.
MUCH_ZERO_STD, MOST_ZERO_STD = 0.5, 0.8
# A reply that is cut off cannot close its tags, so its reward says nothing about its content.
SOME_CUT, MUCH_CUT = 0.1, 0.5
# The batches' own noise changes a tenth's mean length by a tenth or two, never twofold.
LENGTH_RATIO = 2.0
# Runs that learned well kept 24% of their entropy and more.
ENTROPY_LEFT = 0.1
# In nats a token: the model then finds its own words e times as likely as the first model did.
MOST_KL = 1.0
# Where most groups earn the same, gradients are tiny, and the next is a spike beside them: runs
# that learned well had them in up to 7% of the steps. More, or in vain, they matter.
SPIKE, SPIKE_WINDOW, OFTEN = 10.0, 51, 0.1
# Float16 starts with steps whose gradient overflows, and skips them.
MANY_NOT_FINITE = 0.05


def history_table(log_history: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The trainer's log as a table: one row a step, one column a logged value."""
    rows = [entry for entry in log_history if "reward" in entry]
    return pd.DataFrame(rows).set_index("step")


def plot_rewards(history: pd.DataFrame) -> Figure:
    """The mean reward over the steps, and below it each reward on its own.

    Thin lines are single steps, thick ones means over ten; the band is one standard
    deviation between completions.
    """
    names = [str(column) for column in history]
    means = [name for name in names if name.startswith("rewards/") and name.endswith("/mean")]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    smooth = history.rolling(SMOOTHING_STEPS, min_periods=1).mean()
    top.fill_between(
        history.index,
        smooth["reward"] - smooth["reward_std"],
        smooth["reward"] + smooth["reward_std"],
        alpha=0.15,
        linewidth=0,
    )
    top.plot(history["reward"], color="C0", alpha=0.35, linewidth=0.8)
    top.plot(smooth["reward"], color="C0", linewidth=2)
    top.set(ylabel="mean reward")
    for name in means:
        bottom.plot(smooth[name], label=name.split("/")[1], linewidth=1.8)
    bottom.set(xlabel="step", ylabel="each reward")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


@dataclass(frozen=True)
class Finding:
    """Something that a run's history shows: a sentence with its figure, and what to do.

    `todo` is empty where nothing needs doing.
    """

    level: Level
    what: str
    todo: str = ""

    def __str__(self) -> str:
        """All of it in one line."""
        return f"{self.level}: {self.what} {self.todo}".rstrip()


def verdict(
    history: pd.DataFrame,
    settings: Settings | None = None,
    held_out: tuple[tuple[int, int], tuple[int, int]] | None = None,
    highest_reward: float | None = None,
) -> list[Finding]:
    """What a run's history shows, the worst first. Missing columns and values are passed over.

    Args:
        history: One row a logged step, as `history_table` gives it; any number of rows.
        settings: Those of the run; what to change is then given with its present value.
        held_out: Successes and total on held-out prompts, before training and after.
        highest_reward: The most that one completion can earn, all rewards together. Without
            it, a run that is perfect from its start looks like one that learns nothing.

    Raises:
        ValueError: `held_out` has more successes than prompts, or fewer than none.
    """
    run = _Run(history, settings, _checked(held_out), highest_reward)
    findings = [finding for detect in DETECTORS if (finding := detect(run)) is not None]
    return sorted(findings, key=_severity)


@dataclass(frozen=True)
class _Change:
    """How a value changed over the run.

    `first` and `last` are the means of the run's tenths, `low` and `high` the 99% interval of
    its trend from start to end. `jumped` says that the tenths differ beyond chance: a rise
    early on, with a plateau after it, is hardly a trend.
    """

    first: float
    last: float
    low: float
    high: float
    jumped: bool

    @property
    def rose(self) -> bool:
        return self.low > 0 or (self.jumped and self.last > self.first)

    @property
    def fell(self) -> bool:
        certain = self.high < 0 or (self.jumped and self.last < self.first)
        return certain and _is_marked(self.first, self.last)


@dataclass(frozen=True)
class _Run:
    """A history with what is known beside it."""

    history: pd.DataFrame
    settings: Settings | None
    held_out: tuple[tuple[int, int], tuple[int, int]] | None
    highest_reward: float | None

    def column(self, name: str) -> pd.Series:
        """A logged value by step, with NaN where it was not logged."""
        if name not in self.history:
            return pd.Series(math.nan, index=self.history.index)
        return pd.to_numeric(self.history[name], errors="coerce").astype(float)

    def known(self, name: str) -> pd.Series:
        """The finite values of a column."""
        column = self.column(name)
        return column[column.abs() < math.inf]

    def change(self, name: str) -> _Change | None:
        """How a column changed; None where too few of its values are known."""
        values = self.known(name).to_numpy()
        return _change(values) if len(values) >= LEAST_STEPS else None

    @cached_property
    def reward(self) -> _Change | None:
        """How the mean reward changed."""
        return self.change("reward")

    @property
    def perfect_from_the_start(self) -> bool:
        """Whether the first tenth earned as good as the most that can be earned."""
        if self.reward is None or self.highest_reward is None:
            return False
        return self.reward.first >= self.highest_reward - MARGIN * abs(self.highest_reward)

    @property
    def level(self) -> Level:
        """That of what can spoil a run: a problem where the reward should have risen."""
        learned = self.reward is None or self.reward.rose or self.perfect_from_the_start
        return "note" if learned else "problem"

    def now(self, name: str) -> str:
        """A setting's name, with its value where it is known."""
        return name if self.settings is None else f"{name} (now {getattr(self.settings, name):g})"


def _too_few_steps(run: _Run) -> Finding | None:
    count = len(run.known("reward"))
    if count >= LEAST_STEPS:
        return None
    return Finding(
        "note",
        f"The mean reward was logged {count} times, too few to tell a trend from noise.",
        f"Train for at least {LEAST_STEPS} steps, better 100, with logging_steps=1.",
    )


def _reward_rises(run: _Run) -> Finding | None:
    if run.reward is None or not run.reward.rose:
        return None
    most = "" if run.highest_reward is None else f", of at most {run.highest_reward:.2f}"
    return Finding("good", f"The mean reward rose from {_tenths(run.reward)}{most}.")


def _reward_is_flat(run: _Run) -> Finding | None:
    reward = run.reward
    if reward is None or reward.rose or _best_tenth(run) is not None:
        return None
    if run.perfect_from_the_start:
        return Finding(
            "note",
            f"Nothing was left to learn: the mean reward was {reward.first:.2f} of at most "
            f"{run.highest_reward:.2f} from the start.",
            "Take harder prompts or a stricter reward, or leave the model as it is.",
        )
    return Finding(
        "problem",
        f"The mean reward did not rise: from {_tenths(reward)}; its trend over the run is "
        f"between {reward.low:+.2f} and {reward.high:+.2f}.",
        f"Read some completions. Train longer, reward smaller advances, or raise "
        f"{run.now('learning_rate')}; lower it if the gradient spikes. If {reward.last:.2f} is "
        "all that a completion can earn, take harder prompts.",
    )


def _reward_collapses(run: _Run) -> Finding | None:
    best = _best_tenth(run)
    if best is None or run.reward is None:
        return None
    step, height = best
    return Finding(
        "problem",
        f"The mean reward fell: from {height:.2f} in its best tenth of the run, up to step "
        f"{step}, to {run.reward.last:.2f} in the last tenth.",
        f"Use a checkpoint from before the fall. Lower {run.now('learning_rate')} or raise "
        f"{run.now('beta')}.",
    )


def _rewards_disagree(run: _Run) -> Finding | None:
    names = [str(name) for name in run.history]
    rewards = [name for name in names if name.startswith("rewards/") and name.endswith("/mean")]
    changes = {name.split("/")[1]: run.change(name) for name in rewards}
    rising = [name for name, change in changes.items() if change and change.rose]
    falling = {name: change for name, change in changes.items() if change and change.fell}
    if not rising or not falling:
        return None
    falls = ", ".join(f"{name} from {_tenths(change)}" for name, change in falling.items())
    return Finding(
        "problem",
        f"While {' and '.join(rising)} rose, others fell: {falls}.",
        "Read completions that earn the first: the model may pay for them with the second. "
        f"Give what fell more weight, or lower {run.now('learning_rate')}.",
    )


def _groups_are_alike(run: _Run) -> Finding | None:
    deviation = run.column("reward_std")
    drowned = (deviation < LEAST_REWARD_STD).astype(float).where(deviation.notna())
    alike = pd.concat([run.column("frac_reward_zero_std"), drowned], axis=1).max(axis=1).mean()
    if not alike >= MUCH_ZERO_STD:
        return None
    return Finding(
        run.level if alike >= MOST_ZERO_STD else "note",
        f"In {alike:.0%} of the groups all completions earned the same, so nothing was learned "
        "from them.",
        f"Raise {run.now('num_generations')} or {run.now('temperature')}, or drop prompts that "
        "are always right or always wrong. If nearly all are right by now, train no longer.",
    )


def _completions_are_cut(run: _Run) -> Finding | None:
    cut = _last_tenth(run.known("completions/clipped_ratio")).mean()
    if not cut >= SOME_CUT:
        return None
    return Finding(
        "problem" if cut >= MUCH_CUT else "note",
        f"In the last tenth of the run {cut:.0%} of the completions were cut off at the length "
        "limit, before they could close their tags.",
        f"Raise {run.now('max_completion_length')}, or ask for shorter replies in the "
        "instructions.",
    )


def _length_collapses(run: _Run) -> Finding | None:
    length = run.change("completions/mean_length")
    if length is None or length.last * LENGTH_RATIO > length.first:
        return None
    return Finding(
        run.level,
        f"The completions became {length.first / max(length.last, 1):.1f} times shorter: from "
        f"{length.first:.0f} tokens to {length.last:.0f}.",
        "Read the last ones: short replies may just be safe. Reward what they should contain, "
        f"or lower {run.now('learning_rate')}.",
    )


def _length_explodes(run: _Run) -> Finding | None:
    length = run.change("completions/mean_length")
    if length is None or length.last < length.first * LENGTH_RATIO:
        return None
    return Finding(
        run.level,
        f"The completions became {length.last / max(length.first, 1):.1f} times longer: from "
        f"{length.first:.0f} tokens to {length.last:.0f}.",
        "Read the last ones. If they think longer and are right, raise "
        f"{run.now('max_completion_length')}; if they ramble, lower "
        f"{run.now('learning_rate')} or reward brevity.",
    )


def _entropy_collapses(run: _Run) -> Finding | None:
    entropy = run.change("entropy")
    if entropy is None or entropy.first <= 0 or entropy.last >= entropy.first * ENTROPY_LEFT:
        return None
    return Finding(
        run.level,
        f"The model hardly varies its words any more: its entropy fell from {entropy.first:.2g} "
        f"to {entropy.last:.2g} nats a token.",
        f"Lower {run.now('learning_rate')}, raise {run.now('temperature')} or "
        f"{run.now('beta')}, or stop earlier.",
    )


def _kl_runs_away(run: _Run) -> Finding | None:
    kl = _last_tenth(run.known("kl")).mean()
    if not kl > MOST_KL:
        return None
    return Finding(
        "problem",
        f"The model has moved far from the one it started as: a KL divergence of {kl:.2g} nats "
        f"a token in the last tenth of the run, where {MOST_KL:g} is much.",
        f"Raise {run.now('beta')} or lower {run.now('learning_rate')}.",
    )


def _gradient_spikes(run: _Run) -> Finding | None:
    norms = run.known("grad_norm")
    norms = norms[norms > 0]
    if len(norms) < LEAST_STEPS:
        return None
    usual = norms.rolling(SPIKE_WINDOW, center=True, min_periods=1).median()
    # In a calm stretch a gradient is no spike that would be none elsewhere in the run.
    ratio = norms / usual.clip(lower=norms.median())
    count = int((ratio > SPIKE).sum())
    if not count or (run.level == "note" and count < OFTEN * len(norms)):
        return None
    return Finding(
        run.level,
        f"In {count} of {len(norms)} steps the gradient was more than {SPIKE:g} times its usual "
        f"size; the largest, at step {ratio.idxmax()}, was {ratio.max():.0f} times that.",
        f"Lower {run.now('learning_rate')} or {run.now('max_grad_norm')}, or take more prompts "
        "a step.",
    )


def _numbers_break(run: _Run) -> Finding | None:
    columns = [run.column(name) for name in ("loss", "grad_norm", "kl") if name in run.history]
    if not columns:
        return None
    broken = pd.concat(columns, axis=1).replace([math.inf, -math.inf], math.nan).isna().any(axis=1)
    if not broken.any():
        return None
    return Finding(
        "problem" if broken.mean() > MANY_NOT_FINITE or broken.iloc[-1] else "note",
        f"In {broken.sum()} of {len(broken)} steps the loss, the gradient or the KL divergence "
        f"was not a number, first at step {broken.idxmax()}.",
        "A few early steps are normal in float16. Otherwise train in bfloat16, lower "
        f"{run.now('learning_rate')}, and use a checkpoint from before.",
    )


def _held_out(run: _Run) -> Finding | None:
    if run.held_out is None or not all(total for _, total in run.held_out):
        return None
    before, after = run.held_out
    figures = f"{_rate(before)} before training, {_rate(after)} after"
    if _is_less(before, after):
        return Finding("good", f"On held-out prompts the model is better: {figures}.")
    if not _is_less(after, before):
        return Finding(
            "note",
            f"On held-out prompts there is no sure difference: {figures}.",
            "Train longer, or hold out more prompts to see a smaller difference.",
        )
    rising = " although the reward rose in training" if run.reward and run.reward.rose else ""
    return Finding(
        "problem",
        f"On held-out prompts the model is worse{rising}: {figures}.",
        "Read held-out completions: the rewards may be earned without what you want, or the "
        "training prompts learned by heart. Add prompts, or use an earlier checkpoint.",
    )


def _loss_is_near_zero(run: _Run) -> Finding:
    loss = run.known("loss")
    observed = f" Here it was between {loss.min():.3g} and {loss.max():.3g}." if len(loss) else ""
    return Finding(
        "note",
        "A loss near 0 is normal for GRPO: rewards are compared within each group, where they "
        f"average out, so the loss does not show progress; the reward does.{observed}",
    )


DETECTORS: tuple[Callable[[_Run], Finding | None], ...] = (
    _numbers_break,
    _reward_collapses,
    _reward_is_flat,
    _rewards_disagree,
    _held_out,
    _groups_are_alike,
    _completions_are_cut,
    _kl_runs_away,
    _entropy_collapses,
    _length_collapses,
    _length_explodes,
    _gradient_spikes,
    _too_few_steps,
    _reward_rises,
    _loss_is_near_zero,
)
"""Each looks for one thing; the most telling first among findings of a level."""


def _change(values: Any) -> _Change:
    ends = [part * len(values) // PARTS for part in range(PARTS + 1)]
    parts = [values[start:end].mean() for start, end in pairwise(ends)]
    _, _, low, high = theilslopes(parts, alpha=TREND_CONFIDENCE)
    first, last = values[: len(values) // 10], values[-(len(values) // 10) :]
    return _Change(
        first=float(first.mean()),
        last=float(last.mean()),
        low=float(low) * (PARTS - 1),
        high=float(high) * (PARTS - 1),
        jumped=bool(mannwhitneyu(first, last).pvalue < TENTHS_CHANCE),
    )


def _best_tenth(run: _Run) -> tuple[Any, float] | None:
    """The last step and the mean of the best tenth, if the reward fell from it for good."""
    if run.reward is None:
        return None
    values = run.known("reward")
    size = len(values) // 10
    means = values.rolling(size).mean().to_numpy()[size - 1 :]
    place, lost = int(means.argmax()), means.max() - run.reward.last
    best = values.iloc[place : place + size]
    chance = mannwhitneyu(best, values.iloc[-size:], alternative="greater").pvalue
    collapsed = lost >= (means.max() - means.min()) / 2 and chance < TENTHS_CHANCE
    if not run.reward.fell and not (collapsed and _is_marked(means.max(), run.reward.last)):
        return None
    return best.index[-1], float(means.max())


def _last_tenth(values: pd.Series) -> pd.Series:
    return values.iloc[-max(len(values) // 10, LEAST_STEPS // 10) :]


def _is_marked(first: float, last: float) -> bool:
    return abs(last - first) >= MARGIN * max(abs(first), abs(last))


def _is_less(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one rate is below the other beyond chance."""
    table = [[successes, total - successes] for successes, total in (one, other)]
    return bool(fisher_exact(table, alternative="less").pvalue < HELD_OUT_CHANCE)


def _checked(
    held_out: tuple[tuple[int, int], tuple[int, int]] | None,
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    for successes, total in held_out or ():
        if not 0 <= successes <= total:
            raise ValueError(
                f"held_out must have from 0 to {total} successes of {total}, got {successes}"
            )
    return held_out


def _tenths(change: _Change) -> str:
    return f"{change.first:.2f} (first tenth of the run) to {change.last:.2f} (last tenth)"


def _rate(count: tuple[int, int]) -> str:
    successes, total = count
    return f"{successes / total:.0%} of {total}"


def _severity(finding: Finding) -> int:
    return LEVELS.index(finding.level)
