"""What is written tensor by tensor is what the safetensors library writes at once; and nothing half-written
is ever left.
"""

import json
import os
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringvision.errors import UserError
from ringvision.model_folder import ModelReader, ModelWriter, Spec, weight_files
from ringvision.model_folder import writer as writers

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "b.c": RANDOM.standard_normal((3, 4, 5)).astype(np.float32),
    "a": np.asarray([1.5, np.nan, 3], ml_dtypes.bfloat16),
    "scalar": np.asarray(3, np.float32),
    "nothing": np.zeros((0, 4), np.int64),
    "mask": np.array([True]),
    "naïve": np.arange(6, dtype=np.uint16).reshape(2, 3),
    "strided": np.eye(4)[:, :2].T,
}


def announced(arrays: dict[str, np.ndarray]) -> dict[str, Spec]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def write(place: Path, arrays: dict[str, np.ndarray] = ARRAYS, **options: int) -> Path:
    with ModelWriter(place, {"kind": "trial"}, announced(arrays), **options) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    return place


def read(place: Path) -> dict[str, np.ndarray]:
    with ModelReader(place) as reader:
        found = {name: reader.read(name) for name in reader.specs}
        assert announced(found) == reader.specs
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return announced(one) == announced(other) and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


def test_one_file_is_byte_for_byte_the_library_s(tmp_path: Path) -> None:
    write(tmp_path / "model")
    save_file(
        {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in ARRAYS.items()},
        tmp_path / "expected",
    )
    assert (tmp_path / "model/model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "model/config.json").read_text()) == {"kind": "trial"}


def test_what_the_header_says_beside_the_tensors(tmp_path: Path) -> None:
    arrays = {f"layer.{i}": RANDOM.standard_normal(10) for i in range(3)}
    with ModelWriter(tmp_path, {}, announced(arrays), max_file=200, metadata={"format": "pt"}) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    for path in weight_files(tmp_path):
        save_file(load_file(path), tmp_path / "expected", {"format": "pt"})
        assert path.read_bytes() == (tmp_path / "expected").read_bytes()
    assert len(weight_files(tmp_path)) == 2 and same(read(tmp_path), arrays)


def test_layers_in_any_order_make_the_whole(tmp_path: Path) -> None:
    with ModelWriter(tmp_path, {}, announced(ARRAYS)) as writer:
        for layer in (2, 0, 1):
            writer.write("b.c", ARRAYS["b.c"][layer], at=layer)
        for name in ARRAYS.keys() - {"b.c"}:
            writer.write(name, ARRAYS[name])
    assert same(read(tmp_path), ARRAYS)


def test_several_files_and_their_index(tmp_path: Path) -> None:
    arrays = {f"layer.{i:02d}": RANDOM.standard_normal(100) for i in range(7)} | {
        "wide": RANDOM.standard_normal(500)
    }
    write(tmp_path, arrays, max_file=1700)
    files = [f"model-{number:05d}-of-00005.safetensors" for number in range(1, 6)]
    assert sorted(os.listdir(tmp_path)) == sorted(["config.json", "model.safetensors.index.json", *files])
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 1200 * 8}
    assert index["weight_map"] == {name: file for file in files for name in load_file(tmp_path / file)}
    assert [len(load_file(tmp_path / file)) for file in files] == [2, 2, 2, 1, 1]
    assert same(read(tmp_path), arrays)
    assert [path.name for path in weight_files(tmp_path)] == files


