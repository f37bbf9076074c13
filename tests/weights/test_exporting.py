"""Exporting: what comes back is the same bit for bit, and is what the other program reads."""

import json
from dataclasses import replace

import ml_dtypes
import msgpack
import numpy as np
import pytest
from continuation import FIXTURES
from flax import nnx, serialization
from random_weights import random_weights
from safetensors import safe_open
from safetensors.numpy import load_file

from ringvision.errors import UserError
from ringvision.model_folder import save_model
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.ops.rope import RopeScaling
from ringvision.vocabulary import Vocabulary
from ringvision.weights.exporting import export_weights
from ringvision.weights.importing import import_weights
from ringvision.weights.streaming import record

LLAMAS, KIN, LWM, LWM_TEXT = (
    FIXTURES / name for name in ("hf_llama", "hf_variants", "lwm_llama", "lwm_llama_text")
)
TO_HF = [LLAMAS / name for name in ("untied", "tied", "llama3", "untied/bf16")]
TO_HF += [KIN / name for name in ("mistral", "qwen2", "qwen2_yarn", "qwen3")] + [LWM / "streaming_params"]
TO_LWM = [LWM / "streaming_params", LWM / "streaming_params_bf16", LWM_TEXT / "streaming_params"]


def same(one, other) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array.view(np.uint8), second[name].view(np.uint8))


def settings_of(folder) -> dict:
    return {
        name: value
        for name, value in json.loads((folder / "config.json").read_text()).items()
        if name not in ("source", "name")
    }


