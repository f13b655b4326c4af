"""The only module that imports unsloth, trl or vllm: Unsloth on CUDA, plain TRL elsewhere.

Unsloth patches what is imported after it, so the other modules take `torch`, `transformers`
and `peft` from here.
"""

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any, Literal

# Threads that wait by spinning slow one another down tenfold where the cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from sarashina_grpo import ARTIFACT
from sarashina_grpo.hardware import STANDBY_OPTIONS, ModelShape, Plan, detect_gpu

GPU_ENVIRONMENT = {
    # Else Unsloth writes the code it generates into the working directory.
    "UNSLOTH_COMPILE_LOCATION": str(ARTIFACT / "unsloth_compiled_cache"),
    # Score a completion at a time and again for the gradient. Otherwise the loop over all of them
    # is unrolled and compiled as one: 8 took 20 s, 64 did not end in 280 s.
    "UNSLOTH_GRPO_LOGPROB_RECOMPUTE": "1",
    # Else a group's prompt is read once where vLLM does not draw, which takes a compiler and at
    # first twice the memory, to save time where drawing takes most of it.
    "UNSLOTH_GRPO_PREFIX_GROUPER": "0",
    # Else it tells each stage of its start at length, in the notebook.
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Put the adapter into 16-bit weights while vLLM draws, and take it out to the last bit.
    "UNSLOTH_VLLM_MERGED_ROLLOUT": "1",
}

GPU = detect_gpu()
if GPU:
    for name, value in {**GPU_ENVIRONMENT, **(STANDBY_OPTIONS if GPU.standby else {})}.items():
        os.environ.setdefault(name, value)
    import unsloth
else:
    # It misses a kernel for 4-bit weights on the CPU, which nothing here uses.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
import datasets
import peft
import transformers
import transformers.utils.notebook
import trl
from torch.utils.tensorboard import SummaryWriter
from trl import import_utils as trl_import_utils

if not GPU:
    # TRL imports vLLM wherever it is installed, and that takes nine seconds it cannot use here.
    trl_import_utils.is_vllm_available = lambda min_version=None: False

from sarashina_grpo.errors import SettingError, UserError
from sarashina_grpo.recipe import Sampling, Settings
from sarashina_grpo.tables import one_line, shorten

ENGINE: Literal["Unsloth", "TRL"] = "Unsloth" if GPU else "TRL"

ADAPTER_FILE = "adapter_model.safetensors"
DRAWN_BY_VLLM = 64  # completions at once, at least, when a model is evaluated
# Left open, transformers falls back to pickled weights, and asks whether to run a model's code.
SAFE_LOADING = {"use_safetensors": True, "trust_remote_code": False}
EPSILON = 0.2  # TRL's clipping range of the probability ratio, the same up and down

Messages = list[dict[str, str]]

OutOfMemoryError = torch.OutOfMemoryError

__all__ = ["OutOfMemoryError", "SummaryWriter", "peft", "torch", "transformers"]


class BackendError(UserError, RuntimeError):
    """The model or the trainer is not what it has to be, e.g. an adapter without effect."""


@dataclass(frozen=True)
class Policy:
    """A model with its tokenizer, and how text is drawn from it."""

    model: Any
    tokenizer: Any
    plan: Plan
    use_adapter: bool = True

    @property
    def base(self) -> "Policy":
        """The same model without its adapter."""
        return replace(self, use_adapter=False)

    def adapter_context(self) -> AbstractContextManager[Any]:
        """Runs the model with the adapter on or off, as this policy wants it."""
        return nullcontext() if self.use_adapter else self.model.disable_adapter()

    def render(self, messages: Messages) -> str:
        """The chat prompt as text, up to where the assistant starts to speak."""
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def count_tokens(self, messages: Messages) -> int:
        """How many tokens the chat prompt takes."""
        return len(self.tokenizer(self.render(messages), add_special_tokens=False)["input_ids"])


