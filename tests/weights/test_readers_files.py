"""What readers make of files that the formats' own writers wrote."""

import json
import pickle
import shutil
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import flax.serialization
import hostile
import ml_dtypes
import msgpack
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from gguf_writer import write_gguf
from safetensors.numpy import load_file, save_file

from ringvision.errors import UserError
from ringvision.weights.tensors import FORMS, TensorSpec, open_tensors

FIXTURES = Path(__file__).parents[1] / "fixtures"


def everything(path, form=None):
    """Every tensor at `path`, by its name; each agrees with what was said of it before it was read."""
    with open_tensors(path, form) as tensors:
        assert form is None or tensors.form == form
        found = {name: tensors.read(name) for name in tensors.specs}
        for name, array in found.items():
            assert tensors.specs[name] == TensorSpec(array.shape, array.dtype.name)
            assert array.flags.writeable and array.flags.c_contiguous
            if array.ndim:
                middle = (len(array) // 3, len(array) - len(array) // 4)
                np.testing.assert_array_equal(tensors.read(name, middle), array[slice(*middle)])
    assert found
    return found


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("lwm_llama/streaming_params", "streaming-msgpack"),
        ("lwm_llama/streaming_params_bf16", "streaming-msgpack"),
        ("lwm_llama/streaming_train_state_bf16", "streaming-msgpack"),
        ("lwm_llama_text/streaming_params_unscanned", "streaming-msgpack"),
        ("lwm_llama_text/flax_params.msgpack", "flax-msgpack"),
        ("lwm_vqgan/vqgan_numpy.pkl", "pickle"),
        ("lwm_vqgan_pickles/vqgan_dict_jaxarray.pkl", "pickle"),
        ("vqgan_jax", "flax-msgpack"),
        ("amused_vq", "safetensors"),
        ("hf_llama/llama3", "safetensors"),
        ("hf_llama/untied/bf16", "safetensors"),
        ("hf_llama/untied/sharded", "safetensors"),
        ("chameleon", "safetensors"),
        ("emu3", "safetensors"),
        ("torch_files/module.pt", "torch"),
    ],
)
def test_a_file_is_recognised_by_its_bytes(path, form):
    everything(FIXTURES / path, form)


@pytest.mark.parametrize(
    "folder", ["hf_llama/tied", "hf_llama/untied/bf16", "amused_vq", "chameleon", "emu3"]
)
def test_safetensors_agree_with_their_own_package(folder):
    (file,) = (FIXTURES / folder).glob("*.safetensors")
    assert_same(everything(FIXTURES / folder), load_file(file))


def test_a_tree_agrees_with_flax():
    tree = flax.serialization.msgpack_restore((FIXTURES / "vqgan_jax/flax_model.msgpack").read_bytes())
    assert_same(everything(FIXTURES / "vqgan_jax"), flatten_dict(tree, sep="/"))


@pytest.mark.parametrize(
    ("folder", "file"), [("lwm_vqgan", "vqgan_numpy.pkl"), ("vqgan_jax", "flax_model.msgpack")]
)
def test_arrays_are_those_that_numpy_stored_beside(folder, file):
    with np.load(FIXTURES / folder / "weights.npz") as stored:
        assert_same(everything(FIXTURES / folder / file), dict(stored))


def test_pickles_of_dicts_and_frozen_dicts_of_numpy_and_jax_hold_the_same():
    found = [
        everything(FIXTURES / "lwm_vqgan_pickles" / f"vqgan_{kind}.pkl")
        for kind in ("frozendict_numpy", "dict_jaxarray", "frozendict_jaxarray")
    ]
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])
    assert float(np.abs(found[0]["decoder/Conv_0/kernel"]).mean()) > 0


def test_arrays_in_pieces_are_the_whole_ones():
    assert_same(
        everything(FIXTURES / "lwm_llama/streaming_params_chunked"),
        everything(FIXTURES / "lwm_llama/streaming_params"),
    )


