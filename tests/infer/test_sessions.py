"""What was read of a video serves the next process, to the token; what is wrong with a file of it is said in
one line, and then the video is read as usual.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_assistant import write_assistant

from ringvision.errors import UserError
from ringvision.infer import assistant as assistant_module
from ringvision.infer import processor as processor_module
from ringvision.infer import sessions as sessions_module
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.engine import Engine, Prefix
from ringvision.infer.model import load_model
from ringvision.infer.sessions import Sessions, prefix_layout
from ringvision.mesh import make_mesh

QUESTION = "What colour was the circle?"
BLOCKS = (32, 8)
IDENTITY = {"video": "one"}


def _mesh(devices: int, **axes: int) -> Any:
    return make_mesh(**(axes or {"context": devices}), devices=jax.devices()[:devices])


def _ask(assistant: Assistant, clip: Path) -> list[int]:
    reply = assistant.ask(clip, QUESTION, max_tokens=8)
    assert reply.text is not None
    return reply.tokens


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine(load_model(folder, _mesh(1)), blocks=BLOCKS)


@pytest.fixture(scope="module")
def prefix(engine: Engine) -> Prefix:
    tokens = np.random.default_rng(0).integers(0, 300, 77).astype(np.int32)
    return Prefix(engine.prefill(tokens).cache, tokens, 5)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, said: list[str], engine: Engine, prefix: Prefix) -> Sessions:
    """A folder with the prefix in it."""
    sessions = Sessions(tmp_path / "kept", warn=said.append)
    sessions.save(engine, IDENTITY, prefix)
    return sessions


def _file(sessions: Sessions) -> Path:
    (path,) = sessions.folder.iterdir()
    return path


# ---------------------------------------------------------------------------------------- what is kept serves


@pytest.mark.parametrize("hours", [False, True], ids=["clips", "hours"])
def test_the_next_process_neither_decodes_nor_reads(
    folder: Path,
    hours: bool,
    clips: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """hours: time stamps have ids of their own, beyond the rows of the embedding."""
    if hours:
        folder = write_assistant(tmp_path / "assistant", hours=True)
    one = tmp_path / "sessions"
    first = load(folder, _mesh(1), sessions=one)
    expected = _ask(first, clips[0])
    assert _ask(load(folder, _mesh(1)), clips[0]) == expected

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the video was read again")

    for module, name in ((processor_module, "sample"), (assistant_module, "probe"), (Engine, "prefill")):
        monkeypatch.setattr(module, name, fail)
    copy = tmp_path / "copy.mp4"
    shutil.copy(clips[0], copy)
    again = load(folder, _mesh(1), sessions=one)
    reply = again.ask(copy, QUESTION, max_tokens=8)
    assert reply.text is not None
    assert reply.tokens == expected
    assert (reply.frames, reply.timings["decode"]) == (first.ask(clips[0], QUESTION).frames, 0)
    assert reply.timings["session"] > 0
    assert _ask(again, copy) == expected
    for devices in (2, 8):
        assert _ask(load(folder, _mesh(devices), sessions=one), copy) == expected
    with pytest.raises(AssertionError, match="read again"):
        again.ask(copy, QUESTION, fps=0.5)
    with pytest.raises(AssertionError, match="read again"):
        load(folder, _mesh(1), sessions=one, cache_dtype="int8").ask(copy, QUESTION)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    "axes", [{"context": 1}, {"context": 4}, {"context": 2, "data": 2, "tensor": 2}], ids=str
)
def test_what_comes_back_is_what_was_read(
    folder: Path, tmp_path: Path, said: list[str], dtype: str, axes: dict[str, int]
) -> None:
    """Bit for bit and slot for slot, on every mesh; and the reader on another mesh gets the same values."""
    model = load_model(folder, _mesh(int(np.prod(list(axes.values()))), **axes))
    engine = Engine(model, blocks=BLOCKS, cache_dtype=dtype)
    tokens = np.random.default_rng(0).integers(0, 300, 77).astype(np.int32)
    made = engine.prefill(tokens)
    sessions = Sessions(tmp_path, warn=said.append)
    sessions.save(engine, IDENTITY, Prefix(made.cache, tokens, 5))
    back = sessions.load(engine, IDENTITY)
    assert back is not None and said == []
    np.testing.assert_array_equal(back.tokens, tokens)
    assert back.frames == 5
    taken = np.asarray(made.cache.segment_ids) > 0
    np.testing.assert_array_equal(back.cache.segment_ids, made.cache.segment_ids)
    np.testing.assert_array_equal(back.cache.fill, made.cache.fill)
    for name, array in back.cache.parts.items():
        before = getattr(made.cache, name)
        assert array.sharding.is_equivalent_to(before.sharding, array.ndim)
        slots_first = ((1, 3), (0, 1)) if array.ndim > 2 else ((0, 1), (0, 1))
        one, other = (np.moveaxis(np.asarray(x), *slots_first)[taken] for x in (array, before))
        np.testing.assert_array_equal(one, other)


def test_a_prefix_is_laid_out_as_it_says(engine: Engine, prefix: Prefix) -> None:
    length, slots, filled = prefix_layout(engine, 77)
    assert length == prefix.cache.length
    np.testing.assert_array_equal(np.asarray(prefix.cache.positions)[0, slots], np.arange(77))
    np.testing.assert_array_equal(np.asarray(prefix.cache.fill)[:, 0], filled)


def test_the_first_tokens_of_a_prefix_are_kept_alone(engine: Engine, prefix: Prefix, kept: Sessions) -> None:
    kept.save(engine, {"video": "its beginning"}, prefix.first(40, 2))
    back = kept.load(engine, {"video": "its beginning"})
    assert back is not None
    assert (len(back), back.frames, int(np.asarray(back.cache.segment_ids).sum())) == (40, 2, 40)


# ------------------------------------------------------------------------------------------- what is not used


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _header(path: Path, **metadata: str) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= metadata
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _more_tokens(path: Path) -> None:
    """A header that asks for far more memory than there is behind it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b"77", b"99")
    path.write_bytes(data[:8] + header + data[8 + length :])


