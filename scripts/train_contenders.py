"""The contenders of bench_train.py, each in a process of its own that sleeps while the others run.

    python scripts/train_contenders.py ringvision WORK      the checkout that is on PYTHONPATH
    python scripts/train_contenders.py transformers WORK    Hugging Face's Llama, by torch

WORK is `short` (8 rows of 512 tokens) or `long` (one of 8,192): a Llama of 20.45 million parameters,
float32, AdamW with gradients clipped; or `demo`: the step of configs/demo.py, Muon and a moving average, on
rows of 512 packed with examples of 100 to 400 tokens; ringvision alone has it.

In, on stdin: a line of JSON, the number of steps, each time. Out, on stdout: `{"ready": versions,
"parameters", "tokens" of a step}` first, then for each line `{"seconds" and "processor" of a step, "peak"
bytes resident since the first step, "loss"}`. All cores are used by each: ringvision by two CPU devices,
which share the rows (`data=2`) or the one row (`context=2`), torch by a thread a core.
"""

import argparse
import contextlib
import importlib.metadata
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VOCABULARY = 8192
LAYERS = 8
WIDTH = 384
HEADS = 6
HIDDEN = 1024
DEVICES = 2
SIZES = {"short": (8, 512), "long": (1, 8192), "demo": (6, 512)}
"""Rows and tokens of a row."""
LEARNING_RATE = 1e-4


class Trainer(NamedTuple):
    """step: one step on a new batch; it may give its loss before it is done. parameters: how many."""

    step: Callable[[], Any]
    parameters: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("who", choices=CONTENDERS)
    parser.add_argument("work", choices=SIZES)
    options = parser.parse_args()
    trainer = CONTENDERS[options.who](options.work)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of what comes, not of compiling
    rows, length = SIZES[options.work]
    versions = {name: importlib.metadata.version(name) for name in NEEDS[options.who]}
    ready = {"ready": versions, "parameters": trainer.parameters, "tokens": rows * length}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        steps = json.loads(line)
        began = time.perf_counter()
        processor = time.process_time()
        losses = [trainer.step() for _ in range(steps)]
        last = float(losses[-1])  # waits for it
        result = {
            "seconds": (time.perf_counter() - began) / steps,
            "processor": (time.process_time() - processor) / steps,
            "peak": _peak(),
            "loss": last,
        }
        print(json.dumps(result), flush=True)


def _peak() -> int:
    """The most bytes that were resident since it was last set to what is (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _ringvision(work: str) -> Trainer:
    memory = None
    with contextlib.suppress(ImportError):  # an earlier checkout has no such module
        from ringvision.train import memory

        memory.keep_freed_memory()  # what `ringvision train` does before anything else
    from ringvision.cli.devices import start_jax

    start_jax(DEVICES)
    import jax
    from flax import nnx

    from ringvision.mesh import make_mesh
    from ringvision.models.transformer import Transformer
    from ringvision.train.inputs import batch_sharder
    from ringvision.train.part import Part
    from ringvision.train.state import optimizer, shardings, start
    from ringvision.train.step import compile_step

    config = _config(work)
    mesh = make_mesh(**{"context" if work == "long" else "data": DEVICES})
    tx = optimizer(config)

    def first() -> Any:
        _, params = nnx.split(Transformer(config.model, rngs=nnx.Rngs(0)))
        if "average" in inspect.signature(start).parameters:  # an earlier checkout
            return start(params, tx, average=config.optimizer.ema > 0)
        return start(params, tx, config)

    state = jax.jit(first, out_shardings=shardings(jax.eval_shape(first), mesh))()
    step_fn = compile_step(Part(config, config.model.code_offset), tx, config, mesh, state)
    put = batch_sharder(config, mesh)
    random = np.random.default_rng(0)

    def step() -> jax.Array:
        nonlocal state
        state, metrics = step_fn(state, put(_batch(random, work, config.model.vocab_size)))
        loss = metrics["loss"]
        return loss.total / loss.weight if hasattr(loss, "total") else loss

    step()
    if memory is not None:
        memory.give_back_freed_memory()  # as train/loop.py does after the first step

    return Trainer(step, sum(leaf.size for leaf in jax.tree.leaves(state.params)))


def _config(work: str) -> Any:
    """The demo's, or with the Llama in its place. A TrainConfig."""
    from ringvision.config import OptimizerConfig, load_config
    from ringvision.models.presets import TransformerConfig

    config = load_config("demo")
    if work == "demo":
        return config
    rows, length = SIZES[work]
    heads = (HEADS, HEADS, WIDTH // HEADS)
    remat: Any = "dots" if work == "long" else "none"
    model = TransformerConfig(VOCABULARY, WIDTH, LAYERS, *heads, HIDDEN, max_length=length, remat=remat)
    return replace(
        config,
        model=model,
        data=replace(config.data, rows=rows, length=length),
        optimizer=OptimizerConfig(kind="adamw", lr=LEARNING_RATE, warmup_steps=1, ema=0),
        loss_chunk=128 if work == "short" else 512,
    )


def _batch(random: np.random.Generator, work: str, vocabulary: int) -> Any:
    """Random tokens; in the demo's rows one example after another until the next does not fit."""
    from ringvision.data.packing import Batch

    rows, length = SIZES[work]
    tokens = random.integers(1, vocabulary, (rows, length), dtype=np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    segment_ids = np.ones((rows, length), np.int32)
    if work == "demo":
        segment_ids[:] = 0
        for row in range(rows):
            first = 0
            while (size := min(int(random.integers(100, 400)), length - first)) >= 20:
                positions[row, first : first + size] = np.arange(size)
                segment_ids[row, first : first + size] = segment_ids[row].max() + 1
                first += size
    weights = (segment_ids > 0).astype(np.float32) / length
    return Batch(tokens, np.roll(tokens, -1, axis=1), positions, segment_ids, weights)


def _transformers(work: str) -> Trainer:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows, length = SIZES[work]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=length,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model: Any = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    def step() -> float:
        tokens = torch.randint(1, VOCABULARY, (rows, length))
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return Trainer(step, sum(parameter.numel() for parameter in model.parameters()))


CONTENDERS: dict[str, Callable[[str], Trainer]] = {
    "ringvision": _ringvision,
    "transformers": _transformers,
}
NEEDS = {"ringvision": ("jax", "jaxlib", "flax", "optax"), "transformers": ("torch", "transformers")}

if __name__ == "__main__":
    main()