def test_a_stream_and_a_tree_hold_the_same():
    assert_same(
        everything(FIXTURES / "lwm_llama_text/flax_params.msgpack"),
        everything(FIXTURES / "lwm_llama_text/streaming_params"),
    )


def test_bfloat16_is_float32_rounded():
    short, long = (everything(FIXTURES / f"lwm_llama/streaming_params{kind}") for kind in ("_bf16", ""))
    assert_same(short, {name: array.astype(ml_dtypes.bfloat16) for name, array in long.items()})


def test_a_train_state_has_its_parameters_a_step_and_moments():
    state = everything(FIXTURES / "lwm_llama/streaming_train_state_bf16")
    inside = {
        name.removeprefix("params/params/"): array
        for name, array in state.items()
        if name.startswith("params/params/")
    }
    assert_same(inside, everything(FIXTURES / "lwm_llama/streaming_params_bf16"))
    assert state["step"] == 7 and state["step"].shape == ()
    assert any(name.startswith("opt_state/1/") for name in state)


def test_all_files_of_an_index_that_are_not_there_are_named(tmp_path):
    shutil.copytree(FIXTURES / "hf_llama/untied/sharded", tmp_path / "model")
    for number in (1, 3):
        (tmp_path / f"model/model-0000{number}-of-00003.safetensors").unlink()
    with pytest.raises(
        UserError,
        match="3 files, and model-00001-of-00003.safetensors, model-00003-of-00003.safetensors are "
        "not beside",
    ):
        open_tensors(tmp_path / "model")


def test_a_sharded_folder_is_the_one_file():
    assert_same(everything(FIXTURES / "hf_llama/untied/sharded"), everything(FIXTURES / "hf_llama/untied"))


@pytest.mark.parametrize("file", ["state_dict.pt", "legacy.pt", "lightning.ckpt"])
def test_files_of_torch_hold_what_torch_saved(file):
    with np.load(FIXTURES / "torch_files/expected.npz") as stored:
        expected = dict(stored)
    expected["bfloat"] = expected["bfloat"].astype(ml_dtypes.bfloat16)
    assert_same(everything(FIXTURES / "torch_files" / file, "torch"), expected)


ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(24, dtype=np.int64).reshape(2, 3, 4)),
    "short": np.arange(200, dtype=np.uint8),
    "bfloat": np.linspace(-3, 3, 300).reshape(10, 30).astype(ml_dtypes.bfloat16),
    "bool": np.array([True, False]),
    "none": np.zeros((0, 3), np.float16),
    "scalar": np.float64(2.5),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol(tmp_path, protocol):
    tree = {
        "layer": OrderedDict(ARRAYS),
        "list": [np.ones(2), {"x": np.zeros(1)}],
        7: np.ones(1, np.int8),
        "step": 3,
        "name": "x",
        "none": None,
    }
    (tmp_path / "weights").write_bytes(pickle.dumps(tree, protocol=protocol))
    expected = {f"layer/{name}": np.asarray(array) for name, array in ARRAYS.items()}
    expected |= {"list/0": np.ones(2), "list/1/x": np.zeros(1), "7": np.ones(1, np.int8)}
    assert_same(everything(tmp_path, "pickle"), expected)


def test_a_tree_of_flax_with_every_kind_of_leaf(tmp_path):
    tree = {
        "layer": dict(ARRAYS),
        "step": 3,
        "rate": 0.1,
        "name": "x",
        "none": None,
        "list": [np.ones(2), -70000],
    }
    (tmp_path / "weights").write_bytes(flax.serialization.to_bytes(tree))
    expected = {f"layer/{name}": np.asarray(array) for name, array in ARRAYS.items()}
    assert_same(everything(tmp_path, "flax-msgpack"), expected | {"list/0": np.ones(2)})


