"""The trainer's own step, compiled for a TPU pod by the TPU's compiler, without a TPU and without a weight.

    pip install '.[aot]'                      # libtpu
    python scripts/compile_for_pod.py v5e:4x4 --mesh context=16 --length 32768
    python scripts/compile_for_pod.py v5e:16x16 --mesh fsdp=16,context=16 --rows 16 --length 65536 --json

In: a topology as libtpu names it, a mesh, a preset, length and rows of a batch. Out: what a chip holds (the
arguments: parameters, optimizer and batch; the temporaries beside them), or by how much it does not fit, and
every collective of at least `--at-least` bytes: how often it runs in a step, what it moves, and whether other
work can run meanwhile. With --json one object on stdout:

    {"topology", "mesh", "preset", "layers", "length", "rows", "dtype", "compute_dtype", "remat", "optimizer",
     "loss_chunk", "compile_seconds", "fits", "error",
     "bytes_per_chip": {"arguments", "temporaries", "total"},
     "host_bytes": what remat=offload keeps in the host's memory, a chip,
     "collectives": [{"kind", "array", "bytes", "count", "times", "in_a_loop", "synchronous"}],
     "collective_bytes": bytes of all of them, times included, but for the permutes}

`bytes` is the size of the largest array that the collective takes or gives on one chip, so the whole array
for an all-gather and for a reduce-scatter. `times` counts every turn of the loops around it, where the
compiler knows how many there are. Both branches of a condition count, so permutes of a ring whose hops may be
skipped count more often than they run.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import Any

# libtpu asks a machine's metadata server and takes a lock unless it is told not to; any accelerator type lets
# it describe all topologies
os.environ.update(
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_ACCELERATOR_TYPE="v5litepod-8",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from ringvision.config import OptimizerConfig, TrainConfig
from ringvision.data.packing import Batch
from ringvision.data.sources import DataConfig, TokenizedData
from ringvision.mesh import make_mesh, parse_mesh, sharding
from ringvision.models.presets import PRESETS, TransformerConfig
from ringvision.models.remat import NAMES
from ringvision.train.initial_state import abstract_state
from ringvision.train.part import Part
from ringvision.train.state import optimizer
from ringvision.train.step import compile_step

MEGACORE = ("v4", "v5p")
"""Generations whose chips have two cores that JAX shows as one device."""
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?)\s([a-z][a-z0-9\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)\}?")
_OPERANDS = re.compile(r"\b([a-z]+\d+)\[([\d,]*)\]\S* %")


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind and one array. count: how many the program has. times: how often a step runs
    them.
    """

    kind: str
    array: str
    bytes: int
    count: int
    times: int
    in_a_loop: bool
    synchronous: bool


def lower_step(config: TrainConfig, topology: str, mesh: str, dtype: str) -> Any:
    """The train step of a config, lowered for a topology's devices from shapes alone.

    Args:
        config: its model, batch, optimizer and loss_chunk count.
        topology: as libtpu names it.
        mesh: as in a config.
        dtype: of parameters and optimizer.

    Returns:
        What `jax.jit(…).lower(…)` returns: `.compile()` it.

    Raises:
        UserError: the mesh does not fill the topology's devices.
    """
    options = {"chip_config_name": "megacore"} if topology.split(":")[0] in MEGACORE else {}
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    axes: dict[str, Any] = {**parse_mesh(mesh)}
    devices = make_mesh(**axes, devices=described.devices)
    part = Part(config, code_offset=0)
    tx = optimizer(config)
    state = jax.tree.map(_cast_to(dtype), abstract_state(config, tx, devices, part))
    spread = sharding(devices, "batch", "length")
    shape = (config.data.rows, config.data.length)
    whole = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=spread)
    weights = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=spread)
    batch = Batch(whole, whole, whole, whole, weights)
    return compile_step(part, tx, config, devices, state).lower(state, batch)


def _cast_to(dtype: str) -> Any:
    """A function that gives an abstract float array another dtype."""

    def cast(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        wanted = jnp.dtype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, wanted, sharding=leaf.sharding)

    return cast


