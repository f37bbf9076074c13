"""Hugging Face's Llama and its kin against what transformers computed from the same files."""

import json
import shutil

import numpy as np
import pytest
from continuation import FIXTURES, greedy, imported, logits
from safetensors.numpy import load_file, save_file

from ringvision.errors import UserError
from ringvision.weights import llama
from ringvision.weights.family import Settings
from ringvision.weights.importing import import_weights

LLAMAS = FIXTURES / "hf_llama"
KIN = FIXTURES / "hf_variants"
FOLDERS = [LLAMAS / name for name in ("untied", "tied", "llama3")] + [
    KIN / name for name in ("mistral", "qwen2", "qwen2_yarn", "qwen3")
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_and_continuation(tmp_path, folder):
    values = dict(np.load(folder / "io.npz"))
    model = imported(folder, tmp_path / "model")
    np.testing.assert_allclose(logits(model, values["input_ids"]), values["logits"], atol=1e-4, rtol=0)
    prompt = values["greedy_prompt_ids"]
    count = values["greedy_sequences"].shape[1] - prompt.shape[1]
    found = greedy(model, prompt, np.ones_like(prompt), count, slice(0, None))
    np.testing.assert_array_equal(found, values["greedy_sequences"][:, prompt.shape[1] :])
    if "leftpad_logits" in values:
        mask = values["leftpad_attention_mask"]
        found = logits(model, values["leftpad_input_ids"], values["leftpad_position_ids"], mask)
        np.testing.assert_allclose(found[mask == 1], values["leftpad_logits"][mask == 1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["untied", "tied", "llama3"])
def test_the_config_of_transformers_4_says_the_same(tmp_path, name):
    for number, config in (("4", "config_transformers4.json"), ("5", "config.json")):
        import_weights(LLAMAS / name, tmp_path / number, config=LLAMAS / name / config)
    four, five = (json.loads((tmp_path / number / "config.json").read_text()) for number in "45")
    assert four["transformer"] == five["transformer"]


def test_several_files(tmp_path):
    import_weights(LLAMAS / "untied", tmp_path / "one")
    import_weights(LLAMAS / "untied" / "sharded", tmp_path / "several")
    one, several = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "several"))
    assert one.keys() == several.keys() and all(np.array_equal(one[name], several[name]) for name in one)
    assert len(json.loads((tmp_path / "several/config.json").read_text())["source"]["files"]) == 3


def test_bfloat16(tmp_path):
    values = np.load(LLAMAS / "untied/io.npz")
    model = imported(LLAMAS / "untied/bf16", tmp_path / "model")
    found = logits(model, values["input_ids"])
    np.testing.assert_allclose(found, values["logits_bf16_weights_f32_math"], atol=1e-4, rtol=0)
    assert {array.dtype.name for array in load_file(tmp_path / "model/model.safetensors").values()} == {
        "bfloat16"
    }


def test_without_a_config_what_the_shapes_say(tmp_path):
    (tmp_path / "source").mkdir()
    shutil.copyfile(KIN / "qwen3/model.safetensors", tmp_path / "source/model.safetensors")
    given = tmp_path / "config.json"
    there = json.loads((KIN / "qwen3/config.json").read_text())
    kept = (
        "num_attention_heads",
        "head_dim",
        "num_key_value_heads",
        "rope_parameters",
        "max_position_embeddings",
    )
    given.write_text(json.dumps({name: there[name] for name in kept}))
    model = imported(tmp_path / "source", tmp_path / "model", config=given)
    values = np.load(KIN / "qwen3/io.npz")
    np.testing.assert_allclose(logits(model, values["input_ids"]), values["logits"], atol=1e-4, rtol=0)


