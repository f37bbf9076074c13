import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringvision.data.tokenized import (
    FORMATS,
    FolderMetadata,
    TokenizedVideo,
    code_dtype,
    format_named,
    format_of,
)
from ringvision.errors import UserError

ROOT = Path(__file__).parents[3]


def an_example(number=0, frames=3, grid=(4, 4), dtype=np.uint16, **changed):
    random = np.random.default_rng(number)
    known = {
        "source": f"/videos/{number}.mp4",
        "sha256": hashlib.sha256(bytes([number])).hexdigest(),
        "codes": random.integers(0, 1000, (frames, *grid)).astype(dtype),
        "times": np.arange(frames) / 29.97,
        "fps": 30000 / 1001,
        "size": 64,
        "tokenizer": "stand-in",
        "caption": f"caption {number}",
        "qa": (("what?", "that"), ("where?", "there")),
    }
    return TokenizedVideo(**known | changed)


def plain(example):
    known = dataclasses.asdict(example)
    return {
        **known,
        "codes": (example.codes.dtype.name, example.codes.shape, example.codes.tobytes()),
        "times": (example.times.dtype.name, example.times.tobytes()),
    }


@pytest.fixture(params=sorted(FORMATS))
def form(request):
    return FORMATS[request.param]


def shard_of(form, folder, examples, shard=0):
    path = Path(folder) / form.file_name(shard)
    form.write(path, [form.encode(example) for example in examples])
    return path


text = st.text(
    st.characters(), max_size=8
)  # surrogates as well: they are in names of files that are no UTF-8


@st.composite
def examples(draw):
    dtype = draw(st.sampled_from([np.uint16, np.uint32]))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(3))
    cells = st.lists(
        st.integers(0, np.iinfo(dtype).max), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))
    )
    finite = st.floats(allow_nan=False, allow_infinity=False)
    return TokenizedVideo(
        source=draw(text),
        sha256=draw(text),
        codes=np.array(draw(cells), dtype).reshape(shape),
        times=np.array(draw(st.lists(finite, min_size=shape[0], max_size=shape[0])), np.float64),
        fps=draw(finite),
        size=draw(st.integers(1, 2**31 - 1)),
        tokenizer=draw(text),
        caption=draw(text),
        qa=tuple(draw(st.lists(st.tuples(text, text), max_size=3))),
    )


@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=60, deadline=None)
@given(example=examples())
def test_an_example_comes_back_to_the_bit(name, example):
    form = FORMATS[name]
    record = form.encode(example)
    assert plain(form.decode(record)) == plain(example)
    assert form.encode(form.decode(record)) == record


def test_records_are_read_by_their_places(form, tmp_path):
    known = [
        an_example(number, frames=1 + number % 3, qa=(("q", "a"),) * (number % 3)) for number in range(7)
    ]
    path = shard_of(form, tmp_path, known)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert form.count(path) == 7
    for places in ([], [6], [5, 0, 5, 3], range(7), None):
        found = [form.decode(record) for record in form.read(path, places)]
        assert [plain(example) for example in found] == [
            plain(known[place]) for place in (range(7) if places is None else places)
        ]
    assert list(form.stream(path)) == form.read(path)
    for places in ([7], [-1], [0, 99]):
        with pytest.raises(UserError, match="holds 7 records"):
            form.read(path, places)


def test_one_record_is_read_without_the_others(form, tmp_path):
    """A byte that is damaged in one record does not keep the others from being read."""
    known = [an_example(number, frames=400) for number in range(3)]
    path = shard_of(form, tmp_path, known)
    whole = path.read_bytes()
    seen = set()
    for place in np.flatnonzero(np.frombuffer(whole, np.uint8))[::997]:
        held = bytearray(whole)
        held[place] ^= 1
        path.write_bytes(held)
        readable = []
        for number, example in enumerate(known):
            try:
                assert plain(form.decode(form.read(path, [number])[0])) == plain(example)
                readable.append(number)
            except UserError:
                pass
        seen.add(tuple(readable))
    assert {(0, 1), (0, 2), (1, 2)} <= seen


def test_an_empty_shard_is_a_shard(form, tmp_path):
    path = shard_of(form, tmp_path, [])
    assert (form.count(path), form.read(path), list(form.stream(path))) == (0, [], [])
    assert format_of(tmp_path) is form


