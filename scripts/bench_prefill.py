"""Reading a long video with and without a window for its tokens: processor seconds of the prefill, block by
block, as the engine does it.

    python scripts/bench_prefill.py --lengths 16384 65536 --windows 256 none --json prefill.json

The model has the shape of a config (configs/demo.py), random parameters and one CPU device; what is timed is
`Transformer.extend` for blocks of tokens and nothing else, compiled before. Streams:

    video     codes alone
    stamped   frames whose times are words: two (the time), the codes of a frame, and its end

Every length is read `--repeats` times with each window, in turn, and the least time counts. Seconds are the
process', over all its threads; also those of the first block, for which the cache is empty, and of the last
one, for which it is full. Prints the machine and a Markdown table.
"""

import argparse
import json
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from machine import machine

from ringvision.models.cache import Cache
from ringvision.models.transformer import Transformer, TransformerConfig

CONFIG = Path(__file__).parents[1] / "configs" / "demo.py"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16384, 65536])
    parser.add_argument("--windows", nargs="+", default=["256", "none"], help="positions, or none")
    parser.add_argument("--streams", nargs="+", default=["video", "stamped"], choices=["video", "stamped"])
    parser.add_argument("--block", type=int, default=1024, help="tokens read at a time")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config: TransformerConfig = runpy.run_path(str(options.config))["config"].model
    about = machine(["jax", "jaxlib", "flax"])
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print("| stream | tokens | window | processor s | first block | last block |\n|---|---|---|---|---|---|")
    rows = []
    for stream in options.streams:
        for length in options.lengths:
            readers = {
                window: Reader(config, None if window == "none" else int(window), options.block)
                for window in options.windows
            }
            tokens = stream_of(stream, length, config)
            found: dict[str, list[tuple[float, ...]]] = {window: [] for window in readers}
            for _ in range(options.repeats):
                for window, reader in readers.items():
                    found[window].append(reader.read(tokens))
                    print(stream, length, window, found[window][-1], file=sys.stderr)
            for window, times in found.items():
                whole, first, last = (min(column) for column in zip(*times))
                rows.append(
                    {"stream": stream, "tokens": length, "window": window}
                    | {"seconds": whole, "first": first, "last": last}
                )
                print(
                    f"| {stream} | {length:,} | {window} | {whole:.1f} | {first:.3f} | {last:.3f} |",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=2))


def stream_of(kind: str, length: int, config: TransformerConfig) -> np.ndarray:
    """int32 [1, length]: tokens of a video."""
    random = np.random.default_rng(0)
    tokens = random.integers(config.code_offset, config.vocab_size, length, dtype=np.int32)
    if kind == "stamped":
        words = random.integers(0, config.code_offset, length, dtype=np.int32)
        tokens = np.where(np.arange(length) % config.frame_period < 2, words, tokens)
    return tokens[None]


class Reader:
    """A model whose `extend` is compiled for a block."""

    def __init__(self, config: TransformerConfig, window: int | None, block: int) -> None:
        self.config = replace(config, video_window=window)
        self.block = block
        graphdef, self.params = nnx.split(Transformer(self.config, rngs=nnx.Rngs(0)))

        def extend(params: Any, tokens: jax.Array, start: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
            positions = start + jnp.arange(block, dtype=jnp.int32)[None]
            hidden, cache = nnx.merge(graphdef, params).extend(
                tokens, positions, jnp.ones_like(positions), cache
            )
            return hidden[:, -1], cache

        self.extend = jax.jit(extend, donate_argnames="cache")

    def read(self, tokens: np.ndarray) -> tuple[float, ...]:
        """tokens int32 [1, L] -> processor seconds of all blocks, of the first and of the last one."""
        length = tokens.shape[1]
        _, cache = self.extend(
            self.params, tokens[:, : self.block], jnp.int32(0), Cache.empty(self.config, 1, length)
        )  # compiles
        cache = jax.block_until_ready(Cache.empty(self.config, 1, length))
        times = []
        for start in range(0, length, self.block):
            began = time.process_time()
            hidden, cache = self.extend(
                self.params, tokens[:, start : start + self.block], jnp.int32(start), cache
            )
            jax.block_until_ready((hidden, cache))
            times.append(time.process_time() - began)
        return sum(times), times[0], times[-1]


if __name__ == "__main__":
    main()
