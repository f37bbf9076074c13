"""The loss and the gradients of a training step on every mesh of eight devices, against those of one device.

    python scripts/train_meshes.py [--processes 2] [--json]

All factorisations of 8 over the five axes of a mesh (ringvision/mesh.py), 35 of them, on eight devices of a
CPU; with --processes 2, each process has four of them and arrays travel between the two by gloo. The model is
small, and its sizes are divided by all of these. A gradient's difference is relative to the largest element
of the same parameter's gradient on one device, the loss's to the loss. Exit status 1 where one is above 1e-5.
"""

import argparse
import functools
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.config import TrainConfig
from ringvision.data.packing import Batch, pack
from ringvision.data.sources import DataConfig, TokenizedData
from ringvision.data.stream import Example
from ringvision.mesh import AXES, make_mesh, sharding
from ringvision.models.presets import TransformerConfig
from ringvision.models.transformer import Transformer
from ringvision.ops.layout_choice import choose_layout
from ringvision.train.part import Part
from ringvision.train.state import optimizer, shardings, start
from ringvision.train.step import Gradients, gradients
from ringvision.tree import flatten

TOLERANCE = 1e-5
DEVICES = 8
ROWS = 8
LENGTH = 64
CODE_OFFSET = 64
MODEL = TransformerConfig(
    vocab_size=96,
    embed_dim=32,
    num_layers=2,
    num_heads=16,
    num_kv_heads=8,
    head_dim=4,
    hidden_dim=48,
    max_length=LENGTH,
    frame_period=5,
    code_offset=CODE_OFFSET,
)
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
"""Most of the time is compilation."""


@dataclass(frozen=True)
class Found:
    """What a step computes: the loss, and the gradient of each parameter, float32, whole."""

    loss: float
    gradients: dict[str, np.ndarray]


def meshes(devices: int) -> list[dict[str, int]]:
    """All ways to write `devices` as a product of one size for each axis of a mesh."""
    divisors = [size for size in range(1, devices + 1) if devices % size == 0]
    sizes = itertools.product(divisors, repeat=len(AXES))
    return [dict(zip(AXES, chosen, strict=True)) for chosen in sizes if math.prod(chosen) == devices]


def config() -> TrainConfig:
    """A run of the small model; nothing of its data is opened."""
    data = DataConfig((TokenizedData("none"),), LENGTH, ROWS, text_model="none", tokenizer="none")
    return TrainConfig(name="meshes", out="none", model=MODEL, data=data, steps=1000, loss_chunk=16)


def batch() -> Batch:
    """Rows of two documents each; the last three rows have but one and are padding behind it."""
    random = np.random.default_rng(0)
    sizes = [LENGTH - 24, 24] * (ROWS - 3) + [LENGTH - 20] * 3
    examples = []
    for size in sizes:
        mask = (random.random(size) < 0.5).astype(np.float32)
        mask[-1] = 1
        examples.append(Example(random.integers(0, 96, size).astype(np.int32), mask, float(size % 3 + 1)))
    return pack(examples, LENGTH, ROWS)


def on_mesh(axes: dict[str, int], devices: list[jax.Device] | None = None) -> Found:
    """What a step computes on a mesh of these sizes, the batch in the layout that suits it."""
    return _found(make_mesh(**{"context": 1, **axes}, devices=devices))


@functools.cache
def on_one_device() -> Found:
    """What a step computes on the first device of this process."""
    return _found(make_mesh(context=1, devices=jax.local_devices()[:1]))


def _found(mesh: Mesh) -> Found:
    run = config()
    part = Part(run, CODE_OFFSET)
    whole = _params()
    params = jax.tree.map(_spread, whole, shardings(whole, mesh))
    state = jax.eval_shape(lambda: start(params, optimizer(run), run))

    def of(params: Any, batch: Batch) -> Gradients:
        return gradients(replace(state, params=params), batch, part=part, config=run, mesh=mesh)

    found = jax.jit(of, out_shardings=NamedSharding(mesh, PartitionSpec()))(params, _put(mesh))
    return Found(
        _value(found.loss).item(), {name: _value(leaf) for name, leaf in flatten(found.of_params).items()}
    )


def _value(array: jax.Array) -> np.ndarray:
    """One that is whole on every device, of several processes."""
    return np.asarray(array.addressable_data(0))


@functools.cache
def _params() -> Any:
    """Of the model, as numpy arrays; twice as large as they are drawn, so that attention is less even and
    what reaches a wrong token shows.
    """
    params = jax.jit(lambda: nnx.split(Transformer(MODEL, rngs=nnx.Rngs(0)))[1])()
    return jax.tree.map(lambda x: 2 * np.asarray(x), params)


def _put(mesh: Mesh) -> Batch:
    arrays = batch()
    if mesh.shape["context"] > 1:
        chosen = choose_layout(arrays.segment_ids, arrays.positions, devices=mesh.shape["context"])
        arrays = jax.tree.map(lambda x: np.take_along_axis(x, chosen.order, 1), arrays)
        arrays = replace(arrays, segment_ids=chosen.segment_ids)
    place = sharding(mesh, "batch", "length")
    return jax.tree.map(lambda x: _spread(x, place), arrays)


def _spread(array: np.ndarray, place: NamedSharding) -> jax.Array:
    """One that every process has whole -> its shares on the devices of all of them."""
    return jax.make_array_from_callback(array.shape, place, lambda index: array[index])


def largest_difference(found: Found, expected: Found) -> float:
    """Of the loss and of any element of a gradient, relative as the module's docstring says."""
    worst = abs(found.loss - expected.loss) / abs(expected.loss)
    for name, gradient in expected.gradients.items():
        difference = np.abs(found.gradients[name] - gradient).max() / np.abs(gradient).max()
        worst = max(worst, float(difference))
    return worst


def compare() -> list[dict[str, Any]]:
    """Every mesh with its largest difference and the seconds it took."""
    expected = on_one_device()
    rows = []
    for axes in meshes(DEVICES):
        began = time.monotonic()
        difference = largest_difference(on_mesh(axes), expected)
        named = ",".join(f"{axis}={size}" for axis, size in axes.items() if size > 1)
        rows.append({"mesh": named, "difference": difference, "seconds": round(time.monotonic() - began, 1)})
        if jax.process_index() == 0:
            print(f"{named:28} {difference:.1e}  {rows[-1]['seconds']:5.1f} s", file=sys.stderr, flush=True)
    return rows


def _on_processes(count: int) -> list[dict[str, Any]]:
    """The same, on `count` processes of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    commands = [
        [
            sys.executable,
            __file__,
            "--processes",
            str(count),
            "--process",
            str(number),
            "--coordinator",
            address,
        ]
        for number in range(count)
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        said = [process.communicate()[0] for process in running]
    finally:
        for process in running:
            process.kill()
    if any(process.returncode for process in running):
        raise SystemExit(f"the processes ended with {[process.returncode for process in running]}")
    return json.loads(said[0])


def main() -> int:
    """Read the command line, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES // arguments.processes)
    if arguments.process is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(arguments.coordinator, arguments.processes, arguments.process)
        print(json.dumps(compare()))
        return 0
    rows = compare() if arguments.processes == 1 else _on_processes(arguments.processes)
    worst = max(rows, key=lambda row: row["difference"])
    summary = {
        "processes": arguments.processes,
        "meshes": len(rows),
        "largest_difference": worst["difference"],
        "mesh": worst["mesh"],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }
    print(json.dumps(summary | {"rows": rows} if arguments.json else summary))
    return int(not worst["difference"] < TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
