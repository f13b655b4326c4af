"""Builds the embedded tiny model from the datasets, deterministically, once.

A Llama of a million parameters with Sarashina's chat markers. It is taught on lessons of
which only some keep to the recipe's format, so it starts where an instruction-tuned model
starts: it knows the tags and often gets them wrong. GRPO does the rest.

It always learns on the CPU. Where Unsloth is in use, a process of its own teaches it, one
that sees no GPU: Unsloth's patches would compile every step of it. As a program:

    python -m sarashina_grpo.tiny RECIPE SEED ARTIFACT
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from sarashina_grpo import ARTIFACT
from sarashina_grpo.backend import ENGINE, Messages, shape_of, torch, transformers
from sarashina_grpo.data import load_dataset, split_dataset
from sarashina_grpo.hardware import ModelShape
from sarashina_grpo.recipe import Course, Recipe
from sarashina_grpo.recipes import get_recipe
from sarashina_grpo.tags import TagFormat

logger = logging.getLogger(__name__)

MODEL_NAME = "tiny"
Spoil = Callable[[TagFormat, str, str], str]
MANIFEST = "manifest.json"
FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
IGNORED = -100
BOS, EOS, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"
ROLE_MARKERS = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Sarashina 2.2 is a Llama too: grouped-query attention, SwiGLU, RoPE, tied to one vocabulary.
ARCHITECTURE = {
    "vocab_size": 1400,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Lesson:
    """One conversation to learn from: what was said so far, and what to say now."""

    messages: Messages
    completion: str

    @property
    def prompt(self) -> str:
        """The messages as the chat template writes them."""
        turns = (f"<|{turn['role']}|>{turn['content']}{EOS}" for turn in self.messages)
        return f"{BOS}{''.join(turns)}<|assistant|>"


def build(recipe: Recipe, seed: int = 0, artifact: Path = ARTIFACT) -> Path:
    """The folder of the recipe's tiny model, taught now if it is not there yet.

    It is kept under `artifact/tiny` by a hash of the lessons, the architecture and the
    seed; a folder that is incomplete or was changed is built again. Held-out prompts are in
    no lesson.
    """
    lessons = make_lessons(recipe, seed)
    folder = artifact / "tiny" / _name(recipe, seed, lessons)
    if is_intact(folder):
        return folder
    if folder.exists():
        logger.warning("%s is damaged and is built again", folder)
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if ENGINE == "Unsloth":
        _build_without_gpu(recipe, seed, artifact)
        return folder
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        _teach(lessons, recipe, seed, unfinished)
        unfinished.rename(folder)
    except OSError:
        if not is_intact(folder):  # else another process was faster, with the same result
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def folder_name(recipe: Recipe, seed: int) -> str:
    """The name of the folder that `build` makes: another one for other lessons."""
    return _name(recipe, seed, make_lessons(recipe, seed))


def shape() -> ModelShape:
    """The tiny model's sizes, known before it is built."""
    return shape_of(transformers.LlamaConfig(**ARCHITECTURE))


def _name(recipe: Recipe, seed: int, lessons: Sequence[Lesson]) -> str:
    tiny = recipe.tiny
    schedule = [tiny.lesson_batch_size, *((c.lessons, c.learning_rate) for c in tiny.courses)]
    made_from = json.dumps([ARCHITECTURE, seed, schedule, [asdict(lesson) for lesson in lessons]])
    return f"{recipe.name}-{seed}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"


def _build_without_gpu(recipe: Recipe, seed: int, artifact: Path) -> None:
    command = [sys.executable, "-m", __name__, recipe.name, str(seed), str(artifact)]
    # More threads than that only wait for one another: the matrices are small.
    threads = os.environ.get("OMP_NUM_THREADS", "4")
    alone = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads}
    subprocess.run(command, check=True, env=alone)


def make_lessons(recipe: Recipe, seed: int) -> list[Lesson]:
    """Lessons for the training prompts, most of them spoilt, the same for the same seed.

    In every eighth batch the system prompt is longer, as by a role, and there is an earlier
    turn: a model that never saw that is lost in a conversation.
    """
    tiny = recipe.tiny
    dataset, _ = load_dataset(recipe.tiny_source, recipe.system_prompt)
    prompts = list(split_dataset(dataset, seed)["train"]["prompt"])
    random = Random(seed)
    lessons = []
    courses = [course for course in tiny.courses for _ in range(course.lessons)]
    for batch, course in enumerate(courses):
        for _ in range(tiny.lesson_batch_size):
            messages = random.choice(prompts)
            if batch % 8 == 7:
                messages = _lengthen(messages, recipe.tags, course, prompts, random)
            thought, reply = course.demonstrate(messages[-1]["content"], random)
            spoil = random.choice(MISTAKES)
            if random.random() < course.well_formed:
                spoil = TagFormat.render
            lessons.append(Lesson(messages, spoil(recipe.tags, thought, reply)))
    return lessons


