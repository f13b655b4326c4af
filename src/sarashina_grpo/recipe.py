"""What a recipe is: a model, a pair of tags, prompts, rewards and settings.

Frozen dataclasses, validated when they are made; the recipes themselves are in `recipes`.
Setting names are those of TRL and PEFT, so their documentation applies.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarashina_grpo.data import LeftOut, Source, describe_left_out, load_dataset
from sarashina_grpo.demonstrations import Demonstrate
from sarashina_grpo.errors import SettingError
from sarashina_grpo.rewards import Reward, bind_tags
from sarashina_grpo.tags import TagFormat

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def setting(accepts: str, check: Callable[[Any], bool]) -> Any:
    """A field with the range that it accepts, in words and as a check."""
    return field(metadata={"accepts": accepts, "check": check})


def positive() -> Any:
    """A setting that must be above zero, and finite."""
    return setting("above 0", lambda value: 0 < value < math.inf)


def share() -> Any:
    """A setting from 0 to 1."""
    return setting("from 0 to 1", lambda value: 0 <= value <= 1)


def decay() -> Any:
    """A setting from 0 to just below 1, for running means."""
    return setting("from 0 to below 1", lambda value: 0 <= value < 1)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How replies are drawn in a conversation. Lengths in tokens."""

    temperature: float = positive()
    top_p: float = setting("above 0, up to 1", lambda value: 0 < value <= 1)
    max_tokens: int = positive()

    def __post_init__(self) -> None:
        _validate(self)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is trained. Lengths in tokens, ratios from 0 to 1.

    Raises:
        ValueError: a value is outside its range; names the setting, the value and the range.
    """

    # Adapter (LoRA)
    lora_rank: int = positive()
    lora_alpha: int = positive()
    lora_targets: tuple[str, ...]
    # Optimiser
    learning_rate: float = positive()
    adam_beta1: float = decay()
    adam_beta2: float = decay()
    weight_decay: float = share()
    warmup_ratio: float = share()
    lr_scheduler_type: str
    optim: str
    max_grad_norm: float = positive()
    # GRPO
    num_generations: int = setting("of at least 2, to compare", lambda value: value > 1)
    temperature: float = positive()
    beta: float = share()
    loss_type: str
    # Batch: completions trained on at once, and how often before the weights change
    per_device_train_batch_size: int = positive()
    gradient_accumulation_steps: int = positive()
    # Lengths; the sequence may be longer than both, for longer replies in a conversation
    max_seq_length: int = positive()
    max_prompt_length: int = positive()
    max_completion_length: int = positive()
    max_steps: int = positive()
    save_steps: int = positive()
    # Of the split, the adapter, the sampling and the tiny model
    seed: int = setting("from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)

    def __post_init__(self) -> None:
        _validate(self)
        if isinstance(self.lora_targets, str) or not self.lora_targets:
            raise SettingError(
                f"lora_targets must be module names such as ('q_proj',), got {self.lora_targets!r}"
            )
        object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        if self.generation_batch_size % self.num_generations:
            raise SettingError(
                f"per_device_train_batch_size × gradient_accumulation_steps = "
                f"{self.per_device_train_batch_size} × {self.gradient_accumulation_steps} = "
                f"{self.generation_batch_size} completions a step do not divide into groups of "
                f"num_generations={self.num_generations}; make it a multiple of that"
            )
        needed = self.max_prompt_length + self.max_completion_length
        if self.max_seq_length < needed:
            raise SettingError(
                f"max_seq_length must be at least max_prompt_length + max_completion_length = "
                f"{needed}, got {self.max_seq_length}"
            )

    @property
    def generation_batch_size(self) -> int:
        """Completions generated for one step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def prompts_per_step(self) -> int:
        """Prompts whose groups of completions make one step."""
        return self.generation_batch_size // self.num_generations


@dataclass(frozen=True, kw_only=True)
class Course:
    """Lessons for the tiny model, under one learning rate that rises and falls.

    `well_formed` is the share of them that keeps to the format.
    """

    demonstrate: Demonstrate
    lessons: int = positive()
    learning_rate: float = positive()
    well_formed: float = share()

    def __post_init__(self) -> None:
        _validate(self)