def trainer_name() -> str:
    """The class that trains: Unsloth's replaces TRL's on CUDA."""
    return trl.GRPOTrainer.__name__


def read_shape(name: str) -> ModelShape:
    """The sizes of a model, from its configuration alone.

    Raises:
        BackendError: there is no such model, or it is not built like a Llama.
    """
    with _reading(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    return shape_of(config)


def shape_of(config: Any) -> ModelShape:
    """The sizes that a configuration of transformers names."""
    text = config.get_text_config()
    sizes: dict[str, Any] = {
        field.name: getattr(text, field.name, None) for field in fields(ModelShape)
    }
    unknown = [name for name, size in sizes.items() if size is None and name != "head_dim"]
    if unknown:
        raise BackendError(
            f"a model built like Llama is needed, and {config.model_type} has no {unknown[0]}"
        )
    sizes["head_dim"] = sizes["head_dim"] or sizes["hidden_size"] // sizes["num_attention_heads"]
    return ModelShape(**sizes)


def load_base(name: str | Path, settings: Settings, plan: Plan, seed: int) -> Policy:
    """Load a model and put a fresh adapter on it, which changes nothing until it is trained."""
    with _reading(str(name)):
        model, tokenizer = _load_weights(str(name), settings, plan, seed)
    # Every call sets its own; a length left here draws a warning from each of them.
    model.generation_config.max_length = None
    adapter = {
        "r": settings.lora_rank,
        "lora_alpha": settings.lora_alpha,
        "target_modules": list(settings.lora_targets),
    }
    if ENGINE == "Unsloth":
        model = unsloth.FastLanguageModel.get_peft_model(
            model,
            **adapter,
            use_gradient_checkpointing="unsloth" if plan.checkpointing else False,
            random_state=seed,
        )
    else:
        transformers.set_seed(seed)
        model = peft.get_peft_model(model, peft.LoraConfig(**adapter, task_type="CAUSAL_LM"))
    return Policy(model, tokenizer, plan)


def load_adapter(
    base: str | Path, checkpoint: Path, settings: Settings, plan: Plan, seed: int
) -> Policy:
    """Load a model with the adapter of a checkpoint, and make sure that the adapter works.

    Raises:
        BackendError: there is no adapter in safetensors, all of its tensors are zero, or it does
            not change the output.
    """
    # peft would look for a pickled adapter next, then for one of that name on the Hub.
    if not (checkpoint / ADAPTER_FILE).is_file():
        raise BackendError(f"{checkpoint} has no {ADAPTER_FILE}, and pickles are not loaded")
    policy = load_base(base, settings, plan, seed)
    weights = peft.load_peft_weights(str(checkpoint), device=str(policy.model.device))
    try:
        result = peft.set_peft_model_state_dict(policy.model, weights)
    except RuntimeError as error:
        raise BackendError(
            f"{checkpoint} does not fit {base}; was it trained from another model? "
            f"({shorten(one_line(str(error)))})"
        ) from error
    if result.unexpected_keys:
        raise BackendError(
            f"{checkpoint} holds adapter weights that {base} has no place for, "
            f"such as {result.unexpected_keys[0]}; was it trained from another model?"
        )
    check_adapter(policy)
    return policy


def check_adapter(policy: Policy, probe: str = "こんにちは") -> float:
    """The largest change of a logit that the adapter makes on a fixed prompt.

    Raises:
        BackendError: the adapter's tensors are zero, or there is no change.
    """
    if not any(
        bool(weight.any()) for name, weight in policy.model.named_parameters() if ".lora_B." in name
    ):
        raise BackendError("the adapter's weights are all zero: it was never trained")
    ids = policy.tokenizer(probe, return_tensors="pt")["input_ids"].to(policy.model.device)
    logits = []
    for each in (policy, policy.base):
        with torch.no_grad(), each.adapter_context():
            logits.append(policy.model(input_ids=ids).logits.float())
    tuned, base = logits
    change = (tuned - base).abs().max().item()
    if change == 0:
        raise BackendError("the adapter is loaded but does not change the model's output")
    return change


def generate(
    policy: Policy,
    prompts: Sequence[Messages],
    sampling: Sampling,
    seed: int,
    batch_size: int | None = None,
) -> list[str]:
    """Draw one completion for each prompt, without special tokens, the same for the same seed.

    `batch_size` is how many are drawn at once without vLLM; None: as many as the plan says.
    """
    texts = [policy.render(prompt) for prompt in prompts]
    if policy.plan.use_vllm:
        return _generate_with_vllm(policy, texts, sampling, seed)
    transformers.set_seed(seed)
    completions = []
    at_once = batch_size or policy.plan.draw_at_once
    for start in range(0, len(texts), at_once):
        completions += _draw(policy, texts[start : start + at_once], sampling)
    return completions


def stream(policy: Policy, messages: Messages, sampling: Sampling, seed: int) -> str:
    """Draw one completion and print it as it comes; returns it without special tokens."""
    if policy.plan.use_vllm:
        return _stream_with_vllm(policy, policy.render(messages), sampling, seed)
    transformers.set_seed(seed)
    streamer = transformers.TextStreamer(
        policy.tokenizer, skip_prompt=True, skip_special_tokens=True
    )
    [completion] = _draw(policy, [policy.render(messages)], sampling, streamer=streamer)
    return completion


def make_trainer(
    policy: Policy,
    settings: Settings,
    reward_funcs: Sequence[Callable[..., Any]],
    dataset: Any,
    output_dir: Path,
    seed: int,
    callbacks: Sequence[Any],
    **options: Any,
) -> Any:
    """A GRPOTrainer, Unsloth's on CUDA, that saves to `output_dir` and logs through callbacks.

    Further `options` are fields of TRL's GRPOConfig and go before the settings'.

    Raises:
        BackendError: on CUDA, when the trainer is not Unsloth's.
    """
    trainer = trl.GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=list(reward_funcs),
        args=trl.GRPOConfig(**_trainer_options(settings, policy.plan, output_dir, seed) | options),
        train_dataset=dataset,
        callbacks=list(callbacks),
    )
    if ENGINE == "Unsloth" and not type(trainer).__name__.startswith("Unsloth"):
        raise BackendError(
            f"the trainer is {type(trainer).__name__}, not Unsloth's: trl was imported before "
            "unsloth; import sarashina_grpo.backend before trl, transformers and peft"
        )
    return trainer


