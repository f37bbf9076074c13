"""Checkpoints: bit for bit, whole or not at all, none lost to damage, and clear about what is wrong."""

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ringvision.checkpoint import Checkpoints
from ringvision.checkpoint import checkpoints as module
from ringvision.checkpoint.manifest import MANIFEST, StepManifest, Written
from ringvision.checkpoint.restoring import damage
from ringvision.errors import UserError

TREE = {"a": np.arange(100, dtype=np.float32), "b": np.arange(6, dtype=np.int16).reshape(2, 3)}


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.query = nnx.Param(jax.random.normal(rngs.params(), (4, 3)))
        self.scale = nnx.Param(jnp.ones(()))


def training_state() -> dict[str, Any]:
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
        "nothing": np.zeros((0, 3)),
        "strided": np.arange(12).reshape(3, 4).T,
        "key": jax.random.key_data(jax.random.key(3)),
    }


def same(one: Any, other: Any) -> bool:
    """Equal bit for bit, NaN included."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() and np.asarray(a).dtype == np.asarray(b).dtype
        for a, b in pairs
    )


def saved(folder: Path, *steps: int, **options: Any) -> Checkpoints:
    """Checkpoints of TREE, whose `a` is moved by the step's number."""
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(step, TREE | {"a": TREE["a"] + step}, {"step": step})
    checkpoints.wait()
    return checkpoints


def spread(*axes: int) -> jax.sharding.Mesh:
    names = ("x", "y")[: len(axes)]
    return jax.make_mesh(axes, names, axis_types=(jax.sharding.AxisType.Auto,) * len(axes))


def test_a_tree_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = training_state()
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.latest() is None
    notes = {"random": 2**127 - 1, "window": [0.5, float("nan")]}
    checkpoints.save(7, state, notes)
    with np.errstate(invalid="ignore"):
        blank = jax.tree.map(lambda leaf: leaf * 0, state)
    restored = checkpoints.restore(blank)
    assert same(state, restored.tree)
    assert jax.tree.structure(restored.tree) == jax.tree.structure(state)
    assert type(restored.tree["step"]) is int
    assert type(restored.tree["rate"]) is float
    assert isinstance(restored.tree["counts"], np.ndarray)
    assert (restored.step, restored.skipped) == (7, [])
    assert str(restored.notes) == str([notes])


def test_arrays_come_back_on_another_mesh(tmp_path: Path) -> None:
    values = np.arange(8 * 24, dtype=np.float32).reshape(8, 24)
    P = jax.P
    before = jax.NamedSharding(spread(2, 4), P("y", "x"))
    checkpoints = Checkpoints(tmp_path)
    tree = {
        "split": jax.device_put(values, before),
        "row": jax.device_put(values[0], before.update(spec=P())),
    }
    checkpoints.save(1, tree)
    for sharding in (
        before,
        jax.NamedSharding(spread(8), P(None, "x")),
        jax.NamedSharding(spread(4, 2), P("x")),
        jax.NamedSharding(spread(4, 2), P(("x", "y"), None)),
        jax.NamedSharding(spread(4, 2), P()),
    ):
        like = {
            "split": jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=sharding),
            "row": jax.ShapeDtypeStruct((24,), values.dtype),
        }
        found = checkpoints.restore(like).tree
        assert found["split"].sharding == sharding
        assert len(found["row"].devices()) == 1
        assert same(found, tree)
    bytes_of_arrays = (checkpoints.folder / "step-00000001/arrays-00000-of-00001.bin").stat().st_size
    assert bytes_of_arrays == values.nbytes + values[0].nbytes, "copies on several devices are written once"


def test_the_step_may_change_the_arrays_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {"a": jax.device_put(jnp.zeros((8, 1000)), jax.NamedSharding(spread(8), jax.P("x")))}
    state = step(state)
    go = threading.Event()
    write = module.write
    monkeypatch.setattr(module, "write", lambda *given: go.wait(30) and write(*given))
    checkpoints = Checkpoints(tmp_path)
    places = [shard.data.unsafe_buffer_pointer() for shard in state["a"].addressable_shards]
    checkpoints.save(1, state)
    for _ in range(3):
        state = step(state)
        checkpoints.check()
    jax.block_until_ready(state)
    assert [shard.data.unsafe_buffer_pointer() for shard in state["a"].addressable_shards] == places
    assert checkpoints.steps() == []
    go.set()
    checkpoints.wait()
    assert same(checkpoints.restore(state).tree, {"a": np.ones((8, 1000), np.float32)})


