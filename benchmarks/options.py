"""Which options of GRPO help? All of them for the same steps, on the same tiny models.

    uv run python benchmarks/options.py [SEED ...]

One arm is the recipe as it is, each other changes one thing. Prints a table; about 17 minutes on
two cores. Steps until 97% are those after which the held-out prompts keep to the format at
that rate for the first time, looked at every ten.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from contents import FORMAT, RECIPE, measure
from experiment import SEEDS, Arm, Outcome, print_table, run_all, shorter, spread

from sarashina_grpo.recipe import Recipe
from sarashina_grpo.rewards import Completion, completion_text

STEPS, EVERY = 60, 10
ENOUGH = 0.97
TINY = RECIPE.tiny.settings


def newline_count(*, completions: Sequence[Completion], **_: Any) -> list[float | None]:
    """As it was copied in 2025: tags count on lines of their own, the text after the end twice."""
    points = []
    for text in map(completion_text, completions):
        found = (
            0.125 * (text.count("<think>\n") == 1)
            + 0.125 * (text.count("\n</think>\n") == 1)
            + 0.125 * (text.count("\n<response>\n") == 1)
            - 0.001 * len(text.split("\n</response>\n")[-1])
            + 0.125 * (text.count("\n</response>") == 1)
            - 0.001 * (len(text.split("\n</response>")[-1]) - 1)
        )
        points.append(found)
    return points


def newline_format(*, completions: Sequence[Completion], **_: Any) -> list[float | None]:
    """As it was copied: lines of their own, and a dot that stops at the end of each."""
    form = re.compile(r"^<think>\n.*?\n</think>\n<response>\n.*?\n</response>\n$")
    return [0.5 * bool(form.match(completion_text(text))) for text in completions]


def one_line_format(*, completions: Sequence[Completion], **_: Any) -> list[float | None]:
    """As it was copied: a dot that stops at the end of a line, and anything after the end."""
    form = re.compile(r"<think>.*?</think>\s*<response>.*?</response>")
    return [0.5 * bool(form.match(completion_text(text))) for text in completions]


def tiny(name: str = RECIPE.name, **settings: Any) -> Recipe:
    """The recipe with other settings on the tiny model."""
    changed = replace(RECIPE.tiny, settings=replace(TINY, **settings))
    return shorter(replace(RECIPE, name=name, tiny=changed), STEPS)


def rewarded(*rewards: Any) -> Recipe:
    """The recipe with other rewards."""
    return replace(tiny(), rewards=rewards, reward_weights={})


ARMS = (
    Arm("as the recipe is", tiny()),
    Arm("format rewards alone", rewarded(*FORMAT)),
    Arm("the copied rewards", rewarded(newline_count, newline_format, one_line_format)),
    Arm("loss: grpo", tiny(loss_type="grpo")),
    Arm("loss: dr_grpo", tiny(loss_type="dr_grpo")),
    Arm("ratio of sequences (GSPO)", tiny(), {"importance_sampling_level": "sequence"}),
    Arm("scale: batch", tiny(), {"scale_rewards": "batch"}),
    Arm("scale: none", tiny(), {"scale_rewards": "none"}),
    Arm("groups of 4", tiny(num_generations=4)),
    Arm("groups of 16", tiny(num_generations=16)),
    Arm("truncated masked", tiny(), {"mask_truncated_completions": True}),
    Arm("temperature 0.7", tiny(temperature=0.7)),
    Arm("temperature 1.2", tiny(temperature=1.2)),
    Arm("KL 0.04", tiny(beta=0.04)),
)


def steps_until(outcome: Outcome) -> float:
    """The first step with enough of the format; one step of looking more where there is none."""
    reached = (step for step, found in outcome.measures.items() if found["format"] >= ENOUGH)
    return next(reached, STEPS + EVERY)


def row(name: str, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """An arm over all seeds."""
    until = [steps_until(outcome) for outcome in outcomes]
    missed = sum(steps > STEPS for steps in until)
    reached = f"{mean(until):.0f} ({min(until)} to {max(until)})" if not missed else "–"
    return {
        "option": name,
        "steps until 97%": reached + (f" never for {missed} of {len(until)}" if missed else ""),
        "format after": spread([outcome.last("format") for outcome in outcomes], ".1%"),
        "different replies after": spread([outcome.last("different") for outcome in outcomes]),
        "groups that teach nothing": spread([outcome.silent for outcome in outcomes]),
    }


def main() -> None:
    """Run all arms."""
    seeds = tuple(map(int, sys.argv[1:])) or SEEDS
    groups = run_all(ARMS, measure, seeds, EVERY)
    print_table([row(name, group) for name, group in groups.items()])


if __name__ == "__main__":
    main()
