"""What is shown of a run: table, curve and verdict."""

import ast
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sarashina_grpo import monitor
from sarashina_grpo.monitor import Finding, history_table, plot_rewards, verdict
from sarashina_grpo.recipes import get_recipe

HISTORIES = Path(__file__).parent / "fixtures" / "histories"
SETTINGS = replace(get_recipe("qa").settings, beta=0.04)
REWARDS = ["xmlcount_reward", "soft_format_reward", "strict_format_reward"]


def logged(step: int, rewards: list[str] = REWARDS) -> dict[str, Any]:
    return {
        "step": step,
        "reward": step / 100,
        "reward_std": 0.25,
        "completions/mean_length": 9.4,
        "step_time": 0.234,
        **{f"rewards/{name}/mean": 0.1 for name in rewards},
        **{f"rewards/{name}/std": 0.01 for name in rewards},
    }


def test_the_history_has_a_row_a_step_and_nothing_else() -> None:
    table = history_table([logged(1), logged(2), {"step": 2, "train_runtime": 3.5}])
    assert table.index.tolist() == [1, 2]
    assert table["reward"].tolist() == [0.01, 0.02]
    assert "train_runtime" not in table


@pytest.mark.parametrize("rewards", [REWARDS, REWARDS[:1]], ids=["three", "one"])
def test_the_curve_has_a_line_a_reward(rewards: list[str]) -> None:
    table = history_table([logged(step, rewards) for step in range(1, 31)])
    top, bottom = plot_rewards(table).axes
    assert [line.get_label() for line in bottom.lines] == rewards
    assert np.asarray(top.lines[0].get_ydata()).tolist() == table["reward"].tolist()
    for line in [*top.lines, *bottom.lines]:
        assert len(line.get_xdata()) == 30
        assert not np.isnan(np.asarray(line.get_ydata(), dtype=float)).any()


def test_thick_lines_are_means_over_ten_steps() -> None:
    table = history_table([logged(step) for step in range(1, 31)])
    top, _ = plot_rewards(table).axes
    smooth = pd.Series(np.asarray(top.lines[1].get_ydata()))
    assert smooth.iloc[-1] == pytest.approx(table["reward"].tail(10).mean())


def recorded(name: str) -> pd.DataFrame:
    """A run of a tiny model, as `trainer_state.json` kept it, less columns and digits."""
    columns = json.loads((HISTORIES / f"{name}.json").read_text(encoding="utf-8"))
    return history_table(pd.DataFrame(columns).to_dict("records"))


