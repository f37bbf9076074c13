"""What a hostile file of weights gets: one clear error, nothing run, memory under its limit."""

import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import hostile
import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.weights.readers.child import table
from ringvision.weights.readers.weights_file import WeightsFile
from ringvision.weights.tensors import open_tensors

PARENT_MB = 200
CHILD_MB = 128
OPEN_ALL = """
import json, resource, sys
from ringvision.errors import UserError
from ringvision.weights.tensors import open_tensors

import gguf
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
said = {}
for name, path in json.load(sys.stdin).items():
    try:
        open_tensors(path, memory=int(sys.argv[1]) << 20).close()
    except UserError as error:
        said[name] = str(error)
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"said": said, "parent": (peaks[0] - start) >> 10, "child": peaks[1] >> 10}))
"""


@pytest.mark.parametrize("name", hostile.ARMED)
def test_what_can_run_a_command_does_so_where_pickle_reads_it(name, tmp_path):
    path = hostile.HOSTILE[name](tmp_path)
    with contextlib.suppress(Exception), path.open("rb") as file:
        pickle.load(file)
    assert (tmp_path / "canary").exists()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Every hostile file, opened by one process: what was said of each, how much the process grew, and its
    largest child, in MB.
    """
    paths = {}
    for name, write in hostile.HOSTILE.items():
        folder = tmp_path_factory.mktemp(name)
        paths[name] = str(write(folder))
    command = [sys.executable, "-c", OPEN_ALL, str(CHILD_MB)]
    done = subprocess.run(
        command, input=json.dumps(paths), capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"paths": paths}


@pytest.mark.parametrize("name", hostile.HOSTILE)
def test_a_hostile_file_is_one_clear_error_and_runs_nothing(name, opened):
    folder = Path(opened["paths"][name])
    folder = folder.parent if folder.is_file() else folder
    assert not (folder / "canary").exists()
    assert not (folder.parent / "canary").exists()
    message = opened["said"][name]
    assert message.isprintable() and message.startswith(str(folder)) and len(message) < 600, message
    assert "; " in message, "says what to do"


def test_hostile_files_are_many_and_take_little_memory(opened):
    assert len(opened["said"]) == len(hostile.HOSTILE) > 100
    assert opened["parent"] < PARENT_MB
    assert opened["child"] < CHILD_MB


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("os_system", "posix.system"),
        ("builtins_exec", "builtins.exec"),
        ("getattr_chain", "builtins.getattr"),
        ("dotted_name", "collections.OrderedDict.__init__.__globals__"),
        ("behind_lightning", "os.system"),
        ("torch_os_system", "posix.system"),
        ("torch_zip_slip", "outside its folder"),
        ("torch_deflate_bomb", "compressed"),
        ("torch_overlapping_members", "overlap"),
        ("torch_one_storage_often", "share"),
        ("torch_storage_longer_than_its_member", "not all there"),
        ("stack_of_maps", f"{CHILD_MB} MB"),
        ("holds_itself", "nested"),
        ("laughs", "nested"),
        ("numpy_bomb_in_the_call", "without its numbers"),
        ("numpy_bomb_in_the_state", "needs"),
        ("msgpack_map_of_billions", "4294967295"),
        ("msgpack_nested", "deep"),
        ("safetensors_overlap", "overlap"),
        ("safetensors_index_out_of_its_folder", "no safetensors file of its folder"),
        ("safetensors_wide_header", "more lists"),
        ("gguf_long_list", "elements"),
        ("steps_without_end", "steps"),
        ("shape_of_fifty_axes", "no shape"),
        ("frozen_dict_of_os_system", "os.system"),
        ("torch_encrypted", "encrypted"),
        ("torch_member_twice", "twice"),
        ("msgpack_two_million_nothings", "parts"),
        ("safetensors_names_without_end", "names"),
        ("msgpack_names_of_17_megabytes", "short names"),
        ("safetensors_number_of_4000_digits", "4000 digits"),
        ("safetensors_index_of_a_pipe", "not a file"),
    ],
)
def test_the_error_says_what_is_wrong(name, word, opened):
    assert word in opened["said"][name]


def test_a_pickle_that_takes_steps_without_end_is_left_early(tmp_path, monkeypatch):
    monkeypatch.setattr("ringvision.weights.readers.unpickler.MOST_STEPS", 1000)
    path = tmp_path / "long.pkl"
    path.write_bytes(b"\x80\x02" + b"N0" * 1000 + b".")
    source = WeightsFile(path)
    with pytest.raises(UserError, match="more than 1000 steps"):
        table(source, "pickle", 0, source.size)
    source.close()


def test_texts_of_a_gguf_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr("ringvision.weights.readers.gguf.ALL_TEXT_BYTES", 1000)
    keys = b"".join(
        hostile.gguf_text(f"k{n}") + struct.pack("<I", 8) + hostile.gguf_text("x" * 400) for n in range(3)
    )
    path = hostile.of_gguf(0, 3, keys)(tmp_path)
    with pytest.raises(UserError, match="too many of them"):
        open_tensors(path)


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="is not a file"):
        open_tensors(tmp_path / "pipe.safetensors")


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(hostile.safetensors({"w": hostile.fields(1 << 16, end=1 << 18)}, bytes(1 << 18)))
    with open_tensors(path) as tensors:
        with path.open("r+b") as file:
            file.truncate(1 << 12)
        with pytest.raises(UserError, match="grew shorter"):
            tensors.read("w")


def test_the_pickle_process_takes_away_from_itself_what_it_does_not_need(tmp_path):
    """Memory, time and files; processes, unless it is root's; and, where the system lets it, the network."""
    code = (
        "import json, os, resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from ringvision.weights.readers.child import limit_process\n"
        "limit_process(512 << 20)\n"
        "names = ['RLIMIT_AS', 'RLIMIT_CPU', 'RLIMIT_CORE', 'RLIMIT_FSIZE', 'RLIMIT_NPROC']\n"
        "print(json.dumps([resource.getrlimit(getattr(resource, name))[1] for name in names]))\n"
        "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('no memory')\n"
        "try:\n    os.write(os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY), b'x')\nexcept "
        "OSError:\n    print('no file')\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(Path(__file__).parents[2]), str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    limits, *said = done.stdout.splitlines()
    assert json.loads(limits) == [512 << 20, 120, 0, 0, 0]
    assert said == ["no memory", "no file"]


def test_a_good_pickle_is_read_in_little_memory(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"w": np.arange(1 << 22, dtype=np.float32)}))
    with open_tensors(path, memory=1) as tensors:
        assert tensors.read("w")[-1] == (1 << 22) - 1
