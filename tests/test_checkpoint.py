"""Model folders and checkpoints: bit for bit, whole or not at all, and clear about what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

from ringvision.checkpoint import Checkpoints
from ringvision.errors import UserError
from ringvision.model_folder import load_model, load_params, read_config, save_model, specs
from ringvision.model_folder.reader import LARGE_PAGE
from ringvision.tree import flatten, unflatten


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.query = nnx.Param(jax.random.normal(rngs.params(), (4, 3)))
        self.scale = nnx.Param(jnp.ones(()))


@pytest.fixture
def state():
    """What a trainer saves: parameters, an optimizer's state, numbers, several dtypes, special values."""
    _, params = nnx.split(Layer(nnx.Rngs(0)))
    return {
        "params": params,
        "opt_state": optax.adamw(1e-3).init(params),
        "step": 7,
        "rate": 0.1,
        "bf16": jnp.asarray([1.0, 3e38, -0.0], jnp.bfloat16),
        "special": np.array([np.nan, np.inf, -np.inf, 1e-45], np.float32),
        "counts": np.arange(5, dtype=np.uint16),
        "key": jax.random.key_data(jax.random.key(3)),
    }


def same(one, other) -> bool:
    """Equal bit for bit, NaN included."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() and np.asarray(a).dtype == np.asarray(b).dtype
        for a, b in pairs
    )


def test_flatten_names_leaves_by_their_path_and_unflatten_is_its_inverse(state):
    flat = flatten(state)
    assert {
        "params.query",
        "params.scale",
        "opt_state.0.mu.query",
        "opt_state.0.count",
        "step",
    } <= flat.keys()
    again = unflatten(flat, state)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert same(state, again)


def test_flatten_refuses_two_leaves_of_one_name():
    with pytest.raises(ValueError, match=r"'a\.b'"):
        flatten({"a": {"b": 1}, "a.b": 2})


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


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path, state):
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.latest() is None
    checkpoints.save(7, state)
    with np.errstate(invalid="ignore"):
        blank = jax.tree.map(lambda leaf: leaf * 0, state)
    restored = checkpoints.restore(blank)
    assert same(state, restored)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert type(restored["step"]) is int
    assert type(restored["rate"]) is float
    assert isinstance(restored["counts"], np.ndarray)


def test_a_checkpoint_comes_back_with_the_sharding_asked_for(tmp_path):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    tree = {"a": jax.device_put(jnp.arange(8.0), split), "b": jnp.arange(3)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree)
    assert checkpoints.restore(tree)["a"].sharding == split
    whole = checkpoints.restore(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree))
    assert len(whole["a"].devices()) == 1
    assert same(tree, whole)


def test_only_the_newest_are_kept_and_a_step_can_be_written_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 3):
        checkpoints.save(step, {"a": np.full(2, step)})
    assert checkpoints.steps() == [2, 3]
    assert sorted(os.listdir(tmp_path)) == ["step-00000002", "step-00000003"]
    assert checkpoints.restore({"a": np.zeros(2, int)}, step=2)["a"].tolist() == [2, 2]


def test_a_step_that_is_not_there_is_one_clear_error(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match="it has none"):
        checkpoints.restore({})
    checkpoints.save(5, {"a": np.zeros(1)})
    with pytest.raises(UserError, match="it has 5"):
        checkpoints.restore({"a": np.zeros(1)}, step=4)


def test_a_run_of_another_shape_is_one_clear_error(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": np.zeros(2, np.float32), "b": np.zeros(1)})
    with pytest.raises(UserError, match=r"c is missing; b is unknown; a has shape \[2\], expected \[3\]"):
        checkpoints.restore({"a": np.zeros(3, np.float32), "c": np.zeros(1)})
    with pytest.raises(UserError, match="a holds float32, expected float64"):
        checkpoints.restore({"a": np.zeros(2), "b": np.zeros(1)})


def test_a_flipped_bit_in_any_file_is_found(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    tree = {"a": np.arange(100, dtype=np.float32)}
    folder = checkpoints.save(1, tree)
    files = [path for path in (folder / "state").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 3
    for path in files:
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 4
        path.write_bytes(bad)
        with pytest.raises(UserError, match=path.name.replace(".", r"\.")):
            checkpoints.restore(tree)
        path.write_bytes(good)
    files[0].unlink()
    with pytest.raises(UserError, match="damaged"):
        checkpoints.restore(tree)


KILLED = """
import sys, numpy as np
from ringvision.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in range(1, 10_000):
    checkpoints.save(step, {f"a{i}": np.full(50_000, step, np.int32) for i in range(4)})
    print(step, flush=True)
"""


def test_a_process_killed_at_any_moment_leaves_whole_checkpoints(tmp_path):
    for attempt, delay in enumerate((0.01, 0.045)):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, folder],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        checkpoints = Checkpoints(folder)
        step = checkpoints.latest()
        assert step is not None
        assert step >= 2
        restored = checkpoints.restore({f"a{i}": np.zeros(50_000, np.int32) for i in range(4)})
        assert all((array == step).all() for array in restored.values())
        checkpoints.save(step + 1, restored)
        assert not list(folder.glob(".*")), "what the killed process left is cleared by the next save"


def test_a_record_that_is_not_json_is_damage(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(1, {"a": np.zeros(1)})
    assert json.loads((folder / "sha256.json").read_text())["step"] == 1
    (folder / "sha256.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        checkpoints.restore({"a": np.zeros(1)})