def collectives(text: str, at_least: int = 1 << 20) -> list[Collective]:
    """`text`: `compiled.as_text()`. Those that move `at_least` bytes, the largest first.

    One that the compiler runs beside other work stands in several fusions (its start, its middle, its end) of
    one chain: it counts once.
    """
    computations = _computations(text)
    turns = _turns(computations)
    scheduled = _scheduled(computations)
    seen: dict[tuple[str, str], Collective] = {}
    for name, operations in computations.items():
        for operation, result, code, rest in operations:
            kind = code.removesuffix("-start")
            if kind not in KINDS or not turns[name]:
                continue
            known = (kind, _chain(rest)) if name not in scheduled else (kind, f"{name} {operation}")
            times = _group(rest) if kind == "reduce-scatter" else 1
            results = [
                (times * _bytes(dtype, sizes), f"{dtype}[{sizes}]") for dtype, sizes in _ARRAY.findall(result)
            ]
            given = [(_bytes(dtype, sizes), f"{dtype}[{sizes}]") for dtype, sizes in _OPERANDS.findall(rest)]
            largest, array = max(results + given, default=(0, ""))
            combined = (
                sum(size for size, _ in results) if code == kind else largest
            )  # several in one, as a tuple
            size = max(largest, combined)
            more = f" and {len(results) - 1} more" if code == kind and len(results) > 1 else ""
            synchronous = code == kind and name in scheduled
            if known not in seen or size > seen[known].bytes:
                seen[known] = Collective(
                    kind, array + more, size, 1, turns[name], turns[name] > 1, synchronous
                )
    counts: dict[Collective, list[int]] = defaultdict(lambda: [0, 0])
    for one in seen.values():
        if one.bytes >= at_least:
            counts[replace(one, times=0)][0] += 1
            counts[replace(one, times=0)][1] += one.times
    found = [replace(one, count=count, times=times) for one, (count, times) in counts.items()]
    return sorted(found, key=lambda one: -one.bytes * one.times)


def _computations(text: str) -> dict[str, list[tuple[str, str, str, str]]]:
    """Name -> its operations (name, result, code, rest); the entry's name is ''."""
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    current: list[tuple[str, str, str, str]] = []
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = found.setdefault("" if start[1] else start[2], [])
        elif operation := _OPERATION.match(line):
            current.append((operation[1], operation[2], operation[3], operation[4]))
    return found


def _scheduled(computations: dict[str, list[tuple[str, str, str, str]]]) -> set[str]:
    """The computations that the chip goes through one operation after another: the entry, and the bodies of
    loops and branches in it. What stands in a fusion runs beside other work.
    """
    found = {""}
    waiting = [""]
    while waiting:
        for _, _, code, rest in computations.get(waiting.pop(), ()):
            inner = set(_inner(rest)) - found if code in ("while", "conditional", "call") else set()
            found |= inner
            waiting += inner
    return found


def _inner(rest: str) -> list[str]:
    return [name for called in _CALLED.findall(rest) for name in re.findall(r"%([\w.\-]+)", called)]


def _turns(computations: dict[str, list[tuple[str, str, str, str]]]) -> dict[str, int]:
    """How often each computation runs in a step: the turns of all the loops around it. Of a loop whose bound
    is not a constant (the hops of a ring that may be skipped) one turn counts.
    """
    turns: dict[str, int] = defaultdict(int)

    def run(name: str, times: int, above: tuple[str, ...]) -> None:
        turns[name] += times
        for _, _, code, rest in computations.get(name, ()):
            if not (inner := [one for one in _inner(rest) if one not in above]):
                continue
            more = _bound(computations, rest) if code == "while" else 1
            for one in inner:
                run(one, times * more, (*above, one))

    run("", 1, ("",))
    return turns


def _bound(computations: dict[str, list[tuple[str, str, str, str]]], rest: str) -> int:
    """The constant that the condition of a loop compares its counter with; 1 where there is none."""
    condition = re.search(r"condition=%([\w.\-]+)", rest)
    operations = computations.get(condition[1], []) if condition else []
    constants = [
        int(number[1])
        for _, result, code, rest in operations
        if code == "constant" and result.startswith("s32[]") and (number := re.match(r"(\d+)\)", rest))
    ]
    return max(constants, default=1)


