"""Readers on mutated and on made-up files: a UserError, or what was read has the shape and the type that was
said; nothing else.
"""

import io
import json
import pickle
import pickletools
import struct
import sys
import zipfile
from pathlib import Path

import flax.serialization
import hostile
import msgpack
import numpy as np
import pytest
from gguf_writer import write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from ringvision.errors import UserError
from ringvision.weights.readers import child
from ringvision.weights.readers.unpickler import ACTIONS
from ringvision.weights.readers.weights_file import WeightsFile
from ringvision.weights.tensors import open_tensors

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from byte_changes import changes

EXAMPLES = 300
FIXTURES = Path(__file__).parents[1] / "fixtures"
TREE = {
    "layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2, np.float16)},
    "step": np.int32(3),
}


def _stream() -> bytes:
    return b"".join(
        msgpack.packb([["params", name], flax.serialization.to_bytes(array)])
        for name, array in TREE["layer"].items()
    )


def _chunked() -> bytes:
    pieces = {str(n): hostile.extension((3,), "float32", bytes(12)) for n in range(2)}
    return msgpack.packb(
        {"w": {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 3}, "chunks": pieces}}
    )


VALID = {
    "safetensors": save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.int8)}, {"format": "np"}),
    "flax-msgpack": flax.serialization.to_bytes(TREE),
    "flax-msgpack, in pieces": _chunked(),
    "streaming-msgpack": _stream(),
    "pickle": pickle.dumps(TREE, protocol=4),
    "pickle, old": pickle.dumps(TREE, protocol=2),
    "torch": (FIXTURES / "torch_files/module.pt").read_bytes(),
    "torch, legacy": (FIXTURES / "torch_files/legacy.pt").read_bytes(),
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Pickles are gone over here, where a test sees any error that is not a UserError, and in no time. What
    is lost: the limits.
    """

    def table_of(
        source: WeightsFile, memory: int, kind: str, offset: int = 0, end: int | None = None
    ) -> dict:
        return json.loads(json.dumps(child.table(source, kind, offset, source.size if end is None else end)))

    monkeypatch.setattr("ringvision.weights.readers.pickle.table_of", table_of)
    monkeypatch.setattr("ringvision.weights.readers.torch.table_of", table_of)


def read_all(path: Path) -> int:
    """How many tensors could be read; UserError is what may be raised."""
    try:
        with open_tensors(path) as tensors:
            for name, spec in tensors.specs.items():
                array = tensors.read(name)
                assert (array.shape, array.dtype.name) == (spec.shape, spec.dtype)
            return len(tensors.specs)
    except UserError as error:
        said = str(error)
    assert said.isprintable()
    return 0


NUMBERS = st.one_of(
    st.binary(min_size=1, max_size=9),
    st.sampled_from(
        [
            struct.pack(kind, number)
            for kind in ("<Q", ">Q", "<I", ">I")
            for number in (0, 1, 255, 2**31, 2**32 - 1)
        ]
    ),
)


@st.composite
def mutations(draw, data: bytes) -> bytes:
    """`data` with one to six of its places changed by a bit, overwritten, cut out, doubled or filled in,
    perhaps cut off.
    """
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4, 6]))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        piece = draw(NUMBERS)
        flipped = bytes([data[start] ^ 1 << draw(st.integers(0, 7))]) if start < len(data) else b""
        changed = changes(data, start, end, piece, flipped)
        data = draw(st.sampled_from(changed))
    return data


@pytest.mark.parametrize("kind", VALID)
def test_a_mutated_file_is_read_or_is_an_error(kind, scratch):
    path = scratch / "weights"
    path.write_bytes(VALID[kind])
    assert read_all(path) > 1 or kind.endswith("in pieces")
    read = []

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
    @given(mutations(VALID[kind]))
    def mutated(data):
        path.write_bytes(data)
        read.append(read_all(path))

    mutated()
    assert 0 in read and max(read) > 0, "some files were refused and some were read"


def test_a_mutated_gguf_is_read_or_is_an_error(scratch):
    path = scratch / "weights.gguf"
    keys = [
        ("add_uint32", "llama.block_count", 3),
        ("add_array", "tokens", ["a", "b"]),
        ("add_float32", "eps", 0.5),
    ]
    write_gguf(path, {"a": (np.ones((2, 32), np.float32), None), "b": (np.ones(8, np.float16), None)}, keys)
    valid = path.read_bytes()
    read = []

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
    @given(mutations(valid))
    def mutated(data):
        path.write_bytes(data)
        read.append(read_all(path))

    mutated()
    assert 0 in read and max(read) == 2


NAMES = st.sampled_from(
    [
        b"numpy\nndarray\n",
        b"numpy\ndtype\n",
        b"numpy.core.multiarray\n_reconstruct\n",
        b"numpy.core.multiarray\nscalar\n",
        b"_codecs\nencode\n",
    ]
    + [
        b"numpy.core.numeric\n_frombuffer\n",
        b"collections\nOrderedDict\n",
        b"flax.core.frozen_dict\nFrozenDict\n",
        b"ml_dtypes\nbfloat16\n",
    ]
    + [
        b"jax._src.array\n_reconstruct_array\n",
        b"torch._utils\n_rebuild_tensor_v2\n",
        b"torch\nFloatStorage\n",
        b"omegaconf.x\nY\n",
        b"os\nsystem\n",
    ]
)
ARGUMENTS = {
    b"c": NAMES,
    **{
        opcode: st.binary(max_size=20).map(lambda data: struct.pack("<B", len(data)) + data)
        for opcode in (b"\x8c", b"C", b"\x8a")
    },
    **{
        opcode: st.binary(max_size=20).map(lambda data: struct.pack("<I", len(data)) + data)
        for opcode in (b"X", b"B")
    },
    **{
        opcode: st.binary(max_size=20).map(lambda data: struct.pack("<Q", len(data)) + data)
        for opcode in (b"\x8d", b"\x8e", b"\x96")
    },
    **{
        opcode: st.integers(0, 5).map(lambda number: bytes([number]))
        for opcode in (b"q", b"h", b"K", b"\x80")
    },
    **{
        opcode: st.integers(0, 5).map(lambda number: struct.pack("<I", number))
        for opcode in (b"r", b"j", b"J")
    },
    **{
        b"M": st.binary(min_size=2, max_size=2),
        b"G": st.binary(min_size=8, max_size=8),
        b"\x95": st.binary(min_size=8, max_size=8),
    },
}
STEPS = st.sampled_from(sorted(ACTIONS)).flatmap(
    lambda opcode: ARGUMENTS.get(opcode, st.just(b"")).map(lambda argument: opcode + argument)
)


@settings(max_examples=2 * EXAMPLES, deadline=None, derandomize=True)
@given(st.lists(STEPS, min_size=1, max_size=40).map(b"".join), st.booleans())
def test_any_row_of_opcodes_ends_well(scratch, steps, torch):
    path = scratch / "opcodes"
    if torch:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("a/data.pkl", b"\x80\x02" + steps + b".")
            file.writestr("a/data/0", bytes(16))
        path.write_bytes(buffer.getvalue())
    else:
        path.write_bytes(b"\x80\x04" + steps + b".")
    read_all(path)


def test_the_opcodes_are_a_part_of_pythons_and_none_of_those_that_make_objects():
    known = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
    assert set(ACTIONS) < set(known)
    unread = {known[opcode] for opcode in set(known) - set(ACTIONS)}
    assert {
        "INST",
        "OBJ",
        "NEWOBJ_EX",
        "EXT1",
        "EXT2",
        "EXT4",
        "NEXT_BUFFER",
        "READONLY_BUFFER",
        "PERSID",
    } <= unread


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b"",
            b"\x80\x04",
            b"PK\x03\x04",
            b"GGUF\x03\0\0\0",
            b"\x92\x91",
            b"\x81\xa1w",
            b"\x40\0\0\0\0\0\0\0{",
        ]
    ),
)
def test_any_bytes_end_well(scratch, data, start):
    path = scratch / "bytes"
    path.write_bytes(start + data)
    read_all(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["F32", "BF16", "w", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "w", "__metadata__"]), inner, max_size=4
        )
    ),
)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.sampled_from(["w", "v", "__metadata__", "\ud800", ""]), JSON, min_size=1, max_size=3),
    st.booleans(),
)
def test_any_header_of_safetensors_ends_well(scratch, header, index):
    path = scratch / ("model.safetensors.index.json" if index else "header")
    path.write_bytes(
        json.dumps({"weight_map": header}).encode() if index else hostile.safetensors(header, bytes(16))
    )
    read_all(path)
