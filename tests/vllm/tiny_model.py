"""A model without weights: a Llama of two layers, and a tokenizer for which each byte is one token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = 1024
_BEGIN, _END = "<s>", "</s>"
_CHAT = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"


def write_tiny_model(folder: Path) -> None:
    """Write what a server needs to start with `--load-format dummy`, which makes up the weights."""
    folder.mkdir(parents=True)
    vocabulary = {token: number for number, token in enumerate([_BEGIN, _END, *_letters()])}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": vocabulary[_BEGIN],
        "eos_token_id": vocabulary[_END],
        "torch_dtype": "float32",
    }
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _BEGIN,
        "eos_token": _END,
        "model_max_length": CONTEXT,
        "chat_template": _CHAT,
    }
    for name, value in (("config", config), ("tokenizer", _tokenizer(vocabulary)), ("tokenizer_config", told)):
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def _tokenizer(vocabulary: dict[str, int]) -> dict[str, object]:
    """Return a byte-pair encoding that merges nothing."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    special = [
        {"id": vocabulary[token], "content": token, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for token in (_BEGIN, _END)
    ]  # fmt: skip
    return {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


def _letters() -> list[str]:
    """Return the letter that stands for each byte, in the bytes' order: itself if it can be seen, else one from 256 on.

    Source: `bytes_to_unicode` of GPT-2's encoder, which `ByteLevel` of the library tokenizers follows; checked 2026-11.
    """
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = (number for number in range(256) if number not in seen)
    stand_ins = {number: 256 + place for place, number in enumerate(hidden)}
    return [chr(stand_ins.get(number, number)) for number in range(256)]
