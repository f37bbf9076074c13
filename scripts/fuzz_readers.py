"""Changes good files at random and reads them as a stranger's: what comes of it must be a UserError or what
was read, nothing else.

    python scripts/fuzz_readers.py [--reader NAME …] [--seconds 600] [--seed 0]

Starts from the files of tests/fixtures (run it in a checkout). Where atheris is installed (pip install
atheris; it needs nothing of this package), it steers the changes of binary files by what they make the reader
do, and a finding is left in the working folder; else changes are drawn at random. Pickles are gone over in
this process, where any error is seen; tokenizers and templates in theirs. Prints for each reader how many
files were read, how many of them were whole, the longest time of one, and the memory that it took. Exit code
1 on any other exception, a file that takes more than 10 seconds, or more than 1 GB of memory.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from byte_changes import changes

os.environ.setdefault("JAX_PLATFORMS", "cpu")
with contextlib.suppress(ImportError):
    import atheris

steered = "atheris" in globals()
with (
    atheris.instrument_imports(include=["ringvision.weights.readers", "ringvision.data"])
    if steered
    else contextlib.nullcontext()
):
    from ringvision.data.text.chat_template import ChatTemplate
    from ringvision.data.text.isolation.client import IsolatedTokenizer
    from ringvision.errors import UserError
    from ringvision.weights.importing import import_weights
    from ringvision.weights.readers import child, pickle, torch
    from ringvision.weights.readers.weights_file import WeightsFile
    from ringvision.weights.tensors import open_tensors

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
SECONDS = 10
MEMORY = 1 << 30
LARGEST_SEED = 1 << 16
NUMBERS = [
    n.to_bytes(width, order)
    for width in (1, 2, 4, 8)
    for n in (0, 1, 127, 128, 255)
    for order in ("little", "big")
]
NUMBERS += [b"\xff" * width for width in (2, 4, 8)] + [b"\x7f" + b"\xff" * width for width in (3, 7)]
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**31,
    2**63,
    10**30,
    "",
    "x",
    "(a+)+$",
    "\x00",
    [],
    {},
    [[]],
    {"": 0},
    ["a"] * 99,
    1e308,
]
TEMPLATES = [
    "{{ messages[0].content }}",
    "{% for m in messages %}{{ m.role | upper }}{% if loop.last %}x{% endif %}{% endfor %}",
]
WORDS = (
    "{{ }} {% %} {# #} for in if else endfor endif macro endmacro call set namespace "
    "messages loop range 9999 * ** ~ | . ( ) [ ] , "
)
WORDS += (
    "attr format join map list upper tojson __class__ self raise_exception cycler import "
    "include extends recursive 'a' 1 -1 = : {}"
)


def seed_files(*patterns: str) -> list[bytes]:
    """The heads of fixtures that are small, and of those that are not."""
    found = [path for pattern in patterns for path in sorted(FIXTURES.glob(pattern))]
    assert found, patterns
    return [path.read_bytes()[:LARGEST_SEED] for path in found]


def small_files() -> dict[str, list[bytes]]:
    """A small whole file of each binary kind, written by its own library where fixtures are large."""
    import pickle as written

    import flax.serialization
    import msgpack
    import numpy as np
    import sentencepiece
    from safetensors.numpy import save

    layer = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2, np.float16)}
    tree = {"layer": layer, "step": np.int32(3)}
    stream = b"".join(
        msgpack.packb([["p", name], flax.serialization.to_bytes(array)]) for name, array in layer.items()
    )
    index = {"metadata": {"total_size": 32}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    model = Path(tempfile.mkdtemp(), "m")
    lines = iter(["What colour is the circle? It is red.", "a deep  blue sea of 1234 words"] * 20)
    options: dict[str, Any] = {
        "sentence_iterator": lines,
        "model_prefix": str(model),
        "vocab_size": 300,
        "byte_fallback": True,
    }
    sentencepiece.SentencePieceTrainer.Train(**options, model_type="bpe", minloglevel=3)
    pieces = Path(f"{model}.model").read_bytes()
    shutil.rmtree(model.parent)
    return {
        "safetensors": [
            save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.int8)}, {"format": "np"})
        ],
        "index": [json.dumps(index).encode()],
        "flax-msgpack": [flax.serialization.to_bytes(tree)],
        "streaming-msgpack": [stream],
        "pickle": [written.dumps(tree, protocol) for protocol in (2, 4, 5)]
        + seed_files("lwm_vqgan_pickles/*.pkl"),
        "torch": seed_files("torch_files/*.pt", "torch_files/*.ckpt"),
        "gguf": [small_gguf()],
        "config": [],
        "tokenizer.json": [json.dumps(small_tokenizer()).encode()],
        "tokenizer.model": [pieces],
        "template": [template.encode() for template in TEMPLATES],
    }


def small_gguf() -> bytes:
    import gguf
    import numpy as np

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        writer = gguf.GGUFWriter(file.name, "llama")
        writer.add_uint32("llama.block_count", 3)
        writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
        writer.add_tensor("a", np.ones((2, 32), np.float32))
        writer.add_tensor("b", np.ones(8, np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Path(file.name).read_bytes()


def small_tokenizer() -> dict[str, Any]:
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = {
        "id": 4,
        "content": "<e>",
        "single_word": False,
        "lstrip": True,
        "rstrip": True,
        "normalized": False,
        "special": True,
    }
    split = {"type": "Split", "pattern": {"Regex": r"\s+|\w+"}, "behavior": "Isolated", "invert": False}
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
    return {
        "version": "1.0",
        "added_tokens": [added],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, replace]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, step]},
        "decoder": step,
        "model": {
            "type": "BPE",
            "unk_token": None,
            "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3},
            "merges": [["a", "b"]],
        },
    }


class Reading:
    """Reads what is handed to it as a file of one kind; `count` of them, `whole` of which were read,
    `longest` seconds for one.
    """

    def __init__(self, kind: str, scratch: Path) -> None:
        self.kind = kind
        self.scratch = scratch
        self.template = ChatTemplate("")
        self.count = 0
        self.whole = 0
        self.longest = 0.0
        self.clock = not steers(kind)  # atheris has a clock of its own
        if self.clock:
            signal.signal(signal.SIGALRM, _late)
        names = {
            "index": "model.safetensors.index.json",
            "tokenizer.json": "tokenizer.json",
            "tokenizer.model": "tokenizer.model",
        }
        self.path = scratch / names.get(kind, "weights")
        if kind == "index":
            import numpy as np
            from safetensors.numpy import save_file

            for number, (name, file) in enumerate((("a", "one"), ("b", "two"))):
                save_file({name: np.full(4, number, np.float32)}, str(scratch / f"{file}.safetensors"))
        pickle.table_of = torch.table_of = self.table_of

    def table_of(
        self, source: WeightsFile, memory: int, kind: str, offset: int = 0, end: int | None = None
    ) -> dict[str, Any]:
        """What the reader's process would answer, read in this one, where the fuzzer sees it."""
        table = child.table(source, kind, offset, source.size if end is None else end)
        return dict(json.loads(json.dumps(table)))

    def one(self, data: bytes) -> None:
        began = time.monotonic()
        if self.clock:
            signal.alarm(SECONDS)
        try:
            self.read(data)
            self.whole += 1
        except UserError:
            pass
        except BaseException:
            Path(f"finding-{self.kind}").write_bytes(data)
            raise
        finally:
            if self.clock:
                signal.alarm(0)
            self.count += 1
            self.longest = max(self.longest, time.monotonic() - began)

    def read(self, data: bytes) -> None:
        if self.kind == "template":
            self.template.source = data.decode(errors="replace")
            self.template.render([{"role": "user", "content": "Hi"}])
            return
        self.path.write_bytes(data)
        if self.kind.startswith("tokenizer"):
            text = IsolatedTokenizer(self.path)
            text.decode(text.encode_marked("What is a 12 <e> caf\u00e9?"))
            return
        with open_tensors(self.path) as tensors:
            for name, spec in tensors.specs.items():
                array = tensors.read(name)
                assert (array.shape, array.dtype.name) == (spec.shape, spec.dtype)

    def config(self, folder: Path, draw: random.Random) -> None:
        """The folder of a fixture with its config changed."""
        copy = self.scratch / folder.name
        if not copy.exists():
            shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.npz", "*.md"))
        (copy / "config.json").write_bytes(changed_json((folder / "config.json").read_bytes(), draw))

        def read(_: bytes) -> Any:
            return import_weights(copy, self.scratch / "none", dry_run=True)

        self.read = read  # type: ignore[method-assign]
        self.one(b"")