DAMAGES = {
    "a bit of the keys": (lambda path: _flip(path, path.stat().st_size - 99), "checksum"),
    "a bit of the header": (lambda path: _flip(path, 40), "header"),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 1), "another size"),
    "too long": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "another size"),
    "no header": (lambda path: path.write_bytes(b"\xff" * 200), "header"),
    "empty": (lambda path: path.write_bytes(b""), "ends too early"),
    "another's": (lambda path: _header(path, key="0" * 64), "of another model"),
    "another header": (lambda path: _header(path, more="x"), "not of this model"),
    "larger than it is": (_more_tokens, "header|size"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_said_and_not_used(
    engine: Engine, kept: Sessions, said: list[str], damage: str
) -> None:
    assert kept.load(engine, IDENTITY) is not None
    change, why = DAMAGES[damage]
    change(_file(kept))
    assert kept.load(engine, IDENTITY) is None
    (line,) = said
    assert "\n" not in line
    assert str(_file(kept)) in line
    assert re.search(why, line), line


def test_a_damaged_file_is_replaced_and_the_answer_comes_as_usual(
    folder: Path, clips: list[Path], tmp_path: Path, capsys: Any
) -> None:
    place = tmp_path / "sessions"
    expected = _ask(load(folder, _mesh(1), sessions=place), clips[0])
    (path,) = place.iterdir()
    whole = path.read_bytes()
    _flip(path, path.stat().st_size // 2)
    assert _ask(load(folder, _mesh(1), sessions=place), clips[0]) == expected
    assert capsys.readouterr().err.count("\n") == 1
    assert path.read_bytes() == whole


def test_links_and_folders_are_refused(
    engine: Engine, kept: Sessions, said: list[str], tmp_path: Path
) -> None:
    path = _file(kept)
    os.rename(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert kept.load(engine, IDENTITY) is None
    assert "links are not followed" in said[-1]
    path.unlink()
    os.mkfifo(path)
    assert kept.load(engine, IDENTITY) is None
    assert "it is no file" in said[-1]


def test_another_identity_is_not_there(engine: Engine, kept: Sessions, said: list[str]) -> None:
    assert kept.load(engine, {"video": "two"}) is None
    assert said == []


# ------------------------------------------------------------------------------------------- bounds and disks


def test_a_folder_holds_what_it_may_and_forgets_the_longest_unused(
    engine: Engine, prefix: Prefix, tmp_path: Path, said: list[str]
) -> None:
    unbounded = Sessions(tmp_path / "one", warn=said.append)
    unbounded.save(engine, IDENTITY, prefix)
    size = unbounded.nbytes
    sessions = Sessions(tmp_path / "several", 3 * size, said.append)
    other = sessions.folder / "notes.txt"
    other.write_text("not a session")
    for number in range(3):
        sessions.save(engine, {"video": number}, prefix)
        os.utime(sessions._path({"video": number}), (number, number))
    assert sessions.load(engine, {"video": 0}) is not None  # now it is the one used last
    sessions.save(engine, {"video": 3}, prefix)
    assert sessions.nbytes == 3 * size
    assert [sessions.load(engine, {"video": number}) is not None for number in range(4)] == [
        True,
        False,
        True,
        True,
    ]
    assert other.exists()
    small = Sessions(sessions.folder, size - 1, said.append)
    small.save(engine, {"video": 4}, prefix)
    assert "it is not kept" in said[-1]
    assert sessions.nbytes == 3 * size


def test_what_a_killed_process_left_goes(engine: Engine, prefix: Prefix, kept: Sessions) -> None:
    left = kept.folder / ".writing-left"
    left.write_bytes(b"x" * 100)
    kept.save(engine, {"video": "two"}, prefix)
    assert left.exists()
    os.utime(left, (0, 0))
    kept.save(engine, {"video": "three"}, prefix)
    assert not left.exists()


@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_full_disk_is_said_and_nothing_is_half_written(
    engine: Engine,
    prefix: Prefix,
    kept: Sessions,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    before = sorted(kept.folder.iterdir())
    usage = shutil.disk_usage(kept.folder)
    if moment == "before":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    else:
        rows_of = sessions_module._rows_of

        def until_full(*args: Any) -> Any:
            rows = rows_of(*args)
            yield next(rows)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(sessions_module, "_rows_of", until_full)
    kept.save(engine, {"video": "two"}, prefix)
    (line,) = said
    assert "is not kept" in line
    assert ("No space" in line) or ("1000 are free" in line)
    assert sorted(kept.folder.iterdir()) == before


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--sessions"):
        Sessions(tmp_path / "file")
