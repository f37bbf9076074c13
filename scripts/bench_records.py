"""Text as a source of training: how long opening a file takes, reading a document anywhere in it, and filling
a row.

    python scripts/bench_records.py [--megabytes 500]

Writes documents of a few hundred words to a temporary folder in every format, opens each, and reads documents
in random order. Times are of the processor, not of the clock, and medians of three rounds. Prints the machine
and a Markdown table.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
from machine import machine
from pyarrow import parquet

from ringvision import shipped
from ringvision.data.loader import Loader
from ringvision.data.records import open_records
from ringvision.data.sources import DataConfig, TextData
from ringvision.data.stream import PromptProcessor
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.vocabulary import Vocabulary

WORDS = Path(__file__).read_text().split()
READS = 500
ROUNDS = 3


def write(folder: Path, megabytes: int) -> dict[str, Path]:
    """The same documents in every format."""
    chance = random.Random(0)
    texts = list[str]()
    size = 0
    while size < megabytes << 20:
        texts.append(" ".join(chance.choices(WORDS, k=chance.randrange(20, 600))))
        size += len(texts[-1])
    paths = {name: folder / f"a.{name}" for name in ("jsonl", "jsonl.gz", "parquet", "arrow")}
    with open(paths["jsonl"], "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    with open(paths["jsonl"], "rb") as file, gzip.open(paths["jsonl.gz"], "wb", compresslevel=6) as packed:
        shutil.copyfileobj(file, packed)
    table = pyarrow.table({"text": texts})
    parquet.write_table(table, paths["parquet"])
    with pyarrow.OSFile(str(paths["arrow"]), "wb") as to, pyarrow.ipc.new_stream(to, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return paths


def seconds(action: Callable[[], Any]) -> float:
    """Of the processor, the median of the rounds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def read_some(path: Path) -> float:
    """Seconds a document, in random order."""
    records = open_records(str(path), columns=("text",))
    chance = random.Random(1)
    order = [chance.randrange(len(records)) for _ in range(READS)]
    return seconds(lambda: [records.read(index) for index in order]) / READS


def fill_rows(path: Path, length: int) -> float:
    """Seconds a row of a lane, tokenizing included, by the shipped model's text tokenizer."""
    text = load_text_tokenizer(shipped.model())
    assert text.bos is not None and text.eos is not None
    processor = PromptProcessor(text, Vocabulary.of_text(text.size, text.bos, text.eos))
    source = TextData(str(path))
    data = DataConfig(sources=(source,), length=length, rows=1)
    lane = Loader(data, [source.open(processor, length)], processor).lane(0)
    rows = max(8, 100_000 // length)
    return seconds(lambda: [lane.next_row() for _ in range(rows)]) / rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500, help="of text")
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        print(json.dumps(machine(["numpy", "pyarrow", "grain"])))
        print("\n| file | MB | opening, s | a document, ms |\n|---|---|---|---|")
        paths = write(Path(folder), megabytes)
        for name, path in paths.items():
            start = time.process_time()
            open_records(str(path), columns=("text",))  # the first time, when Parquet is copied
            opening = time.process_time() - start
            size = path.stat().st_size >> 20
            print(f"| {name} | {size} | {opening:.2f} | {read_some(path) * 1e3:.3f} |", flush=True)
        for length in (512, 8192):
            took = fill_rows(paths["jsonl"], length) * 1e3
            print(f"\nA row of {length} tokens from {paths['jsonl'].name}: {took:.2f} ms.")


if __name__ == "__main__":
    main()
