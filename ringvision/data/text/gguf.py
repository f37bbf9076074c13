"""The vocabulary in a GGUF's metadata -> a tokenizer.json and its settings, so that the same code reads text
for both kinds of model.

In: the key-values of a GGUF (`tokenizer.ggml.*`). Out: tokenizer.json, tokenizer_config.json and
generation_config.json in a folder. Two kinds are known: `gpt2`, byte-level BPE with a list of merges, and
`llama`, sentencepiece's BPE whose pieces have scores.

Written by hand because the library that does this, transformers, reads the untrusted metadata in the calling
process and without bounds. The tokenizer that results is read by Hugging Face's `tokenizers`, in isolation.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ringvision.data.text.isolation.client import IsolatedTokenizer
from ringvision.data.text.settings import SETTINGS_FILE, TOKENIZER_FILE
from ringvision.errors import UserError

UNKNOWN = 2
CONTROL = 3
USER_DEFINED = 4
"""Kinds of tokens in `tokenizer.ggml.token_type`; others are ordinary (1), unused (5) or a byte (6)."""
MODEL = "tokenizer.ggml.model"
TEMPLATE = "tokenizer.chat_template"
LONGEST_TOKEN = 4096
"""Characters of one token."""
MOST_CHARACTERS = 1 << 23
"""Characters of all tokens together."""
_SPACE = "\u2581"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
END_OF_TURN = ("eos", "eot", "eom")


def text_from_gguf(metadata: Mapping[str, Any], folder: str | os.PathLike[str]) -> IsolatedTokenizer:
    """Writes the tokenizer that a GGUF's metadata describe into `folder`, and opens it.

    UserError, and nothing is written, where the metadata lack something, contradict themselves, or name an
    unknown kind of vocabulary or an unknown way of splitting text into words.
    """
    tokens, kinds = _tokens(metadata)
    model = metadata.get(MODEL)
    if not isinstance(model, str) or model not in _MODELS:
        raise UserError(
            f"the GGUF's {MODEL} is {str(model)[:60]!r}; expected one of {', '.join(_MODELS)}: "
            "convert it from another format"
        )
    described = _MODELS[model](metadata, tokens, kinds) | {"added_tokens": _added(tokens, kinds)}
    named = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", *END_OF_TURN)}
    ids = {
        name: token for name, token in named.items() if isinstance(token, int) and 0 <= token < len(tokens)
    }
    settings: dict[str, Any] = {f"{name}_token": tokens[ids[name]] for name in ("bos", "eos") if name in ids}
    settings["add_bos_token"] = bool(metadata.get("tokenizer.ggml.add_bos_token", model == "llama"))
    if isinstance(template := metadata.get(TEMPLATE), str):
        settings["chat_template"] = template
    ends = sorted({ids[name] for name in END_OF_TURN if name in ids})
    files = {
        TOKENIZER_FILE: described,
        SETTINGS_FILE: settings,
        "generation_config.json": {"eos_token_id": ends},
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        for name, value in files.items():
            Path(temporary, name).write_text(
                json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )
        text = IsolatedTokenizer(Path(temporary, TOKENIZER_FILE))
        for name in files:
            os.replace(Path(temporary, name), folder / name)
    text.path = folder / TOKENIZER_FILE
    return text


def _tokens(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """-> the text of every token, and its kind."""
    tokens = _list(metadata, "tokens", str)
    kinds = (
        _list(metadata, "token_type", int) if "tokenizer.ggml.token_type" in metadata else [1] * len(tokens)
    )
    if not tokens or len(kinds) != len(tokens):
        raise UserError(
            f"the GGUF has {len(tokens)} tokens and {len(kinds)} kinds of them; expected as many: "
            "download it again"
        )
    if sum(map(len, tokens)) > MOST_CHARACTERS or max(map(len, tokens)) > LONGEST_TOKEN:
        raise UserError(
            f"the GGUF has tokens longer than {LONGEST_TOKEN}, or {MOST_CHARACTERS} characters of "
            "them: download it again"
        )
    return tokens, kinds


def _list(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    """The list `tokenizer.ggml.NAME`, which may be a NumPy array in the metadata."""
    values: Any = metadata.get(f"tokenizer.ggml.{name}")
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, list) or not all(isinstance(value, kind) for value in listed):
        what = f"no list of {kind.__name__} tokenizer.ggml.{name}"
        raise UserError(
            f"the GGUF has {what}, which its text tokenizer needs; give another file, or a folder "
            "with a tokenizer.json"
        )
    return listed


def _added(tokens: list[str], kinds: list[int]) -> list[dict[str, Any]]:
    """Tokens that are found in a text before it is split: unknown, control and user-defined ones."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": token, "content": content, **flags, "special": kind != USER_DEFINED}
        for token, (content, kind) in enumerate(zip(tokens, kinds))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