def test_a_second_save_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    write = module.write

    def slow(*given: Any) -> Any:
        time.sleep(0.2)
        order.append("written")
        return write(*given)

    monkeypatch.setattr(module, "write", slow)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, TREE)
            order.append(f"saved {step}")
    assert order == ["saved 1", "written", "saved 2", "written"]
    assert checkpoints.steps() == [1, 2]


def test_the_newest_are_kept_and_every_so_manieth(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, *range(1, 13), keep=2, keep_every=5)
    assert checkpoints.steps() == [5, 10, 11, 12]
    assert sorted(os.listdir(tmp_path)) == [f"step-{step:08d}" for step in (5, 10, 11, 12)]
    assert checkpoints.restore(TREE, step=5).tree["a"][0] == 5
    saved(tmp_path, 12, 13)
    assert checkpoints.steps() == [12, 13]
    for options in ({"keep": 0}, {"keep_every": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            Checkpoints(tmp_path, **options)


def test_a_run_that_went_back_leaves_its_other_past(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 10, 20, 30, keep=3)
    assert checkpoints.restore(TREE, step=10).step == 10
    checkpoints.save(15, TREE)
    checkpoints.wait()
    assert checkpoints.steps() == [10, 15]


def test_what_is_damaged_does_not_count_among_those_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 10, 20, 30, keep=3)
    for step in (20, 30):
        (tmp_path / f"step-{step:08d}" / MANIFEST).unlink()
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.restore(TREE).step == 10
    checkpoints.save(35, TREE)
    checkpoints.wait()
    assert checkpoints.steps() == [10, 35]


def test_a_step_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint \(it has none\)"):
        Checkpoints(tmp_path).restore({})
    with pytest.raises(UserError, match=r"of step 4 \(it has 5\)"):
        saved(tmp_path, 5).restore(TREE, step=4)


def test_a_run_of_another_shape_is_one_clear_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": np.zeros(2, np.float32), "b": np.zeros(1)})
    with pytest.raises(UserError, match=r"c is missing; b is unknown; a has shape \[2\], expected \[3\]"):
        checkpoints.restore({"a": np.zeros(3, np.float32), "c": np.zeros(1)})
    with pytest.raises(UserError, match="a holds float32, expected float64"):
        checkpoints.restore({"a": np.zeros(2), "b": np.zeros(1)})


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": np.arange(9, dtype=np.float32)}, {"step": 1})
    folder = tmp_path / "step-00000001"
    files = sorted(folder.iterdir())
    assert len(files) == 4
    assert damage(folder, 1) is None
    for path in files:
        good = path.read_bytes()
        for place in range(len(good)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
            assert path.name in (damage(folder, 1) or ""), place
        path.write_bytes(good)
    assert damage(folder, 1) is None


@pytest.mark.parametrize("harm", ["flipped", "truncated", "emptied", "grown", "removed", "a folder"])
def test_a_damaged_step_is_passed_over(tmp_path: Path, harm: str) -> None:
    saved(tmp_path, 1, 2)
    folder = tmp_path / "step-00000002"
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        middle = len(good) // 2
        path.unlink()
        changed = {
            "flipped": good[:middle] + bytes([good[middle] ^ 4]) + good[middle + 1 :],
            "truncated": good[:middle],
            "emptied": b"",
            "grown": good + b"\0",
        }
        if harm == "a folder":
            path.mkdir()
        elif harm != "removed":
            path.write_bytes(changed[harm])
        restored = Checkpoints(tmp_path).restore(TREE)
        assert (restored.step, restored.tree["a"][0], restored.notes) == (1, 1, [{"step": 1}])
        (said,) = restored.skipped
        assert "step 2 is damaged and was passed over" in said and path.name in said
        if harm == "a folder":
            path.rmdir()
        path.write_bytes(good)
    assert Checkpoints(tmp_path).restore(TREE).step == 2


def test_without_one_good_step_the_error_names_all(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "step-00000001" / MANIFEST).write_text("{")
    with (tmp_path / "step-00000002" / "arrays-00000-of-00001.bin").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(UserError, match=r"no checkpoint that is whole.*step 2.*10 bytes of 412.*step 1"):
        checkpoints.restore(TREE)
    (tmp_path / "step-00000003").mkdir()
    with pytest.raises(UserError, match=r"step 3.*sha256\.json cannot be read"):
        checkpoints.restore(TREE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table["shards"][0].__setitem__(3, 4096), "lies outside"),
        (lambda table: table["shards"][0].__setitem__(2, [2**40]), "lies outside"),
        (lambda table: table["shards"].pop(), "b is not whole"),
        (lambda table: table["leaves"].pop("a"), "no table of arrays"),
        (lambda table: table["leaves"].__setitem__("a", [[2**50], "float32"]), r"a has shape \[1125"),
        (lambda table: table.pop("shards"), "no table of arrays"),
    ],
)
def test_a_table_that_somebody_else_wrote_is_not_trusted(
    tmp_path: Path, change: Callable[[Any], None], says: str
) -> None:
    checkpoints = saved(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    name = "arrays-00000-of-00001.json"
    table = json.loads((folder / name).read_text())
    change(table)
    text = json.dumps(table).encode()
    (folder / name).write_bytes(text)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    files[name] = [len(text), hashlib.sha256(text).hexdigest()]
    manifest = StepManifest(1, 1, {name: Written(*found) for name, found in files.items()})
    (folder / MANIFEST).write_text(manifest.text())
    with pytest.raises(UserError, match=says):
        checkpoints.restore(TREE)


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of this process may have so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_that_fails_is_told_at_the_next_step(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    large = TREE | {"a": np.zeros(100_000, np.float32)}
    with full_disk(4096):
        checkpoints.save(2, large)
        while not checkpoints.failed:
            time.sleep(0.01)
        assert checkpoints.failed
        with pytest.raises(
            UserError, match=r"no checkpoint could be written to .*: File too large; put that"
        ):
            checkpoints.check()
        checkpoints.check()
        assert os.listdir(tmp_path) == ["step-00000001"], "what was begun is cleared away"
        checkpoints.save(3, large)
        with pytest.raises(UserError, match="File too large"):
            checkpoints.save(4, large)
    assert checkpoints.restore(TREE).step == 1
    checkpoints.save(5, TREE)
    checkpoints.close()
    assert checkpoints.steps() == [1, 5]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    checkpoints.save(1, TREE)
    with pytest.raises(UserError, match="Not a directory"):
        checkpoints.wait()
    with pytest.raises(ZeroDivisionError), checkpoints:
        checkpoints.save(2, TREE)
        raise ZeroDivisionError  # what ended the block is told, not what else went wrong


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    os.rename(tmp_path / "step-00000002", tmp_path / ".replaced-step-00000002")
    (tmp_path / ".partial-00000002-0").mkdir()
    (tmp_path / ".removed-step-00000001").mkdir()
    assert checkpoints.latest() == 2
    assert checkpoints.restore(TREE).tree["a"][0] == 2
    checkpoints.save(3, TREE)
    checkpoints.wait()
    assert sorted(os.listdir(tmp_path)) == ["step-00000002", "step-00000003"]
    saved(tmp_path, 3)
    os.rename(tmp_path / "step-00000002", tmp_path / ".replaced-step-00000003")
    saved(tmp_path, 4)
    assert sorted(os.listdir(tmp_path)) == ["step-00000003", "step-00000004"]
    assert checkpoints.restore(TREE, step=3).tree["a"][0] == 3


KILLED = """
import sys, numpy as np
from ringvision.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in range(1, 10_000):
    checkpoints.save(step, {f"a{i}": np.full(50_000, step, np.int32) for i in range(4)})
    checkpoints.wait()
    print(step, flush=True)
"""


def test_a_killed_process_leaves_what_it_has_saved(tmp_path: Path) -> None:
    """Twice here; two hundred times in scripts/checkpoint_kills.py."""
    for attempt, delay in enumerate((0.01, 0.045)):
        folder = tmp_path / str(attempt)
        command = [sys.executable, "-c", KILLED, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        last = [2, *map(int, process.communicate()[0].split())][-1]
        checkpoints = Checkpoints(folder)
        restored = checkpoints.restore({f"a{i}": np.zeros(50_000, np.int32) for i in range(4)})
        assert restored.step >= last
        assert not restored.skipped
        assert all((array == restored.step).all() for array in restored.tree.values())
        checkpoints.save(restored.step + 1, restored.tree)
        checkpoints.wait()
        assert not list(folder.glob(".*")), "what the killed process left is cleared by the next save"