@pytest.mark.parametrize(
    ("source", "format"),
    [(source, "hf") for source in TO_HF] + [(source, "lwm") for source in TO_LWM],
    ids=lambda value: getattr(value, "name", value),
)
def test_exported_and_imported_again_it_is_the_same(tmp_path, source, format):
    import_weights(source, tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs", format)
    import_weights(tmp_path / "theirs", tmp_path / "again")
    same(tmp_path / "ours", tmp_path / "again")
    assert settings_of(tmp_path / "ours") == settings_of(tmp_path / "again")


FORMATS_OF = [(LLAMAS / "tied", "hf"), (LWM_TEXT / "streaming_params", "lwm"), (FIXTURES / "emu3", "hf")]
FORMATS_OF += [(FIXTURES / "lwm_vqgan/vqgan_numpy.pkl", "hf")]


@pytest.mark.parametrize(("source", "format"), FORMATS_OF, ids=lambda value: getattr(value, "name", value))
def test_its_licences_come_with_it(tmp_path, source, format):
    ours = tmp_path / "ours"
    import_weights(source, ours)
    (tmp_path / "private").write_text("secret")
    (ours / "LICENSE").write_text("all rights")
    (ours / "LICENSE-weights.txt").write_text("some rights")
    (ours / "LICENSE.link").symlink_to(tmp_path / "private")
    export_weights(ours, tmp_path / "theirs", format)
    copied = {path.name: path.read_text() for path in (tmp_path / "theirs").glob("LICENSE*")}
    assert copied == {"LICENSE": "all rights", "LICENSE-weights.txt": "some rights"}


@pytest.mark.parametrize("source", TO_HF[:-1], ids=lambda source: source.name)
def test_it_is_the_file_that_transformers_wrote(tmp_path, source):
    import_weights(source, tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs", "hf")
    same(source, tmp_path / "theirs")
    with safe_open(tmp_path / "theirs" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}  # some transformers 4 refuse what does not say so
    there, here = (
        json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "theirs")
    )
    missed = {
        "initializer_range",
        "attention_dropout",
        "attention_bias",
        "mlp_bias",
        "pretraining_tp",
        "use_cache",
        "pad_token_id",
    }
    wrong = {
        name: (value, here.get(name))
        for name, value in there.items()
        if here.get(name) != value and name not in missed
    }
    assert wrong.keys() <= {"transformers_version", "layer_types", "rope_parameters", "max_window_layers"}
    for name, value in there["rope_parameters"].items():
        assert here["rope_parameters"][name] == value


def records(path) -> dict[str, np.ndarray]:
    """Read as LWM reads it: msgpack's own unpacker, and Flax for each array."""
    with path.open("rb") as file:
        unpacker = msgpack.Unpacker(file, read_size=1 << 20, max_buffer_size=0)
        return {"/".join(key): serialization.msgpack_restore(value) for key, value in unpacker}


@pytest.mark.parametrize("name", ["lwm_llama", "lwm_llama_text"])
def test_it_is_what_lwm_wrote(tmp_path, name):
    import_weights(FIXTURES / name / "streaming_params", tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs", "lwm")
    there = records(FIXTURES / name / "streaming_params")
    here = records(tmp_path / "theirs/streaming_params")
    assert there.keys() == here.keys()
    for key, array in there.items():
        np.testing.assert_array_equal(np.asarray(here[key]), np.asarray(array))
    asked = json.loads((FIXTURES / name / "config.json").read_text())
    given = json.loads((tmp_path / "theirs/config.json").read_text())
    own = {
        "num_key_value_heads",
        "head_dim",
        "eof_token",
        "eov_token",
        "rope_style",
        "pad_token_id",
        "seed",
        "dtype",
        "files",
    }
    assert {key: value for key, value in asked.items() if given.get(key) != value}.keys() <= own


def test_dtype(tmp_path):
    import_weights(LWM / "streaming_params", tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "half", "lwm", dtype="bfloat16")
    half = records(tmp_path / "half/streaming_params")
    there = records(LWM / "streaming_params_bf16")
    assert all(np.array_equal(np.asarray(half[key]), np.asarray(there[key])) for key in there)
    export_weights(tmp_path / "ours", tmp_path / "torch", "hf", dtype="bfloat16")
    assert json.loads((tmp_path / "torch/config.json").read_text())["dtype"] == "bfloat16"
    assert {array.dtype.name for array in load_file(tmp_path / "torch/model.safetensors").values()} == {
        "bfloat16"
    }


@pytest.mark.parametrize("chunk", [1 << 30, 1000, 100])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_an_array_in_chunks_is_read_back_by_flax(tmp_path, chunk, dtype):
    array = np.random.default_rng(0).standard_normal((3, 50, 7)).astype(dtype)
    with (tmp_path / "file").open("wb") as file:
        record(file, ["a", "b"], array.shape, array.dtype, iter(array), chunk=chunk)
        record(file, ["c"], array.shape, array.dtype, [array], chunk=chunk)
    found = records(tmp_path / "file")
    assert found.keys() == {"a/b", "c"}
    for value in found.values():
        np.testing.assert_array_equal(np.asarray(value), array)


def test_more_or_fewer_numbers_than_a_record_holds(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(ValueError, match="more was given"):
            record(file, ["a"], (3,), np.dtype(np.float32), [np.zeros(4, np.float32)])
        with pytest.raises(ValueError, match="4 bytes fewer"):
            record(file, ["a"], (3,), np.dtype(np.float32), [np.zeros(2, np.float32)])
        with pytest.raises(UserError, match="holds at most 4"):
            record(file, ["a"], (2**31,), np.dtype(np.float32), [])


TINY = TransformerConfig(48, 16, 2, 4, 4, 4, 24)
STAMPS = {"vocab_size": 120, "code_offset": 40, "stamp_rows": 62}


def model(folder, config, **settings):
    params = random_weights(lambda: Transformer(config, rngs=nnx.Rngs(0)), 0.02)
    return save_model(folder, {"kind": "transformer", "transformer": config.to_dict(), **settings}, params)


@pytest.mark.parametrize(
    ("format", "changes", "word"),
    [
        ("lwm", {"num_kv_heads": 2, "rope_scaling": RopeScaling(8.0)}, "num_kv_heads=2, rope_scaling="),
        ("lwm", {"qkv_bias": True}, "qkv_bias=True"),
        ("hf", {"qk_norm": "layer"}, "LayerNorm"),
        ("lwm", {"norm_placement": "after"}, "norm_placement=after"),
        ("hf", {"norm_placement": "after"}, "norms behind attention"),
        ("hf", {"frame_period": 5}, "places in a frame"),
        ("hf", STAMPS, "time stamps with ids of their own"),
        ("lwm", STAMPS, "stamp_rows=62"),
        ("hf", {"rope_scaling": RopeScaling(1.0, kind="folded")}, "folded rotary positions"),
        ("hf", {"rope_scaling": RopeScaling(2.0, turning=0.5)}, "channels that do not turn"),
        ("hf", {"video_window": 4, "code_offset": 40}, "a window for video tokens alone"),
        ("hf", {"sharpened_from": 512}, "queries sharpened by position"),
        ("lwm", {"sharpened_from": 512}, "sharpened_from=512"),
        ("lwm", {"video_window": 4, "code_offset": 40}, "video_window=4"),
        ("hf", {"qk_norm": "rms", "qkv_bias": True}, "both bias and norm"),
    ],
)
def test_a_model_that_the_other_program_does_not_have(tmp_path, format, changes, word):
    with pytest.raises(UserError, match=word):
        export_weights(model(tmp_path / "ours", replace(TINY, **changes)), tmp_path / "theirs", format)
    assert not (tmp_path / "theirs").exists()


def test_tied_embeddings_in_lwm(tmp_path):
    words = Vocabulary(40, 6, 1, 2, (3, 4), (5,)).to_dict()
    model(tmp_path / "ours", replace(TINY, tie_embeddings=True), vocabulary=words)
    export_weights(tmp_path / "ours", tmp_path / "theirs", "lwm")
    assert not any("head" in name for name in records(tmp_path / "theirs/streaming_params"))
    import_weights(tmp_path / "theirs", tmp_path / "again")
    same(tmp_path / "ours", tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["vocabulary"] == words


def test_what_cannot_be_exported(tmp_path):
    save_model(tmp_path / "tokenizer", {"kind": "classifier"}, {"a": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match="kind 'classifier'"):
        export_weights(tmp_path / "tokenizer", tmp_path / "theirs", "hf")
    model(tmp_path / "ours", TINY)
    with pytest.raises(UserError, match="hf or lwm"):
        export_weights(tmp_path / "ours", tmp_path / "theirs", "onnx")
    with pytest.raises(UserError, match="is there already"):
        export_weights(tmp_path / "ours", tmp_path / "tokenizer", "hf")
    config = json.loads((tmp_path / "ours/config.json").read_text())
    config["transformer"]["num_layers"] = 3
    (tmp_path / "ours/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has shape"):
        export_weights(tmp_path / "ours", tmp_path / "theirs", "hf")
    assert not (tmp_path / "theirs").exists()