# --------------------------------------------------------------------------------------------- byte-level BPE


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> dict[str, Any]:
    """The parts of tokenizer.json for a vocabulary of kind `gpt2`."""
    split = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(split, str) or split not in _SPLITS:
        known = ", ".join(_SPLITS)
        raise UserError(
            f"the GGUF splits text into words by {str(split)[:60]!r}; known are {known}: give a "
            "folder with a tokenizer.json"
        )
    merges = [merge.split(" ") for merge in _list(metadata, "merges", str)]
    if wrong := next((merge for merge in merges if len(merge) != 2), None):
        held = " ".join(wrong)[:60]
        raise UserError(
            f"the GGUF's merges hold {held!r}; expected two pieces with a space between them: "
            "download it again"
        )
    model = {
        "type": "BPE",
        "byte_fallback": False,
        "ignore_merges": split == "llama-bpe",
        "vocab": {piece: token for token, piece in enumerate(tokens)},
        "merges": merges,
    }
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"} if split == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _SPLITS[split]},
        "decoder": _bytes_step(True),
        "model": model,
    }


def _bytes_step(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _by_pattern(pattern: str) -> list[dict[str, Any]]:
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        _bytes_step(False),
    ]


_SPLITS: dict[str, list[dict[str, Any]]] = {
    "default": [_bytes_step(True)],
    "gpt-2": [_bytes_step(True)],
    "smollm": [{"type": "Digits", "individual_digits": True}, _bytes_step(True)],
    "llama-bpe": _by_pattern(f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}"),
    "qwen2": _by_pattern(f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}|{_REST}"),
}
"""How text is split into words, by the GGUF's name for it. A number is split into single digits (smollm,
qwen2) or groups of three (llama-bpe), or not at all.
"""


# ---------------------------------------------------------------------------------------------- sentencepiece


def _scored(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> dict[str, Any]:
    """The parts of tokenizer.json for a vocabulary of kind `llama`."""
    scores = _list(metadata, "scores", float)
    if len(scores) != len(tokens):
        raise UserError(
            f"the GGUF has {len(tokens)} tokens and {len(scores)} scores; expected as many: download it again"
        )
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    normalizer = [{"type": "Prepend", "prepend": _SPACE}, replace] if prefix else [replace]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    unknown = next((content for content, kind in zip(tokens, kinds) if kind == UNKNOWN), None)
    model = {
        "type": "BPE",
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {piece: token for token, piece in enumerate(tokens)},
        "merges": _merges(tokens, kinds, scores),
    }
    return {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": normalizer},
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": model,
    }


def _merges(tokens: list[str], kinds: list[int], scores: list[float]) -> list[list[str]]:
    """The pairs of pieces that make up a piece, in the order in which sentencepiece would merge them."""
    ordinary = {
        content: score
        for content, kind, score in zip(tokens, kinds, scores)
        if kind not in (UNKNOWN, CONTROL, USER_DEFINED, 6)
    }
    pairs = [
        (-score, -at, content[:at], content[at:])
        for content, score in ordinary.items()
        for at in range(1, len(content))
        if content[:at] in ordinary and content[at:] in ordinary
    ]
    return [[left, right] for _, _, left, right in sorted(pairs)]


_MODELS: dict[str, Callable[[Mapping[str, Any], list[str], list[int]], dict[str, Any]]] = {
    "gpt2": _byte_level,
    "llama": _scored,
}
