"""Language models in GGUF, llama.cpp's form: the architectures llama, qwen2 and qwen3, dequantised.

    blk.{layer}.attn_q.weight [N*H, D]  <->  layers.attention.query [layers, D, N, H]

The config is the file's own key-values (`llama.block_count` …). For the architecture llama, q and k are
stored for rotary positions that turn adjacent pairs, and are permuted here; for Qwen's they are stored as
they are used. Llama 3's scaling of positions is not among the key-values but a tensor of divisors,
`rope_freqs.weight`; the scaling that gives these divisors is looked for.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ringvision.errors import UserError
from ringvision.models.transformer import TransformerConfig
from ringvision.ops.rope import RopeScaling, frequencies
from ringvision.weights import llama
from ringvision.weights.family import MOST_LAYERS, Family, Settings, shown, transformer_folder
from ringvision.weights.table import NameRow, Table, matrix, vector
from ringvision.weights.tensors import Tensors

ARCHITECTURES = ("llama", "qwen2", "qwen3")
LLAMA3_LENGTHS = tuple(2**power for power in range(5, 20))
LLAMA3_BOUNDS = (1.0, 4.0)


NAMES = {
    "embed.table": "token_embd.weight",
    "layers.attention.query": "blk.{layer}.attn_q.weight",
    "layers.attention.key": "blk.{layer}.attn_k.weight",
    "layers.attention.value": "blk.{layer}.attn_v.weight",
    "layers.attention.output": "blk.{layer}.attn_output.weight",
    "layers.attention.query_bias": "blk.{layer}.attn_q.bias",
    "layers.attention.key_bias": "blk.{layer}.attn_k.bias",
    "layers.attention.value_bias": "blk.{layer}.attn_v.bias",
    "layers.attention.query_norm": "blk.{layer}.attn_q_norm.weight",
    "layers.attention.key_norm": "blk.{layer}.attn_k_norm.weight",
    "layers.attention_norm.scale": "blk.{layer}.attn_norm.weight",
    "layers.feed_forward_norm.scale": "blk.{layer}.ffn_norm.weight",
    "layers.feed_forward.gate": "blk.{layer}.ffn_gate.weight",
    "layers.feed_forward.up": "blk.{layer}.ffn_up.weight",
    "layers.feed_forward.down": "blk.{layer}.ffn_down.weight",
    "norm.scale": "output_norm.weight",
    "unembed.kernel": "output.weight",
}
PAIRED = {
    "layers.attention.query": matrix(out_first=True, pairs=True),
    "layers.attention.key": matrix(out_first=True, pairs=True),
    "layers.attention.query_bias": vector(pairs=True),
    "layers.attention.key_bias": vector(pairs=True),
}
"""What turns adjacent rotary pairs into halves, for the tensors that have some."""


def rows(pairs: bool) -> tuple[NameRow, ...]:
    """The table: that of llama.py under GGUF's names. pairs: rotary pairs of q and k lie side by side."""
    paired = PAIRED if pairs else {}
    return tuple(
        replace(row, theirs=NAMES[row.ours], transform=paired.get(row.ours, row.transform))
        for row in llama.ROWS
        if row.ours in NAMES
    )


def recognise(tensors: Tensors, config: Mapping[str, Any]) -> Family | None:
    """A GGUF file; `config` is not needed: the file says everything. UserError for an architecture that is
    not known here.
    """
    if tensors.form != "gguf":
        return None
    kind = tensors.metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise UserError(
            f"a GGUF file of the architecture {shown(kind)} was given; expected {', '.join(ARCHITECTURES)}"
        )
    own = {
        name.removeprefix(f"{kind}."): value
        for name, value in tensors.metadata.items()
        if name.startswith(f"{kind}.")
    }
    settings = Settings(own)
    transformer = _architecture(settings, tensors, kind)
    ids = {ours: tensors.metadata.get(f"tokenizer.ggml.{ours}_token_id") for ours in ("bos", "eos")}
    text = {ours: id for ours, id in ids.items() if isinstance(id, int)}
    folder = transformer_folder(transformer, Table(rows(kind == "llama")), text=text)
    return Family(f"{kind.capitalize()} (GGUF)", (folder,), (r"rope_freqs\.weight",), tuple(settings.assumed))


def _architecture(settings: Settings, tensors: Tensors, kind: str) -> TransformerConfig:
    found = tensors.specs
    table = found.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise UserError(
            "a GGUF file without a token_embd.weight of two axes was given; give one of a language model"
        )
    width = settings.whole("embedding_length")
    heads = settings.whole("attention.head_count")
    head_dim = settings.whole("attention.key_length", "rope.dimension_count", default=width // heads)
    theta = settings.real("rope.freq_base", default=10000.0, why="llama.cpp's default")
    settings.only("rope.scaling.type", "none", "linear")
    values: dict[str, Any] = {
        "vocab_size": table.shape[0],
        "embed_dim": width,
        "num_layers": settings.whole("block_count", most=MOST_LAYERS),
        "num_heads": heads,
        "num_kv_heads": settings.whole("attention.head_count_kv", default=heads),
        "head_dim": head_dim,
        "hidden_dim": settings.whole("feed_forward_length"),
        "rope_theta": theta,
        "norm_eps": settings.real("attention.layer_norm_rms_epsilon"),
        "tie_embeddings": "output.weight" not in found,
        "max_length": settings.whole("context_length", default=4096, why="nothing says it"),
        "qkv_bias": kind == "qwen2" or "blk.0.attn_q.bias" in found,
        "qk_norm": "rms" if kind == "qwen3" else "none",
        "window": settings.whole("attention.sliding_window")
        if settings.get("attention.sliding_window")
        else None,
    }
    settings.only("attention.value_length", head_dim)
    settings.only("rope.dimension_count", head_dim)
    linear = (
        settings.real("rope.scaling.factor", default=1.0)
        if settings.get("rope.scaling.type") == "linear"
        else 1.0
    )
    settings.report()
    scaling = RopeScaling(linear, kind="linear") if linear > 1 else None
    if "rope_freqs.weight" in found:
        scaling = _llama3(np.asarray(tensors.read("rope_freqs.weight"), np.float32), head_dim, theta)
    return TransformerConfig(**values, rope_scaling=scaling)


def _llama3(divisors: np.ndarray, head_dim: int, theta: float) -> RopeScaling | None:
    """The scaling of Llama 3's kind that slows the turns of a head by these divisors [H / 2]. UserError where
    there is none.
    """
    if divisors.shape == (head_dim // 2,) and np.isfinite(divisors).all() and divisors.max() >= 1:
        if np.all(divisors == 1):
            return None
        plain = frequencies(head_dim, theta)
        for length in LLAMA3_LENGTHS:
            scaling = RopeScaling(float(divisors.max()), *LLAMA3_BOUNDS, length)
            if np.allclose(plain / frequencies(head_dim, theta, scaling), divisors, rtol=1e-4):
                return scaling
    raise UserError(
        "rope_freqs.weight of this GGUF file is no scaling of Llama 3's kind; import the "
        "model from its safetensors instead"
    )
