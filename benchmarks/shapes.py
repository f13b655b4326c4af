"""Models with random weights in the shapes of the recipes' own, made on the machine itself."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sarashina_grpo.hardware import ModelShape

SHAPES = {
    "sarashina2.2-3b": ModelShape(
        vocab_size=102_400,
        hidden_size=2560,
        intermediate_size=8960,
        num_hidden_layers=32,
        num_attention_heads=20,
        num_key_value_heads=4,
        head_dim=128,
        tie_word_embeddings=False,
    ),
    "phi-4-14b": ModelShape(
        vocab_size=100_352,
        hidden_size=5120,
        intermediate_size=17_920,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=10,
        head_dim=128,
        tie_word_embeddings=False,
    ),
}


def make_model(name: str, folder: Path) -> Path:
    """A folder with a model of that shape in bfloat16, and a tokenizer of its size."""
    from sarashina_grpo.backend import torch, transformers

    path = folder / name
    if (path / "tokenizer.json").is_file():
        return path
    config = transformers.LlamaConfig(
        **asdict(SHAPES[name]),
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        dtype="bfloat16",
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = transformers.LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(path)
    make_tokenizer(SHAPES[name].vocab_size).save_pretrained(path)
    return path


def make_tokenizer(size: int) -> Any:
    """Bytes as tokens, the tiny model's chat markers, and fillers up to the size."""
    from sarashina_grpo import tiny

    special = [tiny.UNKNOWN, tiny.BOS, tiny.EOS, tiny.PAD, *tiny.ROLE_MARKERS]
    known = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    fillers = [f"w{number}" for number in range(size - len(known))]
    vocabulary = {token: number for number, token in enumerate([*known, *fillers])}
    bpe = Tokenizer(models.BPE(vocabulary, [], unk_token=tiny.UNKNOWN))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(special)
    return tiny.with_chat_markers(bpe, max_length=8192)