def test_a_shard_is_written_over_what_was_there(form, tmp_path):
    path = shard_of(form, tmp_path, [an_example(number, frames=50) for number in range(9)])
    shard_of(form, tmp_path, [an_example(1)])
    once = path.read_bytes()
    assert form.count(path) == 1
    path.unlink()
    assert shard_of(form, tmp_path, [an_example(1)]).read_bytes() == once


def test_every_process_writes_the_same_bytes(form, tmp_path):
    """Field order in a protocol buffer, and in a set, may follow a hash that differs from process to
    process.
    """
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "data" / "tokenized")!r})
from test_formats import FORMATS, FolderMetadata, an_example, shard_of
form = FORMATS[{form.name!r}]
shard_of(form, sys.argv[1], [an_example(number, dtype="uint32") for number in range(5)], 3)
form.write_metadata(sys.argv[1], FolderMetadata([0, 0, 0, 5], (4, 4), 70000, "written twice"))
"""
    folders = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", code, folder],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(seed + 1)},
        )
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert one == two
    assert len(one) == {"array_record": 3, "jsonl": 2}[form.name]


def test_names_of_shards_sort_by_number(form, tmp_path):
    assert (
        form.file_name(12)
        == {"array_record": "videos-train.array_record-00012", "jsonl": "videos-train-00012.jsonl"}[form.name]
    )
    for shard in (100000, 99999, 2):
        shard_of(form, tmp_path, [an_example()], shard)
    (tmp_path / f".{form.file_name(3)}.partial").write_bytes(b"")
    assert [path.name for path in form.shards(tmp_path)] == [
        form.file_name(shard) for shard in (2, 99999, 100000)
    ]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"codes": np.zeros((3, 4, 4), np.int32)}, "int32"),
        ({"codes": np.zeros((3, 16), np.uint16)}, r"\[3, 16\]"),
        ({"codes": np.zeros((0, 4, 4), np.uint16), "times": np.zeros(0)}, r"\[0, 4, 4\]"),
        ({"times": np.zeros(2)}, "3 frames"),
        ({"times": np.array([0, 1, np.inf])}, "finite"),
    ],
)
def test_what_is_no_example_is_refused(form, changed, word):
    with pytest.raises(UserError, match=word):
        form.encode(an_example(**changed))


def test_code_dtype_and_names():
    assert [code_dtype(count).name for count in (2, 65536, 65537)] == ["uint16", "uint16", "uint32"]
    assert [format_named(name).name for name in ("array_record", "jsonl")] == ["array_record", "jsonl"]
    with pytest.raises(UserError, match="array_record, jsonl"):
        format_named("parquet")


@pytest.mark.parametrize("damage", ["cut", "flip", "replace"])
def test_a_damaged_shard_is_told(form, tmp_path, damage):
    """Whatever was done to the file: the records of before, or a UserError; never other records."""
    known = [an_example(number, frames=20) for number in range(4)]
    path = shard_of(form, tmp_path, known)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    told = 0
    # where something is: ArrayRecord pads to 64 KiB with zeros that nothing reads
    places = np.flatnonzero(np.frombuffer(whole, np.uint8))
    for round in range(150):
        held = bytearray(whole)
        if damage == "cut":
            held = held[: random.integers(len(held)) if round else 0]
        elif damage == "flip":
            held[random.choice(places)] ^= 1 << int(random.integers(8))
        else:
            start = int(random.choice(places))
            held[start : start + 30] = random.bytes(30)
        path.write_bytes(held)
        try:
            found = [plain(form.decode(record)) for record in form.read(path)]
            assert found == [plain(example) for example in known][: len(found)]
            assert len(found) == form.count(path)
            # a text file that was cut between two records is one of fewer records; the manifest and the
            # metadata know how many
            assert len(found) == 4 or (form.name, damage) == ("jsonl", "cut")
        except UserError as error:
            told += len(str(error).splitlines())
        for reading in (form.count, lambda path: list(form.stream(path))):
            with contextlib.suppress(UserError):
                reading(path)
    assert 100 <= told <= 150


def test_what_is_no_shard_is_told(form, tmp_path):
    path = tmp_path / form.file_name(0)
    for contents in (
        b"",
        b"hello\n" * 100,
        bytes(1 << 17),
        b"\xff" * 70000,
        b'{"part": [1, 2], "fields": "vision"}\n',
    ):
        path.write_bytes(contents)
        if form.name == "jsonl" and not contents:
            continue
        for reading in (form.read, form.count, lambda path: list(form.stream(path))):
            with pytest.raises(UserError, match="damaged or of another format"):
                reading(path)
    path.unlink()
    with pytest.raises(UserError, match="no file"):
        form.read(path)
    os.mkfifo(path)
    with pytest.raises(UserError, match="no file"):
        form.count(path)
    for record in (b"", b"\0", b"{}", b"[" * 100_000, b"\n\n", b"\x0a\x05hello"):
        with pytest.raises(UserError, match="damaged"):
            form.decode(record)


def test_a_disk_that_cannot_be_written_is_told(form, tmp_path):
    records = [form.encode(an_example(frames=100))] * 30
    for path in (tmp_path / "missing" / form.file_name(0), tmp_path):
        with pytest.raises(UserError, match="cannot be written"):
            form.write(path, records)
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests" / "data" / "tokenized")!r})
from test_formats import FORMATS, UserError, an_example
form = FORMATS[{form.name!r}]
records = [form.encode(an_example(frames=1000))] * 30
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    form.write(sys.argv[1], records)
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "full"], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert "cannot be written" in done.stdout


def test_a_folder_tells_its_format(tmp_path):
    with pytest.raises(UserError, match="no shard"):
        format_of(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        format_of(tmp_path / "missing")
    shard_of(FORMATS["jsonl"], tmp_path, [])
    assert format_of(tmp_path).name == "jsonl"
    shard_of(FORMATS["array_record"], tmp_path, [])
    with pytest.raises(UserError, match="array_record and jsonl"):
        format_of(tmp_path)


def test_metadata_is_replaced_as_a_whole(form, tmp_path):
    assert form.num_codes(tmp_path) is None
    form.write_metadata(tmp_path, FolderMetadata([0], (4, 4), 1000))
    (tmp_path / ".metadata.partial").mkdir()
    (tmp_path / ".metadata.partial" / "features.json").write_text("of a run that was killed")
    form.write_metadata(tmp_path, FolderMetadata([2, 0, 1], (16, 16), 262144, "more of it"))
    assert form.num_codes(tmp_path) == 262144
    assert len(list(tmp_path.iterdir())) == {"array_record": 2, "jsonl": 1}[form.name]
    for path in tmp_path.iterdir():
        path.write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        form.num_codes(tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        form.write_metadata(tmp_path / "missing", FolderMetadata([0], (4, 4), 1000))


@pytest.fixture(scope="module")
def two_folders(tmp_path_factory):
    """root/videos/1.0.0 and another folder, the way tfds lays data sets out; an empty shard among them; what
    they hold.
    """
    root = tmp_path_factory.mktemp("tfds")
    form = FORMATS["array_record"]
    held = []
    for folder, numbers in (
        (root / "videos" / "1.0.0", ([0, 1, 2], [], [3, 4])),
        (root / "more", ([5], [6, 7])),
    ):
        folder.mkdir(parents=True)
        for shard, chosen in enumerate(numbers):
            known = [an_example(number, qa=(("q", "a"),) * (number % 3)) for number in chosen]
            shard_of(form, folder, known, shard)
            held += known
        lengths = [len(chosen) for chosen in numbers]
        form.write_metadata(folder, FolderMetadata(lengths, (4, 4), 1000, "two folders"))
    return root, held


def child(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, cwd=ROOT, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def test_tfds_reads_it_without_tensorflow(two_folders):
    root, held = two_folders
    found = child(
        """