def _lengthen(
    messages: Messages,
    tags: TagFormat,
    course: Course,
    prompts: Sequence[Messages],
    random: Random,
) -> Messages:
    system, user = messages
    role = "".join(prompt[-1]["content"] for prompt in random.choices(prompts, k=4))
    earlier = random.choice(prompts)[-1]
    answer = tags.render(*course.demonstrate(earlier["content"], random))
    return [
        {"role": "system", "content": f"{system['content']}\n{role}"},
        earlier,
        {"role": "assistant", "content": answer},
        user,
    ]


def _without(position: int) -> Spoil:
    return lambda tags, thought, reply: tags.render(thought, reply).replace(tags.tags[position], "")


def _bare_reply(tags: TagFormat, thought: str, reply: str) -> str:
    return f"{tags.tags[0]}{thought}{tags.tags[1]}\n{reply}"


MISTAKES: Sequence[Spoil] = (
    _without(1),
    _without(3),
    _bare_reply,
    lambda tags, thought, reply: reply,
    lambda tags, thought, reply: f"{tags.render(thought, reply)}\n{reply}",
)
"""What untuned models do: a tag forgotten, the reply left bare, no tags at all, the reply said
again after the end."""


def is_intact(folder: Path) -> bool:
    """Whether every file the folder was built with is there, unchanged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return manifest.keys() >= FILES and all(
            _sha256(folder / name) == digest for name, digest in manifest.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def _teach(lessons: Sequence[Lesson], recipe: Recipe, seed: int, folder: Path) -> None:
    tokenizer = _make_tokenizer(lessons)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            **ARCHITECTURE,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = transformers.LlamaForCausalLM(config)
        _run_lessons(model, tokenizer, lessons, recipe)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    manifest = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


def _make_tokenizer(lessons: Sequence[Lesson]) -> Any:
    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    # Sentences stay whole, so that the system prompt, the same everywhere, takes a few tokens;
    # digits stand alone, for arithmetic.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"</?[|\w]+>|\n|\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        (lesson.prompt + lesson.completion for lesson in lessons),
        trainers.BpeTrainer(
            vocab_size=ARCHITECTURE["vocab_size"],
            special_tokens=[UNKNOWN, BOS, EOS, PAD, *ROLE_MARKERS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return with_chat_markers(bpe, ARCHITECTURE["max_position_embeddings"])


def with_chat_markers(bpe: Tokenizer, max_length: int) -> Any:
    """The tokenizer of transformers around one that knows Sarashina's chat markers."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _run_lessons(model: Any, tokenizer: Any, lessons: Sequence[Lesson], recipe: Recipe) -> None:
    tiny = recipe.tiny
    batches = _batches(tokenizer, lessons, tiny.lesson_batch_size)
    progress = tqdm(batches, total=tiny.lessons, desc="teaching the tiny model", mininterval=5)
    steps = iter(progress)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model.train()
    for course in tiny.courses:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=course.learning_rate, total_steps=course.lessons
        )
        for batch in islice(steps, course.lessons):
            _lesson_loss(model, **batch).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    progress.close()


def _lesson_loss(model: Any, prefix: Any, ids: Any, labels: Any) -> Any:
    """Cross-entropy on the completions. What all rows begin with is read once for all."""
    read = model(input_ids=prefix, logits_to_keep=1, use_cache=True).past_key_values
    read.batch_repeat_interleave(len(ids))
    logits = model(input_ids=ids, past_key_values=read, use_cache=True).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


def _batches(tokenizer: Any, lessons: Sequence[Lesson], size: int) -> Iterator[dict[str, Any]]:
    """The ids that all rows begin with (1, prefix), and the others (size, rest) with labels."""
    prompts = tokenizer([lesson.prompt for lesson in lessons])["input_ids"]
    completions = tokenizer([lesson.completion + EOS for lesson in lessons])["input_ids"]
    for start in range(0, len(lessons), size):
        batch = slice(start, start + size)
        # The last token of a prompt predicts the first of its completion, so it stays.
        shared = os.path.commonprefix([prompt[:-1] for prompt in prompts[batch]])
        rows = [
            (prompt[len(shared) :], completion)
            for prompt, completion in zip(prompts[batch], completions[batch], strict=True)
        ]
        yield {
            "prefix": torch.tensor([shared]),
            "ids": _pad([prompt + said for prompt, said in rows], tokenizer.pad_token_id),
            "labels": _pad([[IGNORED] * len(prompt) + said for prompt, said in rows], IGNORED),
        }


def _pad(rows: Sequence[list[int]], filler: int) -> Any:
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    name, seed, artifact = sys.argv[1:]
    build(get_recipe(name), int(seed), Path(artifact))