def _late(*_: object) -> None:
    raise AssertionError(f"a file that takes more than {SECONDS} seconds")


def steers(kind: str) -> bool:
    """Whether atheris is there, and the changes of this kind are such as it makes."""
    return steered and kind not in ("config", "tokenizer.json", "tokenizer.model", "template")


def changed(data: bytes, draw: random.Random) -> bytes:
    """`data` with one to six places flipped, overwritten, filled in, cut out, doubled or cut off."""
    for _ in range(draw.choice([1, 1, 1, 2, 4, 6])):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.randrange(40))
        number = draw.choice(NUMBERS)
        bit = bytes([data[start] ^ 1 << draw.randrange(8)]) if start < len(data) else b""
        ways = changes(data, start, end, number, bit)
        data = draw.choice(ways)
    return data


def changed_json(data: bytes, draw: random.Random) -> bytes:
    """A file of JSON with one to three of its values replaced, removed, doubled or moved; seldom with some of
    its bytes changed.
    """
    if draw.random() < 0.1:
        return changed(data, draw)
    whole = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        part = whole
        inner = whole
        while isinstance(inner, dict | list) and inner and (inner is whole or draw.random() < 0.7):
            part = inner
            key = draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            inner = part[key]
        if part is inner:
            continue
        ways = [draw.choice(VALUES), [inner, inner], whole, inner * 3 if isinstance(inner, int | str) else 1]
        part[key] = deepcopy(draw.choice(ways))
        if draw.random() < 0.1:
            del part[key]
    return json.dumps(whole).encode()