def test_an_array_that_flax_itself_cuts_into_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 64)
    array = np.arange(300, dtype=np.float32).reshape(30, 10)
    (tmp_path / "weights").write_bytes(flax.serialization.to_bytes({"w": array}))
    (tmp_path / "stream").write_bytes(msgpack.packb([["a", "w"], flax.serialization.to_bytes(array)]))
    assert_same(everything(tmp_path / "weights", "flax-msgpack"), {"w": array})
    assert_same(everything(tmp_path / "stream", "streaming-msgpack"), {"a/w": array})


def test_safetensors_keep_their_types_and_metadata(tmp_path):
    arrays = {name: np.ascontiguousarray(array) for name, array in ARRAYS.items()}
    save_file(arrays, tmp_path / "weights.safetensors", {"format": "np"})
    assert_same(everything(tmp_path), arrays)
    with open_tensors(tmp_path) as tensors:
        assert tensors.metadata == {"format": "np"}


@pytest.mark.parametrize("fault", ["absent", "twice", "no_file", "other_name"])
def test_an_index_that_disagrees_with_its_files_is_an_error(tmp_path, fault):
    save_file({"a": np.ones(1)}, tmp_path / "one.safetensors")
    save_file(
        {"b": np.ones(1)} | ({"a": np.ones(1)} if fault == "twice" else {}), tmp_path / "two.safetensors"
    )
    weight_map = {"a": "one.safetensors", "b": "two.safetensors"}
    weight_map |= {
        "absent": {"c": "two.safetensors"},
        "no_file": {"b": "six.safetensors"},
        "other_name": {"b": "sub/two.safetensors"},
    }.get(fault, {})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError):
        open_tensors(tmp_path)


def test_gguf_is_dequantised_as_its_package_does_it(tmp_path):
    from gguf import GGMLQuantizationType as Kind
    from gguf import quants

    drawn = np.random.default_rng(1).normal(size=(70, 32 * 512)).astype(np.float32)  # more than one slice
    stored = {
        f"blk.{kind.name}": (quants.quantize(drawn, kind), kind)
        for kind in (Kind.Q4_1, Kind.Q8_0, Kind.F16, Kind.BF16)
    }
    keys = [
        ("add_uint32", "llama.block_count", 3),
        ("add_array", "tokenizer.ggml.tokens", ["a", "Ġb", "é"]),
        ("add_array", "scores", [0.5, -1.0]),
        ("add_bool", "yes", True),
        ("add_string", "tokenizer.chat_template", "{{ x }}\n"),
    ]
    write_gguf(tmp_path / "weights.gguf", stored | {"norm": (drawn[0], None)}, keys)
    found = everything(tmp_path, "gguf")
    assert_same(
        found,
        {name: quants.dequantize(data, kind) for name, (data, kind) in stored.items()} | {"norm": drawn[0]},
    )
    assert np.abs(found["blk.Q8_0"] - drawn).max() < 0.05
    with open_tensors(tmp_path) as tensors:
        said = {name: tensors.metadata[name] for _, name, _ in keys}
    assert said == {name: value for _, name, value in keys}


def test_gguf_of_k_quants(tmp_path):
    """Random bytes are a valid Q4_K and Q6_K; the package's own reader gives the same of them."""
    from gguf import GGMLQuantizationType as Kind
    from gguf import quants

    random = np.random.default_rng(2)
    stored = {
        "a": (random.integers(0, 100, (3, 2 * 144), np.uint8), Kind.Q4_K),
        "b": (random.integers(0, 100, (4, 210), np.uint8), Kind.Q6_K),
    }
    write_gguf(tmp_path / "weights", stored)
    found = everything(tmp_path, "gguf")
    assert {name: array.shape for name, array in found.items()} == {"a": (3, 512), "b": (4, 256)}
    assert_same(found, {name: quants.dequantize(data, kind) for name, (data, kind) in stored.items()})


def test_gguf_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    write_gguf(tmp_path / "weights", {"norm": (np.ones(4, np.float32), None)})
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="pip install gguf"):
        open_tensors(tmp_path)