def rehearse(
    policy: Policy, settings: Settings, output_dir: Path, seed: int
) -> tuple[float, float]:
    """Train two steps at the longest prompt and completion allowed, and take them back.

    Returns:
        The seconds of the second step (the first one compiles), and the most memory that
        PyTorch held on the GPU, in GB.

    Raises:
        OutOfMemoryError: a step does not fit.
    """
    trained = [weight for weight in policy.model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in trained]
    prompt = _prompt_of_length(policy, settings.max_prompt_length)
    least = "min_tokens" if policy.plan.use_vllm else "min_new_tokens"
    to_the_end = {least: settings.max_completion_length}
    trainer = make_trainer(
        policy,
        settings,
        [_coin_reward],
        datasets.Dataset.from_dict({"prompt": [prompt] * 2 * settings.prompts_per_step}),
        output_dir,
        seed,
        [],
        max_steps=2,
        save_strategy="no",
        disable_tqdm=True,
        generation_kwargs=_generation_options(policy.plan) | to_the_end,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    torch.cuda.reset_peak_memory_stats()
    try:
        trainer.train()
    finally:
        with torch.no_grad():
            for weight, value in zip(trained, before, strict=True):
                weight.copy_(value)
        policy.model.zero_grad(set_to_none=True)
    (*_, last) = (entry for entry in trainer.state.log_history if "step_time" in entry)
    return last["step_time"], torch.cuda.max_memory_reserved() / 1e9


def _coin_reward(*, completions: Sequence[Any], **_: Any) -> list[float]:
    """Heads, tails: completions differ, so every group has something to learn from."""
    return [float(number % 2) for number in range(len(completions))]


def _prompt_of_length(policy: Policy, tokens: int) -> Messages:
    """A chat prompt of about as many tokens, never more."""
    low, high = 1, tokens
    while low < high:
        middle = (low + high + 1) // 2
        fits = policy.count_tokens(_filler(middle)) <= tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    return _filler(low)


def _filler(words: int) -> Messages:
    return [{"role": "user", "content": " a" * words}]


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What goes wrong when a model is looked for, in a sentence."""
    try:
        yield
    except (OSError, ValueError, UnpicklingError) as error:
        if "trust_remote_code" in str(error):
            raise BackendError(
                f"{name!r} brings code of its own, which is not run; give a model that "
                "transformers knows without"
            ) from error
        raise BackendError(
            f"{name!r} cannot be read as a model; give a folder that holds one, or a name on the "
            f"Hub that can be reached from here ({shorten(one_line(str(error)))})"
        ) from error


def _load_weights(name: str, settings: Settings, plan: Plan, seed: int) -> tuple[Any, Any]:
    _check_weights(Path(name))
    if ENGINE == "Unsloth":
        vllm_options = {
            "max_lora_rank": settings.lora_rank,
            "gpu_memory_utilization": plan.gpu_memory_utilization,
            # Each size up to this one is captured as a CUDA graph before the first token.
            "max_num_seqs": max(settings.generation_batch_size, DRAWN_BY_VLLM),
        }
        return unsloth.FastLanguageModel.from_pretrained(
            name,
            max_seq_length=settings.max_seq_length,
            load_in_4bit=plan.load_in_4bit,
            fast_inference=plan.use_vllm,
            random_state=seed,
            **(vllm_options if plan.use_vllm else {}),
            **SAFE_LOADING,
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        name, dtype=torch.float32, **SAFE_LOADING
    )
    return model, tokenizer


def _check_weights(folder: Path) -> None:
    """Refuse a model's folder that has pickled weights only, which vLLM would read."""
    names = ("model.safetensors", "model.safetensors.index.json")
    if folder.is_dir() and not any((folder / name).is_file() for name in names):
        raise ValueError("it has no model.safetensors, and pickled weights are not loaded")


def _draw(policy: Policy, texts: Sequence[str], sampling: Sampling, **options: Any) -> list[str]:
    """One completion a text with Hugging Face's `generate`, which also takes `options`."""
    policy.model.eval()
    batch = policy.tokenizer(
        list(texts),
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=False,
        return_token_type_ids=False,
    ).to(policy.model.device)
    with torch.no_grad(), policy.adapter_context():
        ids = policy.model.generate(
            **batch,
            max_new_tokens=sampling.max_tokens,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            pad_token_id=policy.tokenizer.pad_token_id,
            **options,
        )
    prompt_length = batch["input_ids"].shape[1]
    return policy.tokenizer.batch_decode(ids[:, prompt_length:], skip_special_tokens=True)


def _generate_with_vllm(
    policy: Policy, texts: Sequence[str], sampling: Sampling, seed: int
) -> list[str]:
    with _vllm_awake(policy):
        outputs = policy.model.fast_generate(
            [_vllm_prompt(policy, text) for text in texts],
            # With one seed for all of them, replies to similar prompts are alike.
            sampling_params=[_vllm_sampling(sampling, seed + n) for n in range(len(texts))],
            lora_request=_vllm_adapter(policy),
            use_tqdm=False,
        )
    return [output.outputs[0].text for output in outputs]


@contextmanager
def _vllm_awake(policy: Policy) -> Iterator[None]:
    """With `Plan.standby` vLLM sleeps once it was trained with; it is woken and sent back."""
    vllm = policy.model.vllm_engine
    asleep = policy.plan.standby and vllm.llm_engine.is_sleeping()
    if asleep:
        vllm.wake_up()
    try:
        yield
    finally:
        if asleep:
            vllm.sleep(1)


def _stream_with_vllm(policy: Policy, text: str, sampling: Sampling, seed: int) -> str:
    engine = policy.model.vllm_engine.llm_engine
    prompt = _vllm_prompt(policy, text)
    request = str(uuid.uuid4())
    completion = ""
    with _vllm_awake(policy), _saved_adapter(policy) as adapter:
        engine.add_request(request, prompt, _vllm_sampling(sampling, seed), lora_request=adapter)
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    longer = output.outputs[0].text
                    print(longer[len(completion) :], end="", flush=True)
                    completion = longer
        except KeyboardInterrupt:
            engine.abort_request([request])
            raise
    print()
    return completion


def _vllm_prompt(policy: Policy, text: str) -> dict[str, list[int]]:
    # As ids, because vLLM would put a second beginning-of-sequence token before a text.
    return {"prompt_token_ids": policy.tokenizer(text, add_special_tokens=False)["input_ids"]}


def _vllm_sampling(sampling: Sampling, seed: int) -> Any:
    import vllm

    return vllm.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=seed,
    )


