"""Files with a few bytes changed, lost or put in: each record is read or refused in one line."""

import gzip
import json
import random
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ringvision.data.records import open_records
from ringvision.errors import UserError

ROWS = pyarrow.table(
    {
        "text": [f"row {n}, größer" * (n % 5) if n % 7 else None for n in range(40)],
        "messages": [[{"role": "user", "content": f"{n}"}] * (n % 3) for n in range(40)],
    }
)


def whole(name: str) -> bytes:
    """A good file of this name."""
    if name == "a.parquet":
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(ROWS, sink, row_group_size=16)
        return sink.getvalue().to_pybytes()
    if name == "a.arrow":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, ROWS.schema) as writer:
            writer.write_table(ROWS, max_chunksize=16)
        return sink.getvalue().to_pybytes()
    lines = "".join(json.dumps({"text": f"row {n}", "messages": []}) + "\n" for n in range(40)).encode()
    return gzip.compress(lines) if name.endswith(".gz") else lines


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four changes."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(changed) - 64)
        match chance.randrange(4):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at : at + 4] = chance.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"])
            case 2:
                del changed[at : at + chance.randrange(1, 32)]
            case 3:
                changed[at:at] = chance.randbytes(chance.randrange(1, 32))
    return bytes(changed)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl", "a.jsonl.gz"])
def test_damage_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    chance = random.Random(0)
    good = whole(name)
    path = tmp_path / name
    read = 0
    refusals = list[str]()
    for _ in range(60):
        path.write_bytes(damaged(good, chance))
        try:
            records = open_records(str(path), columns=("text", "messages"))
            for index in range(len(records)):
                try:
                    records.read(index)
                    read += 1
                except UserError as error:
                    refusals.append(str(error))
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 20 and (read > 100 or name.endswith(".gz"))
    assert not any("\n" in refusal for refusal in refusals)