def changed(tmp_path, settings, tensors=None):
    """The untied model with other settings and tensors."""
    source = tmp_path / "source"
    source.mkdir()
    config = json.loads((LLAMAS / "untied/config.json").read_text()) | settings
    (source / "config.json").write_text(json.dumps(config))
    save_file(load_file(LLAMAS / "untied/model.safetensors") | (tensors or {}), source / "model.safetensors")
    return source


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "gemma"}, ["'gemma'", "llama, mistral, qwen2, qwen3"]),
        (
            {"hidden_act": "gelu", "num_attention_heads": "four", "rms_norm_eps": 0},
            ["'gelu'", "'four'", "rms_norm_eps is 0"],
        ),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, ["'dynamic'"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers is 1000000000"]),
        ({"hidden_size": 2**40}, ["hidden_size"]),
        (
            {
                "hidden_size": 2**31 - 1,
                "intermediate_size": 2**31 - 1,
                "vocab_size": 2**31 - 1,
                "head_dim": 2**30,
            },
            ["more than any"],
        ),
        (
            {"hidden_size": 2**20, "intermediate_size": 2**20, "head_dim": 2**18},
            ["embed_tokens.weight is of shape [320, 64]"],
        ),
        ({"num_hidden_layers": 3}, ["model.layers.2.mlp.up_proj.weight is missing"]),
        ({"vocab_size": 321}, ["[320, 64], expected [321, 64]", "lm_head.weight"]),
        ({"attention_bias": True}, ["self_attn.q_proj.bias is missing"]),
        ({"mlp_bias": True}, ["mlp_bias"]),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, settings, words):
    with pytest.raises(UserError) as error:
        import_weights(changed(tmp_path, settings), tmp_path / "model")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "model").exists() and "\n" not in str(error.value)


def test_what_transformers_leaves_out_or_ignores_may_be_there(tmp_path):
    inv = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    import_weights(changed(tmp_path, {}, inv), tmp_path / "model")
    assert len(load_file(tmp_path / "model/model.safetensors")) == 12


def test_a_tied_model_may_hold_its_head_twice(tmp_path):
    embedding = load_file(LLAMAS / "untied/model.safetensors")["model.embed_tokens.weight"]
    import_weights(
        changed(tmp_path, {"tie_word_embeddings": True}, {"lm_head.weight": embedding}), tmp_path / "model"
    )
    assert "unembed.kernel" not in load_file(tmp_path / "model/model.safetensors")


@pytest.mark.parametrize("row", [0, 250, 319])
def test_a_tied_model_with_another_head_is_refused(tmp_path, row, monkeypatch):
    monkeypatch.setattr(llama, "ROWS_AT_ONCE", 100)
    head = load_file(LLAMAS / "untied/model.safetensors")["model.embed_tokens.weight"]
    head[row, 5] += 1
    with pytest.raises(
        UserError, match="says tie_word_embeddings, and lm_head.weight is not model.embed_tokens.weight"
    ):
        import_weights(
            changed(tmp_path, {"tie_word_embeddings": True}, {"lm_head.weight": head}), tmp_path / "model"
        )


@pytest.mark.parametrize(
    ("kind", "said", "window"),
    [
        ("llama", {"sliding_window": 5}, None),
        ("mistral", {}, 4096),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 5}, None),
        ("qwen2", {"sliding_window": 5, "use_sliding_window": True}, None),
        ("qwen2", {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 0}, 5),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, 4096),
        (
            "qwen3",
            {"sliding_window": 5, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2},
            5,
        ),
        (
            "qwen3",
            {
                "sliding_window": 5,
                "use_sliding_window": True,
                "layer_types": ["full_attention"] * 2,
                "max_window_layers": 0,
            },
            None,
        ),
    ],
)
def test_the_window_is_what_transformers_makes_of_the_config(kind, said, window):
    sizes = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": 9,
        "intermediate_size": 8,
    }
    assert llama.transformer_config(Settings({"model_type": kind, **sizes, **said}), {}).window == window


def test_a_window_in_some_layers_alone_is_refused(tmp_path):
    said = {"model_type": "qwen2", "sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1}
    with pytest.raises(UserError, match="1 of 2 layers have a window"):
        import_weights(changed(tmp_path, said), tmp_path / "model")


def test_a_bias_behind_attention_is_refused(tmp_path):
    bias = {"model.layers.0.self_attn.o_proj.bias": np.zeros(64, np.float32)}
    with pytest.raises(UserError, match="o_proj has a bias"):
        import_weights(changed(tmp_path, {"attention_bias": True}, bias), tmp_path / "model")