import json, sys
import tensorflow_datasets as tfds

root = sys.argv[1]

def said(example):
    texts = [example[name].decode() for name in ("source", "caption", "tokenizer")]
    codes = [example["codes"].tolist(), str(example["codes"].dtype)]
    numbers = [*codes, example["times"].tolist(), float(example["fps"]), example["size"]]
    return [texts, numbers, [text.decode() for text in example["qa"]["question"]]]

builder = tfds.builder_from_directory(root + "/videos/1.0.0")
one = builder.as_data_source("train")
both = tfds.builder_from_directories([root + "/videos/1.0.0", root + "/more"])
ways = {
    "builder_from_directory": [said(one[place]) for place in (4, 0, 3, 1, 2)],
    "slice": [said(example) for example in builder.as_data_source("train[2:4]")],
    "data_source": [said(example) for example in tfds.data_source("videos", split="train", data_dir=root)],
    "builder_from_directories": [said(example) for example in both.as_data_source("train")],
}
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
info = builder.info
told = [info.description, info.splits["train"].num_examples, int(info.dataset_size)]
print(json.dumps({**ways, "info": told}))
""",
        str(root),
    )
    known = [
        [
            [example.source, example.caption, example.tokenizer],
            [example.codes.tolist(), "uint16", example.times.tolist(), example.fps, example.size],
            [question for question, _ in example.qa],
        ]
        for example in held
    ]
    assert found["builder_from_directory"] == [known[place] for place in (4, 0, 3, 1, 2)]
    assert found["slice"] == known[2:4]
    assert found["data_source"] == known[:5]
    assert found["builder_from_directories"] == known
    size = sum(path.stat().st_size for path in (root / "videos" / "1.0.0").glob("*.array_record-*"))
    assert found["info"] == ["two folders", 5, size]


def test_grain_reads_it_by_place_without_tensorflow(two_folders):
    root, held = two_folders
    found = child(
        """