def changed_template(data: bytes, draw: random.Random) -> bytes:
    words = WORDS.split()
    pieces = data.decode(errors="replace").split(" ")
    for _ in range(draw.randint(1, 6)):
        pieces.insert(draw.randrange(len(pieces) + 1), draw.choice(words))
    return draw.choice([" ", ""]).join(pieces).encode() if draw.random() < 0.9 else changed(data, draw)


def fuzz(kind: str, seconds: float, seed: int, scratch: Path) -> None:
    reading = Reading(kind, scratch)
    seeds = small_files()[kind]
    draw = random.Random(seed)
    if kind != "config":
        for data in seeds:
            reading.one(data)
        assert reading.whole, "a good file is read"
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if steers(kind):
        corpus = scratch / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds):
            (corpus / str(number)).write_bytes(data)
        limits = [
            f"-max_total_time={int(seconds)}",
            f"-timeout={SECONDS}",
            f"-rss_limit_mb={(start >> 10) + (MEMORY >> 20)}",
        ]
        print(f"{kind}: steered by atheris", flush=True)
        atheris.Setup(
            [sys.argv[0], *limits, f"-seed={seed + 1}", f"-max_len={LARGEST_SEED}", str(corpus)], reading.one
        )
        atheris.Fuzz()  # ends this process
    until = time.monotonic() + seconds
    folders = sorted(path.parent for path in FIXTURES.rglob("config.json"))
    change: Callable[[bytes, random.Random], bytes] = {
        "tokenizer.json": changed_json,
        "template": changed_template,
    }.get(kind, changed)
    while time.monotonic() < until:
        if kind == "config":
            reading.config(draw.choice(folders), draw)
        else:
            reading.one(change(draw.choice(seeds), draw))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) >> 10
    said = {
        "reader": kind,
        "files": reading.count,
        "whole": reading.whole,
        "longest_s": round(reading.longest, 2),
        "grown_mb": grown,
    }
    print(json.dumps(said), flush=True)
    assert grown < MEMORY >> 20, "memory"


def main() -> int:
    kinds = [*small_files()]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--reader", action="append", choices=kinds, help="one of them, or several; all where it is left out"
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = options.reader or kinds
    if len(chosen) == 1:
        with tempfile.TemporaryDirectory() as scratch:
            fuzz(chosen[0], options.seconds, options.seed, Path(scratch))
        return 0
    same = ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    done = [subprocess.run([sys.executable, __file__, "--reader", kind, *same]).returncode for kind in chosen]
    return int(any(done))


if __name__ == "__main__":
    sys.exit(main())