BIG = np.arange(1 << 22, dtype=np.float32).reshape(1 << 10, -1)


def _big_torch(path):
    tensor = hostile.torch_tensor(b"J\0\0\x40\0\x85", b"K\x01\x85", count=b"J\0\0\x40\0")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}" + hostile.text("w") + tensor + b"s.")
        file.writestr("a/data/0", BIG.tobytes())


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_file({"w": BIG}, path),
        lambda path: path.write_bytes(flax.serialization.to_bytes({"w": BIG})),
        lambda path: path.write_bytes(msgpack.packb([["w"], flax.serialization.to_bytes(BIG)])),
        lambda path: path.write_bytes(pickle.dumps({"w": BIG})),
        lambda path: write_gguf(path, {"w": (BIG, None)}),
        _big_torch,
    ],
    ids=["safetensors", "flax-msgpack", "streaming-msgpack", "pickle", "gguf", "torch"],
)
def test_opening_reads_no_numbers_and_reading_takes_one_tensors_memory(tmp_path, write, monkeypatch):
    monkeypatch.setattr(
        flax.serialization, "MAX_CHUNK_SIZE", 1 << 20
    )  # so that what flax writes here is in pieces
    write(tmp_path / "weights")
    import gguf  # noqa: F401  (the first import takes memory)

    tracemalloc.start()
    try:
        with open_tensors(tmp_path / "weights") as tensors:
            assert tracemalloc.get_traced_memory()[1] < 3 << 20
            half = tensors.read("w", (0, 512))
            assert tracemalloc.get_traced_memory()[1] < BIG.nbytes * (1.1 if tensors.form == "gguf" else 0.6)
            del half
            array = tensors.read("w")
            assert tracemalloc.get_traced_memory()[1] < BIG.nbytes * (1.6 if tensors.form == "gguf" else 1.1)
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(array.reshape(BIG.shape), BIG)


def test_a_folder_is_not_guessed_at(tmp_path):
    with pytest.raises(UserError, match="holds no weights"):
        open_tensors(tmp_path)
    (tmp_path / "params").write_bytes(msgpack.packb([["w"], flax.serialization.to_bytes(np.ones(2))]))
    (tmp_path / "config.json").write_text("{}")
    assert list(everything(tmp_path)) == ["w"]
    (tmp_path / "vqgan").write_bytes(pickle.dumps({"w": np.ones(2)}))
    with pytest.raises(UserError, match=r"several files of weights \(params, vqgan\)"):
        open_tensors(tmp_path)
    save_file({"best": np.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "gone.safetensors"}}')
    save_file({"other": np.ones(1)}, tmp_path / "consolidated.safetensors")
    assert list(everything(tmp_path)) == ["best"]


@pytest.mark.parametrize("content", [b"", b"x", b"plain text, and not short either" * 3, b"\x80", bytes(100)])
def test_what_is_no_weights_is_said_to_be_none(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError):
        open_tensors(tmp_path / "file")


def test_mistakes_of_the_caller_are_errors(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        open_tensors(tmp_path / "nothing")
    path = FIXTURES / "hf_llama/untied/model.safetensors"
    for form in set(FORMS) - {"safetensors"}:
        with pytest.raises(UserError, match=f"not {form}"):
            open_tensors(path, form)
        with pytest.raises(UserError, match=f"not {form}"):
            open_tensors(FIXTURES / "hf_llama/untied/sharded", form)
    for folder in ("untied", "untied/sharded"):
        with (
            open_tensors(FIXTURES / "hf_llama" / folder) as tensors,
            pytest.raises(UserError, match="has no tensor x; it has 21, such as"),
        ):
            tensors.read("x")
    with open_tensors(path) as tensors:
        assert tensors.read("lm_head.weight", (2, 2)).shape == (0, 64)
        for rows in ((0, 321), (-1, 4), (5, 4)):
            with pytest.raises(UserError, match="has 320 rows"):
                tensors.read("lm_head.weight", rows)
