"""The same work without a notebook: `python -m sarashina_grpo evaluate smalltalk`.

A command is a function in `COMMANDS`: its parameters are the flags, its docstring the help. It
imports what loads torch in its body, so that `--help` comes at once.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sarashina_grpo import ARTIFACT
from sarashina_grpo.errors import SettingError

if TYPE_CHECKING:
    from datasets import Dataset

    from sarashina_grpo.hardware import Auto, Plan
    from sarashina_grpo.recipe import Recipe
    from sarashina_grpo.training import Run


def _whole_number(words: list[str]) -> int | None:
    """What stands behind a flag that takes a number, or None."""
    (word,) = words
    if word == "None":
        return None
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"a whole number is needed, got {word!r}") from None


RecipeName = Annotated[str, tyro.conf.arg(metavar="RECIPE")]
Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]
Number = Annotated[
    int | None,
    # tyro's own error tells of each type in a union that the word is not.
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N",
        instance_from_str=_whole_number,
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    ),
]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
Choice = Literal["auto", "true", "false"]

DESCRIPTION = "Teach a chat model to think before it speaks, and see what it has learned."
FAILED = 2  # the exit status of a command line that cannot be carried out, as tyro has it
CHOICES: "dict[Choice, bool | Auto]" = {"auto": "auto", "true": True, "false": False}


def evaluate(
    recipe: RecipeName,
    /,
    *,
    checkpoint: str = "latest",
    model_name: Text = None,
    dataset: Text = None,
    seed: Number = None,
    prompts: Number = None,
    use_vllm: Choice = "auto",
    load_in_4bit: Choice = "auto",
    artifact: Path = ARTIFACT,
    output: Folder = None,
) -> None:
    """Compare a checkpoint with its base model on the prompts held out from training.

    Both answer the same prompts, drawn with the same seed. Prints the rates with 95% intervals
    and whether they changed by more than chance, and writes evaluation.json, with every
    completion, and evaluation.png.

    Args:
        recipe: a file of src/sarashina_grpo/recipes, such as smalltalk or qa.
        checkpoint: "latest", the last one of the recipe's last run, or a checkpoint's folder.
        model_name: where the base model is, a Hub name or a folder; None: where the run had it.
        dataset: another file, folder or "owner/name" to hold a fifth out of; None: the run's.
        seed: of what is drawn; None: the run's. The prompts held out stay those of the run.
        prompts: how many of the held-out prompts, from the first; None: all.
        use_vllm: draw with vLLM; auto: as the plan for this machine says.
        load_in_4bit: load the base model in 4 bits; auto: as the plan says.
        artifact: where checkpoints are.
        output: the folder for both files; None: the run's.
    """
    known = _recipe(recipe)
    if prompts is not None and prompts < 1:
        raise SettingError(f"prompts must be at least 1, got {prompts}")
    if seed is not None:
        replace(known.settings, seed=seed)  # refuses one that is out of range
    from sarashina_grpo import hardware, training

    gpu = hardware.detect_gpu()
    run = training.open_model(known, gpu, checkpoint=checkpoint, artifact=artifact.absolute())
    run = replace(run, model_name=model_name or run.model_name, dataset=dataset or run.dataset)
    plan = training.plan_for(run, gpu, CHOICES[use_vllm], CHOICES[load_in_4bit])
    held_out = _held_out(run, prompts)
    _write_evaluation(run, plan, held_out, run.seed if seed is None else seed, output)


def doctor(*, artifact: Path = ARTIFACT) -> None:
    """Say what this machine has, and what does not match what the project was tested with.

    Versions, GPU, driver, free memory and disk, and whether the trainer in use is Unsloth's.

    Args:
        artifact: where checkpoints will go.
    """
    if artifact.is_file():
        raise SettingError(f"artifact must be a folder, and {artifact} is a file")
    from sarashina_grpo.doctor import examine

    findings = examine(artifact)
    for finding in findings:
        print(f"{finding.name:<16} {finding.found}", end="")
        print(f"   <- {finding.problem}" if finding.problem else "")
    problems = sum(bool(finding.problem) for finding in findings)
    print(f"{problems} to look at" if problems else "all as tested")


COMMANDS: dict[str, Callable[..., Any]] = {"evaluate": evaluate, "doctor": doctor}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns the exit status.

    What people can mend is said in one line on stderr.
    """
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, args=arguments, prog="python -m sarashina_grpo", description=DESCRIPTION
        )
    except (ValueError, OSError) as error:
        return _fail(error)
    return 0


def _fail(error: Exception) -> int:
    from sarashina_grpo.tables import one_line

    print(f"{type(error).__name__}: {one_line(str(error))}", file=sys.stderr)
    return FAILED


def _recipe(name: str) -> "Recipe":
    from sarashina_grpo.recipes import get_recipe

    return get_recipe(name)


def _held_out(run: "Run", count: int | None) -> "Dataset":
    from sarashina_grpo.data import split_dataset

    prompts, _ = run.read_prompts()
    held_out = split_dataset(prompts, run.seed)["held_out"]
    return held_out if count is None else held_out.take(min(count, len(held_out)))


def _write_evaluation(
    run: "Run", plan: "Plan", held_out: "Dataset", seed: int, output: Path | None
) -> None:
    from sarashina_grpo import evaluation, training

    # Before the model is loaded: hours of drawing need somewhere to go.
    folder = _writable(output or (run.checkpoint.parent if run.checkpoint else run.folder))
    policy = training.load_trained(run, plan)
    print(f"{run.checkpoint} against {run.model_name}, {len(held_out)} prompts held out")
    before, after = (
        evaluation.evaluate(each, held_out, run.recipe.tags, run.sampling, seed)
        for each in (policy.base, policy)
    )
    text = evaluation.to_json(before, after, _about(run, plan, seed))
    (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    evaluation.plot_comparison(before, after).savefig(folder / "evaluation.png", dpi=150)
    print(evaluation.compare(before, after).to_string())
    print(*evaluation.describe_changes(before, after), sep="\n")
    print(folder / "evaluation.json", folder / "evaluation.png", sep="\n")


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise SettingError(
            f"output must be a folder to write to, and {folder} is none: {error.strerror}"
        ) from error


def _about(run: "Run", plan: "Plan", seed: int) -> dict[str, Any]:
    """What was evaluated and how, for whoever reads the file later."""
    from sarashina_grpo.hardware import versions

    return {
        "recipe": run.recipe.name,
        "run": run.name,
        "model_name": run.model_name,
        "checkpoint": str(run.checkpoint),
        "dataset": run.dataset,
        "seed": seed,
        "sampling": asdict(run.sampling),
        "device": plan.device,
        "load_in_4bit": plan.load_in_4bit,
        "use_vllm": plan.use_vllm,
        "versions": versions(),
    }


if __name__ == "__main__":
    sys.exit(main())
