"""A model folder comes back bit for bit, whole or onto devices, and says clearly what is wrong with it."""

import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.model_folder import load_model, load_params, read_config, save_model, specs
from ringvision.model_folder.reader import LARGE_PAGE


def same(one, other) -> bool:
    """Equal bit for bit, NaN included."""
    return (
        np.asarray(one).tobytes() == np.asarray(other).tobytes()
        and np.asarray(one).dtype == np.asarray(other).dtype
    )


def test_a_model_folder_comes_back_bit_for_bit_and_keeps_its_other_files(tmp_path):
    params = {"a": np.asarray([1.5, np.nan], np.float32), "b.c": np.asarray([[1, 2]], ml_dtypes.bfloat16)}
    params |= {"scalar": np.float32(3), "strided": np.eye(3)[:, :2].T}
    (tmp_path / "MODEL_CARD.md").write_text("card")
    save_model(tmp_path, {"kind": "trial", "size": 3}, params)
    assert read_config(tmp_path, kind="trial") == {"kind": "trial", "size": 3}
    loaded = load_model(tmp_path)
    assert loaded.keys() == params.keys()
    assert all(same(params[name], loaded[name]) for name in params)
    assert sorted(os.listdir(tmp_path)) == ["MODEL_CARD.md", "config.json", "model.safetensors"]


def test_saving_a_config_that_json_cannot_hold_leaves_the_old_model(tmp_path):
    save_model(tmp_path, {"kind": "old"}, {"a": np.zeros(2)})
    with pytest.raises(TypeError):
        save_model(tmp_path, {"kind": {1, 2}}, {"a": np.ones(2)})
    assert read_config(tmp_path)["kind"] == "old"
    assert load_model(tmp_path)["a"].sum() == 0


def test_all_mismatches_are_told_at_once(tmp_path):
    save_model(
        tmp_path, {}, {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.int32), "old": np.zeros(1)}
    )
    expected = {"a": ((2, 4), np.float32), "b": ((2,), np.float32), "new": ((1,), np.float32)}
    with pytest.raises(UserError) as caught:
        load_model(tmp_path, expected)
    for part in ("new is missing", "old is unknown", "a has shape [2, 3], expected [2, 4]"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="b holds int32, expected float32"):
        load_model(tmp_path, {"a": ((2, 3), np.float32), "b": ((2,), np.float32), "old": ((1,), np.float64)})


def test_stored_bfloat16_is_given_as_the_float_that_is_expected(tmp_path):
    values = np.asarray([1.0, 2.5], ml_dtypes.bfloat16)
    save_model(tmp_path, {}, {"a": values})
    loaded = load_model(tmp_path, specs({"a": jax.ShapeDtypeStruct((2,), jnp.float32)}))
    assert loaded["a"].dtype == np.float32
    assert loaded["a"].tolist() == [1.0, 2.5]


def test_parameters_go_to_devices_one_by_one(tmp_path):
    params = {"a": {"b": np.arange(8, dtype=np.float32).reshape(2, 4)}, "n": np.arange(3, dtype=np.int32)}
    half = {"a.b": params["a"]["b"].astype(ml_dtypes.bfloat16), "n": params["n"]}
    save_model(tmp_path, {}, half, max_file=10)
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 2
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
    split, whole = (jax.sharding.NamedSharding(mesh, jax.P(*axes)) for axes in ((None, "x"), ()))
    loaded = load_params(tmp_path, params, {"a": {"b": split}, "n": whole})
    assert same(loaded["a"]["b"], params["a"]["b"]) and same(loaded["n"], params["n"])
    assert loaded["a"]["b"].sharding == split and loaded["n"].sharding == whole
    for dtype in ("stored", "bfloat16"):
        loaded = load_params(tmp_path, params, whole, dtype)
        assert same(loaded["a"]["b"], half["a.b"]) and same(loaded["n"], half["n"])
    with pytest.raises(UserError, match=r"n is unknown; a\.b has shape \[2, 4\], expected \[2\]"):
        load_params(tmp_path, {"a": {"b": np.zeros(2, np.float32)}}, whole)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_cpu_devices_share_parameters_that_are_only_read(tmp_path, dtype):
    params = {
        "large": np.random.default_rng(0).normal(size=(600, 1024)).astype(np.float32),
        "small": np.ones(3, np.float32),
        "n": np.int32(7),
    }
    save_model(tmp_path, {}, params)
    place = jax.sharding.NamedSharding(jax.make_mesh((4,), ("x",), devices=jax.devices()[:4]), jax.P())
    loaded = load_params(tmp_path, params, place, dtype, read_only=True)
    for name, value in params.items():
        assert same(loaded[name], value.astype(dtype) if dtype and name != "n" else value)
        assert len({shard.data.unsafe_buffer_pointer() for shard in loaded[name].addressable_shards}) == 1
    assert (
        loaded["large"].addressable_shards[0].data.unsafe_buffer_pointer() % (1 if dtype else LARGE_PAGE) == 0
    )
    # were they donated after all, nobody else's would change
    doubled = jax.jit(lambda x: 2 * x, donate_argnums=0)(loaded["small"])
    assert [np.asarray(shard.data).tolist() for shard in doubled.addressable_shards] == [[2.0] * 3] * 4


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "absent"])
def test_a_damaged_model_is_one_clear_error(tmp_path, damage):
    save_model(tmp_path, {}, {"a": np.zeros(100, np.float32)})
    weights = tmp_path / "model.safetensors"
    if damage == "absent":
        weights.unlink()
    else:
        weights.write_bytes(
            {"cut": weights.read_bytes()[:200], "empty": b"", "text": b"not a model" * 10}[damage]
        )
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(tmp_path, {"a": ((100,), np.float32)})


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "holds no config.json"), ("{", "JSON"), ("[1]", "list"), ('{"kind": "vqgan"}', '"vqgan"')],
)
def test_a_wrong_config_is_one_clear_error(tmp_path, text, says):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read_config(tmp_path, kind="assistant")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        read_config(tmp_path / "nowhere")
