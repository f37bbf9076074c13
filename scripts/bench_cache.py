"""What a cache takes in memory while a long video is read into it, and how long a session of it takes.

    python scripts/bench_cache.py [--tokens 68400] [--cache-dtype int8] [--folder DIR]

A transformer of the shipped model's shape with random weights, one CPU device. The cache is filled as if all
tokens but the last two blocks had been read, and these are read: every page of it is touched, and an hour's
prefill takes as much. Then the prefix is saved to a folder and loaded from it. Memory is what the process has
resident beyond what it had when everything was compiled, sampled every 3 ms; one JSON object on stdout, in
MiB and seconds.
"""

import argparse
import ctypes
import gc
import json
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ringvision import model_folder, shipped
from ringvision.infer.engine import Engine, Prefix, Rows
from ringvision.infer.model import Model
from ringvision.infer.sessions import Sessions
from ringvision.mesh import make_mesh
from ringvision.models.cache import DTYPES
from ringvision.models.transformer import Transformer, TransformerConfig

MIB = 1 << 20


class Resident:
    """The most that the process had resident since `reset`, beyond what it had then."""

    def __init__(self) -> None:
        self.reset()
        threading.Thread(target=self._watch, daemon=True).start()

    def reset(self) -> None:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is given back
        self._start = self._most = self._now()

    @property
    def most(self) -> int:
        """Bytes."""
        return max(self._most, self._now()) - self._start

    @staticmethod
    def _now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def _watch(self) -> None:
        while True:
            time.sleep(0.003)
            self._most = max(self._most, self._now())


def filled(engine: Engine, rows: Rows, tokens: int) -> None:
    """Lets the rows be as if so many tokens had been read."""
    cache = rows.cache
    ones = {
        name: x | 1 if jnp.issubdtype(x.dtype, jnp.integer) else x + 1
        for name, x in cache.parts.items()
        if name not in ("positions", "segment_ids")
    }
    positions = jnp.arange(cache.length, dtype=jnp.int32)[None]
    segment_ids = (positions < tokens).astype(jnp.int32)
    fill = jnp.full((1, 1), tokens, jnp.int32)
    rows.cache = replace(cache, **ones, positions=positions, segment_ids=segment_ids, fill=fill)
    jax.block_until_ready(rows.cache)
    rows.lengths[:] = tokens
    rows._fill[:] = tokens


def main() -> None:
    """Reads the options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=68_400)
    parser.add_argument("--cache-dtype", choices=DTYPES, default="float32")
    parser.add_argument("--folder", help="where the session is written (a temporary folder)")
    options = parser.parse_args()
    shape = model_folder.read_config(shipped.model())["transformer"] | {"max_length": options.tokens + 1}
    config = TransformerConfig.from_dict(shape)
    params = nnx.split(Transformer(config, rngs=nnx.Rngs(0)))[1]
    model = Model(config, None, params, make_mesh(context=1, devices=jax.devices()[:1]))
    engine = Engine(model, cache_dtype=options.cache_dtype)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, options.tokens).astype(np.int32)
    slots = engine.slots_for(len(tokens), blocks=engine.blocks)

    rows = Rows(engine, 1, slots, blocks=engine.blocks)
    for block in engine.blocks:
        rows.read({0: tokens[:block]})
    filled(engine, rows, 0)
    rows.read({0: tokens[:block]})
    del rows
    resident = Resident()
    rows = Rows(engine, 1, slots, blocks=engine.blocks)
    before = len(tokens) - 2 * engine.blocks[0]
    filled(engine, rows, before)
    rows_bytes = rows.cache.nbytes
    gc.collect()
    resident._most = resident._now()  # filling takes more than reading
    rows.read({0: tokens[before:]})
    rows.cache.k.block_until_ready()
    result = {
        "slots": rows.cache.length,
        "cache": rows_bytes / MIB,
        "used": rows_bytes / rows.cache.length * len(tokens) / MIB,
        "prefill": resident.most / MIB,
    }

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sessions = Sessions(folder)
        prefix = Prefix(rows.cache, tokens, 1)
        began = time.perf_counter()
        sessions.save(engine, {}, prefix)
        result["save_seconds"] = time.perf_counter() - began
        result["file"] = sessions.nbytes / MIB
        del rows, prefix
        resident.reset()
        began = time.perf_counter()
        loaded = sessions.load(engine, {})
        result["load_seconds"] = time.perf_counter() - began
        result["load"] = resident.most / MIB
        assert loaded is not None
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()