import json, sys
import grain
from ringvision.data.tokenized import FORMATS

form = FORMATS["array_record"]
shards = [str(path) for path in form.shards(sys.argv[1] + "/videos/1.0.0")]
source = grain.sources.ArrayRecordDataSource(shards)
shuffled = grain.MapDataset.source(source).shuffle(seed=1).map(form.decode)
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
print(json.dumps({
    "straight": [form.decode(source[place]).source for place in (4, 0)],
    "codes": form.decode(source[4]).codes.tolist(),
    "shuffled": [shuffled[place].source for place in range(len(shuffled))],
}))
""",
        str(root),
    )
    assert found["straight"] == [held[4].source, held[0].source]
    assert found["codes"] == held[4].codes.tolist()
    assert sorted(found["shuffled"]) == [example.source for example in held[:5]]


def as_lwm_reads(line, flags, tokenize):
    """Tokens, loss mask and vision mask of a line, by what LWM's json_vision loader does with one."""
    line = json.loads(line)
    tokens = []
    losses = []
    vision = []
    for field in line[flags["fields_from_example"]].split(","):
        bare = field.strip("[]")
        assert field in (bare, f"[{bare}]")
        if "vision" in bare:
            codes = line[bare]
            frame = flags["n_tokens_per_frame"]
            assert codes and len(codes) % frame == 0
            parts = []
            for start in range(0, len(codes), frame):
                last = start + frame == len(codes)
                parts += [*codes[start : start + frame], flags["eov_token"] if last else flags["eof_token"]]
        else:
            parts = tokenize("+".join(line[part] for part in bare.split("+")))
        tokens += parts
        losses += [field == bare] * len(parts)
        vision += ["vision" in bare] * len(parts)
    return tokens, losses, vision


def test_lwm_trains_on_the_lines(tmp_path):
    form = FORMATS["jsonl"]
    asked = an_example(0, frames=2, grid=(2, 2), qa=(("où?\n", "là"), ("why, [then]?", "so")))
    path = shard_of(
        form,
        tmp_path,
        [asked, an_example(1, frames=2, grid=(2, 2), qa=()), an_example(2, grid=(2, 2), qa=(), caption="")],
    )
    form.write_metadata(tmp_path, FolderMetadata([3], (2, 2), 1000))
    flags = json.loads((tmp_path / "tokens.json").read_text())["vision_text_processor"]
    lines = path.read_text("ascii").splitlines()
    assert len(lines) == 4

    def tokenize(text):
        return list(text.encode())

    a, b = asked.codes.reshape(2, 4).tolist()
    for line, (question, answer) in zip(lines, asked.qa):
        tokens, losses, vision = as_lwm_reads(line, flags, tokenize)
        before = tokenize(question)
        after = tokenize(answer)
        assert tokens == [*before, *a, 1000, *b, 1001, *after]
        assert losses == [False] * (len(before) + 10) + [True] * len(after)
        assert vision == [False] * len(before) + [True] * 10 + [False] * len(after)
    tokens, losses, _ = as_lwm_reads(lines[2], flags, tokenize)
    assert tokens[10:] == tokenize("caption 1") and losses == [False] * 10 + [True] * 9
    tokens, losses, _ = as_lwm_reads(lines[3], flags, tokenize)
    assert len(tokens) == 15 and all(losses)


def test_importing_formats_is_cheap():
    code = (
        "import sys, ringvision.data.tokenized as f; print(any(n in sys.modules for n in "
        "('tensorflow_datasets', 'array_record', 'jax')))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
        ).stdout
        == "False\n"
    )
