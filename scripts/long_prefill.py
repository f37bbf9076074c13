"""Prefill of up to a million tokens: that it completes, what it takes, and what a device needs for its share.

    python scripts/long_prefill.py read --tokens 1048576 --devices 2 --cache-dtype bfloat16
    python scripts/long_prefill.py compile --tokens 65536 131072 262144 524288 1048576

The shape of a model (--model; the shipped one) with random weights, and a stream as it reads it: frames after
a few words. `read` goes through it with the engine, in blocks, and then takes 16 words of a question;
`compile` compiles a block of it for one device and as many tokens more as there are devices more, and reads
XLA's analysis of memory: what a device holds (weights, its share of the cache) and what it needs besides for
a block that looks at the whole cache, and for one that looks no further back than the video's tokens see,
where that is not everything. One JSON object a line on stdout.
"""

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from machine import machine

from ringvision import model_folder, shipped
from ringvision.infer.engine import Engine, Rows, _read
from ringvision.infer.model import Model
from ringvision.mesh import make_mesh
from ringvision.models.cache import DTYPES, Cache, shardings
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.vocabulary import Vocabulary

MIB = 1 << 20
WORDS = 16


def model_of(folder: Path, tokens: int, devices: int) -> tuple[Model, Vocabulary]:
    """The shape of the model in this folder, random, for so many tokens."""
    settings = model_folder.read_config(folder)
    config = TransformerConfig.from_dict(settings["transformer"] | {"max_length": tokens + WORDS})
    params = nnx.split(Transformer(config, rngs=nnx.Rngs(0)))[1]
    mesh = make_mesh(context=devices, devices=jax.devices()[:devices])
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    return Model(config, None, params, mesh), Vocabulary.from_dict(settings["vocabulary"])


def stream_of(length: int, period: int, vocabulary: Vocabulary) -> np.ndarray:
    """int32 [length]: words, then frames of a video."""
    random = np.random.default_rng(0)
    tokens = random.integers(vocabulary.text_size, vocabulary.size, length).astype(np.int32)
    place = np.arange(length) % period
    codes = random.integers(vocabulary.text_size, vocabulary.text_size + vocabulary.num_codes, length)
    tokens = np.where(place >= 2, codes, tokens).astype(np.int32)
    if vocabulary.stamps:
        codes = np.where(place < period - 2, codes, vocabulary.size + np.arange(length) // period % 3600)
        tokens = np.where(place < period - 1, codes, vocabulary.eof).astype(np.int32)
    tokens[:WORDS] = random.integers(5, vocabulary.text_size, WORDS)
    return tokens


def read(folder: Path, length: int, devices: int, cache_dtype: str) -> dict:
    """Goes through so many tokens, then through a question."""
    model, vocabulary = model_of(folder, length, devices)
    engine = Engine(model, cache_dtype=cache_dtype)
    tokens = stream_of(length, model.config.frame_period or 19, vocabulary)
    began, worked = time.perf_counter(), time.process_time()

    def progress(done: int, of: int) -> None:
        if done % (64 * 1024) == 0 or done == of:
            print(f"{done:,} of {of:,}: {time.perf_counter() - began:.0f} s", file=sys.stderr)

    prefix = engine.prefill(tokens, progress=progress)
    seconds, work = time.perf_counter() - began, time.process_time() - worked
    rows = Rows(engine, 1, engine.slots_for(WORDS), prefix=prefix)
    rows.read({0: tokens[:WORDS]})
    assert rows.logits is not None and np.isfinite(np.asarray(rows.logits)).all()
    return {
        "tokens": length,
        "devices": devices,
        "cache_dtype": cache_dtype,
        "seconds": round(seconds, 1),
        "processor_seconds": round(work, 1),
        "cache_mib": round(prefix.nbytes / MIB),
        "resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def compiled(folder: Path, length: int, devices: int, cache_dtype: str) -> dict:
    """What the compiler says that a device needs for one block with a cache of so many tokens."""
    model, _ = model_of(folder, length, devices)
    engine = Engine(model, cache_dtype=cache_dtype)
    block = engine.blocks[0]
    cache = jax.eval_shape(lambda: Cache.empty(model.config, 1, length, model.mesh, engine.cache_dtype))
    places = shardings(model.mesh)
    placed = {
        name: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=getattr(places, name))
        for name, part in vars(cache).items()
        if part is not None
    }
    cache = replace(cache, **placed)
    names = "tokens", "positions", "segment_ids"
    inputs = {name: jax.ShapeDtypeStruct((1, block), jnp.int32) for name in names}
    inputs |= {"last": jax.ShapeDtypeStruct((1,), jnp.int32)}
    inputs |= {"before": jax.ShapeDtypeStruct((1, model.config.vocab_size), jnp.float32)}
    found: dict[str, Any] = {"tokens": length, "devices": devices, "cache_dtype": cache_dtype}
    code = np.array([model.config.code_offset])
    for reach in dict.fromkeys((None, model.config.reach(code))):
        function = engine.of_model(_read, "wc", ids=(0, model.config.vocab_size), reach=reach)
        memory = function.lower(model.params, cache=cache, **inputs).compile().memory_analysis()
        found["held_mib"] = round(memory.argument_size_in_bytes / MIB, 1)
        name = "temporary_mib" if reach is None else f"temporary_within_{reach}_mib"
        found[name] = round(memory.temp_size_in_bytes / MIB, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["read", "compile"])
    parser.add_argument("--model", type=Path, help="whose shape it has: a model folder (the shipped one)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2**20])
    parser.add_argument("--devices", type=int, default=2, help="to read on")
    parser.add_argument("--cache-dtype", choices=DTYPES, default="float32")
    options = parser.parse_args()
    ring = [length // min(options.tokens) for length in options.tokens]
    jax.config.update("jax_num_cpu_devices", max(ring) if options.what == "compile" else options.devices)
    print(json.dumps(machine(["jax", "jaxlib", "flax"])), flush=True)
    folder = options.model or shipped.model()
    for length, devices in zip(options.tokens, ring):
        if options.what == "read":
            result = read(folder, length, options.devices, options.cache_dtype)
        else:
            result = compiled(folder, length, devices, options.cache_dtype)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