@dataclass(frozen=True, kw_only=True)
class TinySettings:
    """How the embedded tiny model is taught for a recipe, and trained afterwards.

    It takes the courses in their order. `source` holds prompts in place of the recipe's own,
    where those are beyond a model of a million parameters.
    """

    settings: Settings
    courses: tuple[Course, ...]
    source: Source | None = None
    lesson_batch_size: int = positive()

    @property
    def lessons(self) -> int:
        """The lessons of all courses."""
        return sum(course.lessons for course in self.courses)

    def __post_init__(self) -> None:
        _validate(self)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is said to the model, turn after turn; a role is added to the instructions."""

    turns: tuple[str, ...]
    role: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that one kind of fine-tuning needs. Copy a file of `recipes` to make one.

    `reward_weights` says by name how much a reward counts where that is not 1. `scenes` are the
    conversations that show in `inference.ipynb` what the model has learned.
    """

    name: str
    model_name: str
    tags: TagFormat
    instructions: str
    example: tuple[str, str]
    source: Source
    rewards: tuple[Reward, ...]
    settings: Settings
    sampling: Sampling
    scenes: tuple[Scene, ...]
    tiny: TinySettings
    reward_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rewards:
            raise SettingError(f"recipe {self.name!r} needs at least one reward")
        for name, weight in self.reward_weights.items():
            if name not in self.reward_names:
                raise SettingError(
                    f"reward_weights must name the recipe's rewards {self.reward_names}, "
                    f"got {name!r}"
                )
            if not 0 < weight < math.inf:
                raise SettingError(f"the weight of {name} must be above 0, got {weight!r}")

    @property
    def system_prompt(self) -> str:
        """The instructions, the tags by name, and one example written in the tags."""
        return f"{self.instructions.strip()}\n{self.tags.render(*self.example)}"

    @property
    def reward_funcs(self) -> list[Reward]:
        """The rewards as TRL calls them, reading this recipe's tags."""
        return [bind_tags(reward, self.tags) for reward in self.rewards]

    @property
    def reward_names(self) -> list[str]:
        """The rewards' names as TensorBoard shows them."""
        return [reward.__name__ for reward in self.rewards]

    @property
    def weights(self) -> dict[str, float]:
        """How much each reward counts, by name, in their order."""
        return {name: self.reward_weights.get(name, 1.0) for name in self.reward_names}

    def with_reward(self, reward: Reward, wanted: bool) -> "Recipe":
        """The recipe with this reward, at the end of its own, or without it."""
        others = tuple(other for other in self.rewards if other is not reward)
        if (reward in self.rewards) == wanted:
            return self
        name = reward.__name__
        weights = {key: weight for key, weight in self.reward_weights.items() if key != name}
        rewards = (*others, reward) if wanted else others
        return replace(self, rewards=rewards, reward_weights=weights)

    @property
    def tiny_source(self) -> Source:
        """Where the tiny model's prompts are: its own, or else the recipe's."""
        return self.tiny.source or self.source

    def read_prompts(
        self, source: "str | Path | Dataset | None" = None
    ) -> tuple["Dataset", list[LeftOut]]:
        """The recipe's prompts, or those of another file, folder or dataset with its columns.

        Returns:
            A dataset with "prompt" (system and user message) and, for recipes that compare
            answers, "answer"; and the rows left out.

        Raises:
            DatasetError: see `data.load_dataset`.
        """
        chosen = self.source if source is None else replace(self.source, path=source)
        return load_dataset(chosen, self.system_prompt)

    def load_dataset(self, source: "str | Path | Dataset | None" = None) -> "Dataset":
        """Like `read_prompts`, with the rows left out counted in the log."""
        dataset, left_out = self.read_prompts(source)
        for reason, count in describe_left_out(left_out).items():
            logger.info("%s: %d rows left out: %s", self.name, count, reason)
        return dataset


def _validate(settings: Any) -> None:
    for item in fields(settings):
        if "check" not in item.metadata:
            continue
        value = getattr(settings, item.name)
        kind, kinds = ("a whole number", int) if item.type is int else ("a number", (int, float))
        if (
            isinstance(value, bool)
            or not isinstance(value, kinds)
            or not item.metadata["check"](value)
        ):
            accepted = f"{kind} {item.metadata['accepts']}"
            raise SettingError(f"{item.name} must be {accepted}, got {value!r}")