def _vllm_adapter(policy: Policy) -> Any:
    return policy.model.load_lora("adapter", load_tensors=True) if policy.use_adapter else None


@contextmanager
def _saved_adapter(policy: Policy) -> Iterator[Any]:
    """The adapter as vLLM's engine reads it, from a folder; None without one."""
    with TemporaryDirectory() as folder:
        if policy.use_adapter:
            policy.model.save_lora(folder)
        yield policy.model.load_lora(folder) if policy.use_adapter else None


def _trainer_options(settings: Settings, plan: Plan, output_dir: Path, seed: int) -> dict[str, Any]:
    cuda = plan.device == "cuda"
    passes, rest = divmod(settings.generation_batch_size, plan.micro_batch)
    if rest:
        raise SettingError(
            f"{settings.generation_batch_size} completions a step do not divide into parts of "
            f"{plan.micro_batch}, which the plan trains at once"
        )
    bf16 = cuda and torch.cuda.is_bf16_supported()
    return {
        "output_dir": str(output_dir),
        "seed": seed,
        "use_vllm": plan.use_vllm,
        "use_cpu": not cuda,
        "bf16": bf16,
        "fp16": cuda and not bf16,
        "learning_rate": settings.learning_rate,
        "adam_beta1": settings.adam_beta1,
        "adam_beta2": settings.adam_beta2,
        "weight_decay": settings.weight_decay,
        "warmup_steps": round(settings.warmup_ratio * settings.max_steps),
        "lr_scheduler_type": settings.lr_scheduler_type,
        # The 8-bit optimisers exist for CUDA only.
        "optim": settings.optim if cuda else "adamw_torch",
        "max_grad_norm": settings.max_grad_norm,
        "num_generations": settings.num_generations,
        "temperature": settings.temperature,
        "beta": settings.beta,
        "loss_type": settings.loss_type,
        "max_completion_length": settings.max_completion_length,
        "max_steps": settings.max_steps,
        "save_steps": settings.save_steps,
        "gradient_checkpointing": plan.checkpointing,
        "logging_steps": 1,
        "report_to": "none",
        "dataloader_pin_memory": cuda,
        # Left open, Unsloth sets these two otherwise than TRL does.
        "mask_truncated_completions": False,
        "epsilon_high": EPSILON,
        "per_device_train_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": passes,
        "generation_kwargs": _generation_options(plan),
        # Pieces a row in which log-probabilities are computed.
        **({"unsloth_logit_chunk_multiplier": 1} if ENGINE == "Unsloth" else {}),
    }


def _generation_options(plan: Plan) -> dict[str, Any]:
    """What the trainer asks of vLLM: ids, which it decodes itself, and flat log-probabilities."""
    return {"detokenize": False, "flat_logprobs": True} if plan.use_vllm else {}