def _chain(rest: str) -> str:
    """What the fusions of one collective have in common."""
    found = [
        re.search(pattern, rest) for pattern in (r"channel_id=\d+", r'chain_id="\d+"', r'op_name="[^"]*"')
    ]
    return " ".join(one[0] for one in found if one)


def _group(rest: str) -> int:
    """How many devices take part: `replica_groups={{0,1,2,3},…}`, `mesh['axis_0'=2,…] {'axis_0'}`."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(listed[1].split(","))
    if named := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        sizes = dict(re.findall(r"('\w+')=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'\w+'", named[2]))
    return 1


def _bytes(dtype: str, sizes: str) -> int:
    return WIDTHS.get(dtype, 0) * math.prod(int(size) for size in sizes.split(",") if size)


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the module's docstring promises with --json."""
    model: TransformerConfig = PRESETS[arguments.preset]
    model = replace(
        model,
        num_layers=arguments.layers or model.num_layers,
        remat=arguments.remat or model.remat,
        max_length=max(model.max_length, arguments.length),
    )
    data = DataConfig(
        sources=(TokenizedData(folder="unused"),),
        text_model="unused",
        tokenizer="unused",
        length=arguments.length,
        rows=arguments.rows,
    )
    config = TrainConfig(
        name="pod",
        out="unused",
        model=model,
        data=data,
        steps=1000,
        optimizer=OptimizerConfig(kind=arguments.optimizer),
        loss_chunk=arguments.loss_chunk,
        compute_dtype=arguments.compute_dtype,
    )
    began = time.monotonic()
    said = {
        name: getattr(arguments, name) for name in ("topology", "mesh", "preset", "length", "rows", "dtype")
    }
    said |= {"layers": model.num_layers, "optimizer": arguments.optimizer, "loss_chunk": config.loss_chunk}
    said |= {"compute_dtype": config.compute_dtype, "remat": model.remat}
    try:
        compiled = lower_step(config, arguments.topology, arguments.mesh, arguments.dtype).compile()
    except jax.errors.JaxRuntimeError as error:
        seconds = round(time.monotonic() - began, 1)
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return said | {"compile_seconds": seconds, "fits": False, "error": str(error)}
    memory = compiled.memory_analysis()
    found = collectives(compiled.as_text(), arguments.at_least)
    sizes = {"arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes}
    return said | {
        "compile_seconds": round(time.monotonic() - began, 1),
        "fits": True,
        "error": None,
        "bytes_per_chip": sizes | {"total": sum(sizes.values())},
        "host_bytes": memory.host_temp_size_in_bytes,
        "collectives": [asdict(one) for one in found],
        "collective_bytes": sum(one.bytes * one.times for one in found if one.kind != "collective-permute"),
    }


def read_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line; `given` in the place of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("topology", help="as libtpu names it: v5e:4x4, v4:8x8x8, v6e:16x16")
    parser.add_argument("--mesh", default="", help="fsdp=16,context=16; what is left is context")
    parser.add_argument("--preset", default="lwm-7b", choices=PRESETS)
    parser.add_argument("--layers", type=int, help="so many layers in the place of the preset's")
    parser.add_argument("--length", type=int, default=32768)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--dtype", default="float32", help="of parameters and optimizer")
    parser.add_argument("--compute-dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", choices=NAMES, help="in the place of the preset's")
    parser.add_argument("--optimizer", default="adamw", choices=["adamw", "muon"])
    parser.add_argument("--loss-chunk", type=int, default=512)
    parser.add_argument("--at-least", type=int, default=1 << 20, help="bytes of a collective to be listed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(given)


def main() -> None:
    """Read the command line, compile, print."""
    arguments = read_arguments()
    jax.config.update("jax_platforms", "cpu")
    found = report(arguments)
    if arguments.json:
        print(json.dumps(found))
        return
    print({name: value for name, value in found.items() if name != "collectives"}, file=sys.stderr)
    for one in found.get("collectives", ()):
        where = "in a loop" if one["in_a_loop"] else ""
        how = "synchronous" if one["synchronous"] else ""
        size = f"{one['bytes'] / 1e6:9.1f} MB"
        print(f"{one['times']:7} x {size}  {one['kind']:18} {one['array']:34} {where:9} {how}")


if __name__ == "__main__":
    main()