def healthy(steps: int = 200, seed: int = 0) -> pd.DataFrame:
    """A run that learns the format first and right answers later, with the noise of batches."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, steps)
    noise = rng.normal(size=(8, steps))
    well_formed = 0.5 / (1 + np.exp(-12 * (time - 0.2))) + 0.01 * noise[0]
    right = 2.0 / (1 + np.exp(-8 * (time - 0.5))) + 0.1 * noise[1]
    return pd.DataFrame(
        {
            "reward": well_formed + right,
            "reward_std": 0.8 + 0.1 * noise[2],
            "frac_reward_zero_std": rng.choice([0.0, 0.25, 0.5], steps),
            "rewards/strict_format_reward/mean": well_formed,
            "rewards/correctness_reward/mean": right,
            "completions/mean_length": 150 + 60 * time + 20 * noise[3],
            "completions/clipped_ratio": rng.choice([0.0, 0.0, 0.0, 0.125], steps),
            "entropy": 1.2 - 0.7 * time + 0.05 * noise[4],
            "grad_norm": np.exp(0.4 * noise[5]),
            "kl": 0.2 * time + 0.01 * np.abs(noise[6]),
            "loss": 0.03 * noise[7],
        },
        index=pd.RangeIndex(1, steps + 1, name="step"),
    )


def ramp(first: float, last: float, steps: int = 200, noise: float = 0.02) -> Any:
    """From one value to the other, with noise in shares of the larger."""
    scale = noise * max(abs(first), abs(last))
    return np.linspace(first, last, steps) + scale * np.random.default_rng(7).normal(size=steps)


def flat(height: float = 1.0) -> Any:
    return ramp(height, height, noise=0.1)


def at(step: int, value: float, usual: float = 1.0) -> Any:
    values = ramp(usual, usual)
    values[step - 1] = value
    return values


HEALTHY = {
    "qa_tiny_seed0": lambda: recorded("qa_tiny_seed0"),
    "smalltalk_tiny_seed0": lambda: recorded("smalltalk_tiny_seed0"),
    **{f"seed {seed}": lambda seed=seed: healthy(seed=seed) for seed in range(8)},
    "60 steps": lambda: healthy(60),
    "5000 steps": lambda: healthy(5000),
}

# What is changed in the healthy history; the level, how the finding starts, what else it says
# and what it advises.
UNHEALTHY: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "flat": ({"reward": flat()}, "problem", "The mean reward did not rise", "1.0", "raise"),
    "always zero": (
        {"reward": np.zeros(200)},
        "problem",
        "The mean reward did not rise",
        "between +0.00 and +0.00",
        "Train longer",
    ),
    "falling": (
        {"reward": ramp(2.0, 1.0)},
        "problem",
        "The mean reward fell",
        "up to step 20, to 1.0",
        "Lower learning_rate (now 7e-06) or raise beta (now 0.04)",
    ),
    "risen and collapsed": (
        {"reward": np.concatenate([ramp(0.5, 2.0, 150), ramp(2.0, 0.7, 50)])},
        "problem",
        "The mean reward fell",
        "up to step 1",
        "checkpoint from before",
    ),
    "one reward for the other": (
        {"rewards/correctness_reward/mean": ramp(1.0, 0.4)},
        "problem",
        "While strict_format_reward rose, others fell: correctness_reward",
        "from 0.97 (first tenth of the run) to 0.43 (last tenth)",
        "more weight",
    ),
    "all groups alike, nothing learned": (
        {"frac_reward_zero_std": np.full(200, 0.82), "reward": flat()},
        "problem",
        "In 82% of the groups all completions earned the same",
        "nothing was learned",
        "num_generations (now 4) or temperature (now 1)",
    ),
    "most groups alike, yet learning": (
        {"frac_reward_zero_std": np.full(200, 0.6)},
        "note",
        "In 60% of the groups all completions earned the same",
        "nothing was learned",
        "drop prompts",
    ),
    "groups alike but for rounding": (
        {"frac_reward_zero_std": np.zeros(200), "reward_std": np.full(200, 1e-6)},
        "note",
        "In 100% of the groups",
        "earned the same",
        "num_generations",
    ),
    "all cut": (
        {"completions/clipped_ratio": np.full(200, 0.97)},
        "problem",
        "In the last tenth of the run 97% of the completions were cut off",
        "close their tags",
        "max_completion_length (now 1200)",
    ),
    "some cut": (
        {"completions/clipped_ratio": np.full(200, 0.2)},
        "note",
        "In the last tenth of the run 20% of the completions were cut off",
        "close their tags",
        "max_completion_length",
    ),
    "shorter, nothing learned": (
        {"completions/mean_length": ramp(200, 10), "reward": flat()},
        "problem",
        "The completions became",
        "times shorter: from 19",
        "learning_rate (now 7e-06)",
    ),
    "shorter, yet learning": (
        {"completions/mean_length": ramp(200, 60)},
        "note",
        "The completions became",
        "times shorter",
        "Read the last ones",
    ),
    "longer, nothing learned": (
        {"completions/mean_length": ramp(100, 900), "reward": flat()},
        "problem",
        "The completions became",
        "times longer: from 1",
        "ramble",
    ),
    "longer, yet learning": (
        {"completions/mean_length": ramp(100, 900)},
        "note",
        "The completions became",
        "times longer",
        "max_completion_length (now 1200)",
    ),
    "no entropy left": (
        {"entropy": np.geomspace(1.5, 0.001, 200), "reward": flat()},
        "problem",
        "The model hardly varies its words any more",
        "nats a token",
        "temperature (now 1)",
    ),
    "far from its origin": (
        {"kl": np.geomspace(0.001, 30, 200)},
        "problem",
        "The model has moved far",
        "KL divergence of 19 nats a token",
        "beta (now 0.04)",
    ),
    "a spike, nothing learned": (
        {"grad_norm": at(57, 80.0), "reward": flat()},
        "problem",
        "In 1 of 200 steps the gradient was more than 10 times its usual size",
        "the largest, at step 57, was 80 times",
        "max_grad_norm (now 0.1)",
    ),
    "spikes all the time": (
        {"grad_norm": np.where(np.arange(200) % 8, 1.0, 50.0)},
        "note",
        "In 25 of 200 steps the gradient was more than 10 times",
        "50 times",
        "more prompts",
    ),
    "gradients lost": (
        {"grad_norm": np.where(np.arange(200) < 150, 1.0, np.nan)},
        "problem",
        "In 50 of 200 steps the loss, the gradient or the KL divergence was not a number",
        "first at step 151",
        "bfloat16",
    ),
    "a gradient overflows at the start": (
        {"grad_norm": at(1, np.inf)},
        "note",
        "In 1 of 200 steps the loss, the gradient",
        "first at step 1.",
        "normal in float16",
    ),
}


def starting(findings: list[Finding], start: str) -> list[Finding]:
    return [finding for finding in findings if finding.what.startswith(start)]


@pytest.fixture(autouse=True)
def numerical_warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.mark.parametrize("history", HEALTHY.values(), ids=list(HEALTHY))
def test_of_a_healthy_run_only_the_rise_and_the_loss_are_told(
    history: Callable[[], pd.DataFrame],
) -> None:
    note, good = verdict(history(), SETTINGS)
    assert (note.level, good.level) == ("note", "good")
    assert note.what.startswith("A loss near 0 is normal for GRPO")
    assert good.what.startswith("The mean reward rose from")
    assert (note.todo, good.todo) == ("", "")


def test_the_figures_are_those_of_the_first_and_the_last_tenth() -> None:
    note, good = verdict(recorded("qa_tiny_seed0"), SETTINGS, highest_reward=4.0)
    assert good.what == (
        "The mean reward rose from 2.08 (first tenth of the run) to 3.50 (last tenth), "
        "of at most 4.00."
    )
    assert note.what.endswith("Here it was between -0.162 and 0.0731.")


@pytest.mark.parametrize("case", UNHEALTHY.values(), ids=list(UNHEALTHY))
def test_what_is_wrong_is_found_with_its_figure_and_what_to_do(
    case: tuple[dict[str, Any], str, str, str, str],
) -> None:
    changes, level, start, figure, todo = case
    (finding,) = starting(verdict(healthy().assign(**changes), SETTINGS), start)
    assert finding.level == level
    assert figure in finding.what
    assert todo in finding.todo


def test_a_recorded_run_that_bought_the_format_with_right_answers_is_told() -> None:
    fell, disagree, _ = verdict(recorded("qa_tiny_rate_2e-3"), SETTINGS)
    assert fell.what.startswith("The mean reward fell: from 2.57")
    assert "others fell: correctness_reward from 0.68" in disagree.what
    assert (fell.level, disagree.level) == ("problem", "problem")


def test_a_recorded_run_that_learned_nothing_is_told() -> None:
    flat, spikes, _ = verdict(recorded("qa_tiny_rate_1e-3"), SETTINGS)
    assert flat.what.startswith("The mean reward did not rise: from 2.35")
    assert spikes.what.startswith("In 2 of 99 steps the gradient was")


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_perfect_from_the_start_is_no_failure(noise: float) -> None:
    history = healthy().assign(reward=ramp(1.48, 1.48, noise=noise), frac_reward_zero_std=0.9)
    findings = verdict(history, SETTINGS, highest_reward=1.5)
    assert {finding.level for finding in findings} == {"note"}
    (finding,) = starting(findings, "Nothing was left to learn")
    assert "was 1.48 of at most 1.50" in finding.what


def test_an_early_rise_with_a_plateau_is_a_rise() -> None:
    history = healthy(2000).assign(reward=np.append(ramp(0.5, 1.4, 100), ramp(1.4, 1.4, 1900)))
    assert verdict(history)[-1].level == "good"


def test_noise_is_rarely_taken_for_a_trend() -> None:
    rng = np.random.default_rng(0)
    flats = [healthy(100).assign(reward=1 + 0.2 * rng.normal(size=100)) for _ in range(100)]
    told = [starting(verdict(history), "The mean reward did not rise") for history in flats]
    assert sum(map(len, told)) >= 92


@pytest.mark.parametrize(
    ("after", "level", "start"),
    [
        (100, "good", "On held-out prompts the model is better: 50% of 104 before"),
        (51, "note", "On held-out prompts there is no sure difference"),
        (30, "problem", "On held-out prompts the model is worse although the reward rose"),
    ],
)
def test_held_out_prompts_are_compared_beyond_chance(after: int, level: str, start: str) -> None:
    findings = verdict(healthy(), SETTINGS, held_out=((52, 104), (after, 104)))
    (finding,) = starting(findings, "On held-out prompts")
    assert (finding.level, finding.what[: len(start)]) == (level, start)


def test_no_held_out_prompts_say_nothing() -> None:
    assert verdict(healthy(), held_out=((0, 0), (0, 0))) == verdict(healthy())


@pytest.mark.parametrize("successes", [-1, 105])
def test_impossible_counts_are_refused(successes: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 104 successes of 104, got {successes}"):
        verdict(healthy(), held_out=((52, 104), (successes, 104)))


@pytest.mark.parametrize("steps", [0, 1, 2, 9, 29])
def test_of_a_few_steps_no_trend_is_told(steps: int) -> None:
    few, loss = verdict(healthy().head(steps))
    assert few.what.startswith(f"The mean reward was logged {steps} times, too few")
    assert loss.what.startswith("A loss near 0")


@pytest.mark.parametrize("steps", [0, 1, 2, 29, 30, 31, 200])
def test_missing_and_odd_values_never_raise(steps: int) -> None:
    history = healthy().head(steps)
    holes = history.where(history.map(lambda value: value * 1000 % 1 < 0.5))
    for odd in (holes, holes.astype(object).where(holes.notna(), None), history * np.nan):
        assert verdict(odd, SETTINGS)
    for constant in (0.0, 1.0, -1.0, np.inf, -np.inf, "text"):
        assert verdict(history.assign(**dict.fromkeys(history, constant)), highest_reward=0.0)
    for column in history:
        assert verdict(history[[column]]) and verdict(history.drop(columns=column))
    assert verdict(pd.concat([holes, holes])) and verdict(pd.DataFrame())


def test_a_reward_that_never_applies_is_passed_over() -> None:
    history = healthy()
    never = history.assign(**{"rewards/int_reward/mean": None})
    assert verdict(never, SETTINGS) == verdict(history, SETTINGS)


def test_without_settings_the_advice_has_no_values() -> None:
    findings = verdict(healthy().assign(**{"completions/clipped_ratio": 1.0}))
    assert "Raise max_completion_length, or" in findings[0].todo


def test_a_hundred_thousand_steps_take_a_moment() -> None:
    history = healthy(100_000)
    started = time.perf_counter()
    assert [finding.level for finding in verdict(history)] == ["note", "good"]
    assert time.perf_counter() - started < 5


def test_a_finding_is_one_line() -> None:
    findings = [Finding("good", "A."), Finding("problem", "B.", "C.")]
    assert [str(finding) for finding in findings] == ["good: A.", "problem: B. C."]


def test_the_monitor_itself_imports_no_training_library() -> None:
    tree = ast.parse(Path(monitor.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in modules if module and module.startswith("sarashina_grpo")}
    assert ours == {"sarashina_grpo.recipe"}
