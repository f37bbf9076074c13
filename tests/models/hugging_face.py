"""Opens the fixtures that Hugging Face's Llama and its relatives wrote, by a table of names that belongs to
these tests.
"""

import json
from pathlib import Path

import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.ops.rope import scaling_from
from ringvision.tree import flatten, unflatten

NAMES = {
    "attention_norm.scale": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm.scale": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
SOME_HAVE = {
    "attention.query_bias": "self_attn.q_proj.bias",
    "attention.key_bias": "self_attn.k_proj.bias",
    "attention.value_bias": "self_attn.v_proj.bias",
    "attention.query_norm": "self_attn.q_norm.weight",
    "attention.key_norm": "self_attn.k_norm.weight",
}


def load(folder: Path) -> tuple[Transformer, dict[str, np.ndarray]]:
    """The model with the fixture's weights, and the fixture's inputs and outputs."""
    found = json.loads((folder / "config.json").read_text())
    rope = found["rope_parameters"]
    config = TransformerConfig(
        vocab_size=found["vocab_size"],
        embed_dim=found["hidden_size"],
        num_layers=found["num_hidden_layers"],
        num_heads=found["num_attention_heads"],
        num_kv_heads=found["num_key_value_heads"],
        head_dim=found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"],
        hidden_dim=found["intermediate_size"],
        rope_theta=rope["rope_theta"],
        rope_scaling=scaling_from(rope, found["max_position_embeddings"]),
        norm_eps=found["rms_norm_eps"],
        tie_embeddings=found["tie_word_embeddings"],
        qkv_bias=found["model_type"] == "qwen2",
        qk_norm="rms" if found["model_type"] == "qwen3" else "none",
        window=found.get("sliding_window"),
    )
    weights = load_file(folder / "model.safetensors")
    flat = {"embed.table": weights["model.embed_tokens.weight"], "norm.scale": weights["model.norm.weight"]}
    if not config.tie_embeddings:
        flat["unembed.kernel"] = weights["lm_head.weight"].T
    for ours, theirs in NAMES.items():
        flat[f"layers.{ours}"] = np.stack(
            [weights[f"model.layers.{i}.{theirs}.weight"].T for i in range(config.num_layers)]
        )
    for ours, theirs in SOME_HAVE.items():
        if f"model.layers.0.{theirs}" in weights:
            flat[f"layers.{ours}"] = np.stack(
                [weights[f"model.layers.{i}.{theirs}"] for i in range(config.num_layers)]
            )
    graphdef, params = nnx.split(Transformer(config, rngs=nnx.Rngs(0)))
    shapes = flatten(params)
    assert flat.keys() == shapes.keys()
    flat = {name: array.reshape(shapes[name].shape) for name, array in flat.items()}
    return nnx.merge(graphdef, unflatten(flat, params)), dict(np.load(folder / "io.npz"))