def test_older_weights_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "MODEL_CARD.md").write_text("card")
    (tmp_path / ".writing-killed").mkdir()
    for number, limit in enumerate((10**9, 40, 10**9, 200, 40)):
        arrays = {name: array + number for name, array in ARRAYS.items() if array.dtype == np.float32}
        write(tmp_path, arrays, max_file=limit)
        assert same(read(tmp_path), arrays)
        expected = {path.name for path in weight_files(tmp_path)} | {"MODEL_CARD.md", "config.json"}
        assert set(os.listdir(tmp_path)) - {"model.safetensors.index.json"} == expected


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("what", ["error", "lacking", "kill of the config"])
def test_what_fails_leaves_nothing_behind(
    tmp_path: Path, old: bool, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "model"
    if old:
        write(place)
    before = {path.name: path.read_bytes() for path in place.iterdir()} if old else {}
    changed = {name: array + 1 for name, array in ARRAYS.items() if name != "mask"}

    def attempt() -> None:
        with ModelWriter(place, {"kind": "new"}, announced(changed)) as writer:
            for name, array in changed.items():
                if what == "lacking" and name == "b.c":
                    writer.write(name, array[1], at=1)
                else:
                    writer.write(name, array)
            if what == "error":
                raise KeyError("some mistake")
            if what == "kill of the config":
                monkeypatch.setattr(writers, "_write_text", None)

    with pytest.raises({"error": KeyError, "lacking": ValueError, "kill of the config": TypeError}[what]):
        attempt()
    assert ({path.name: path.read_bytes() for path in place.iterdir()} if old else place.exists()) == (
        before if old else False
    )


def test_what_was_not_announced_is_refused(tmp_path: Path) -> None:
    told = {"a": ((2, 3), np.float32), "b": ((2,), np.int32)}
    with (
        pytest.raises(ValueError, match="2 of 2 tensors were not written whole"),
        ModelWriter(tmp_path, {}, told) as writer,
    ):
        for name, array, at, said in (
            ("c", np.zeros(2), None, "was not announced"),
            ("a", np.zeros((2, 3)), None, "float64"),
            ("a", np.zeros((3, 2), np.float32), None, r"\[3, 2\] was given"),
            ("a", np.zeros((2, 3), np.float32), 0, r"a at 0: float32 \[2, 3\]"),
            ("a", np.zeros(3, np.float32), 2, "a at 2"),
            ("a", np.zeros(3, np.float32), -1, "a at -1"),
        ):
            with pytest.raises(ValueError, match=said):
                writer.write(name, array, at)
        writer.write("a", np.zeros(3, np.float32), 1)
        for at, array in ((1, np.zeros(3, np.float32)), (None, np.zeros((2, 3), np.float32))):
            with pytest.raises(ValueError, match="was written before"):
                writer.write("a", array, at)
    with pytest.raises(ValueError, match=r"cannot hold a \(complex64\)"):
        ModelWriter(tmp_path, {}, {"a": ((1,), np.complex64)})


def test_no_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=10**9, used=10**9, free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with (
        pytest.raises(UserError, match=r"has 0\.0 GB free, and the model takes 8\.0 GB"),
        ModelWriter(tmp_path / "model", {}, {"a": ((2, 10**9), np.float32)}),
    ):
        pytest.fail("there was no room")
    assert not (tmp_path / "model").exists()


def test_no_more_than_a_layer_is_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    with ModelWriter(tmp_path, {}, {"a": ((64, 2**18), np.float32)}) as writer:
        for layer in range(64):
            writer.write("a", np.full(2**18, layer, np.float32), at=layer)
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
    assert (tmp_path / "model.safetensors").stat().st_size > 2**26


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "cannot be read as JSON"),
        ('{"weight_map": 3}', "is damaged"),
        ('{"weight_map": {"a": 3}}', "is damaged"),
        ('{"weight_map": {}}', "names no files"),
        ('{"weight_map": {"a": "../other/model.safetensors"}}', "expected files beside it"),
        (
            '{"weight_map": {"a": "model-00001-of-00001.safetensors", "b": "gone.safetensors"}}',
            "holds no gone.safetensors",
        ),
    ],
)
def test_a_damaged_index_is_one_clear_error(tmp_path: Path, index: str, said: str) -> None:
    save_file({"a": np.zeros(3)}, tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=said):
        read(tmp_path)


def test_a_number_that_numpy_does_not_know_is_said(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(UserError, match="a is stored as F8_E4M3"):
        read(tmp_path)
