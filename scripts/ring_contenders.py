"""The contenders of bench_ring.py: what each needs, how it is called, and the processes that it runs in.

Every contender has processes of its own (`serve`), which sleep while others run and answer to `forward`,
`both` and `result`; `Contender` is how the measuring process sees them.
"""

import math
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np

NEEDS = {  # modules, by contender; the order is that of the table
    "ringvision": ("jax", "jaxlib", "ringvision"),
    "ringvision-one": ("jax", "jaxlib", "ringvision"),
    "ringattention": ("jax", "jaxlib", "flax", "einops", "ringattention"),
    "ring-attention-pytorch": ("torch", "ring_attention_pytorch"),
    "sdpa": ("torch",),
}
SAMPLED_EVERY = 0.02
"""Seconds between two looks at the resident memory."""


@dataclass(frozen=True)
class Work:
    length: int
    devices: int
    heads: int
    kv_heads: int
    head_dim: int
    batch: int

    def inputs(self) -> list[np.ndarray]:
        """q, k, v and the output's cotangent, float32 [B, T, N or K, H]."""
        random = np.random.default_rng(0)
        shapes = [
            (self.batch, self.length, heads, self.head_dim)
            for heads in (self.heads, self.kv_heads, self.kv_heads, self.heads)
        ]
        return [random.standard_normal(shape, np.float32) for shape in shapes]


# In a contender's own process: what it needs, then functions that finish before they return. All arrays are
# [B, T, heads, H].


@dataclass
class Runs:
    forward: Callable[[], tuple]
    both: Callable[[], tuple]
    to_numpy: Callable[[Any], np.ndarray]
    together: Callable[[], None] = lambda: None
    temporary: dict[str, int] = field(default_factory=dict)


def jax_runs(attend: Callable, arrays: list, tokens: tuple = ()) -> Runs:
    import jax

    def both(q: jax.Array, k: jax.Array, v: jax.Array, d_out: jax.Array, *tokens: jax.Array) -> tuple:
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, *tokens), q, k, v)
        return out, *pull(d_out)

    compiled = {}
    given = {"forward": (*arrays[:3], *tokens), "both": (*arrays, *tokens)}
    for name, function in (("forward", lambda *args: (attend(*args),)), ("both", both)):
        compiled[name] = jax.jit(function).lower(*given[name]).compile()
    temporary = {name: program.memory_analysis().temp_size_in_bytes for name, program in compiled.items()}
    forward, both = (
        lambda name=name: jax.block_until_ready(compiled[name](*given[name])) for name in compiled
    )
    return Runs(forward, both, np.asarray, temporary=temporary)


def ringvision(work: Work, devices: int, arrays: list[np.ndarray]) -> Runs:
    """arrays: q, k, v and d_out, float32 [B, T, heads, H], in zigzag order."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    from ringvision import ring_attention
    from ringvision.mesh import make_mesh, sharding
    from ringvision.ops.layout import order

    mesh = make_mesh(context=devices)
    by_length = sharding(mesh, "batch", "length")
    sharded = [jax.device_put(x, by_length) for x in arrays]
    positions = np.broadcast_to(order(work.length, devices, "zigzag"), (work.batch, work.length))
    tokens = () if devices == 1 else (jax.device_put(positions, by_length),)
    return jax_runs(
        lambda q, k, v, *tokens: ring_attention(q, k, v, mesh=mesh, positions=tokens[0] if tokens else None),
        sharded,
        tokens,
    )


def ringattention(work: Work, chunks: tuple[int, int], arrays: list[np.ndarray]) -> Runs:
    """arrays: q, k, v and d_out, float32 [B, T, heads, H]. chunks: tokens of a tile's queries and keys."""
    import jax
    import jax.extend
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", work.devices)
    # Gone from jax 0.10; the package asks it for the platform when it is imported.
    if not hasattr(jax.lib, "xla_bridge"):
        jax.lib.xla_bridge = SimpleNamespace(get_backend=jax.extend.backend.get_backend)
    import ringattention as package

    own = {
        "deterministic": True,
        "dropout_rng": None,
        "attn_pdrop": 0.0,
        "precision": None,
        "prevent_cse": True,
    }
    own |= {"causal_block_size": 1, "dtype": jnp.float32, "policy": jax.checkpoint_policies.nothing_saveable}
    own |= {
        f"{kind}_chunk_size": math.gcd(size, work.length // work.devices)
        for kind, size in zip(("query", "key"), chunks)
    }

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        k, v = (jnp.repeat(x, work.heads // work.kv_heads, axis=2) for x in (k, v))
        return package.ringattention(
            q, k, v, None, None, None, "ring", True, own
        )  # no bias, segments or cache; float32 logits

    mesh = jax.make_mesh((work.devices,), ("ring",))
    by_length = PartitionSpec(None, "ring")
    attend = jax.shard_map(local, mesh=mesh, in_specs=(by_length,) * 3, out_specs=by_length, check_vma=False)
    return jax_runs(attend, [jax.device_put(x, NamedSharding(mesh, by_length)) for x in arrays])


def torch_runs(attend: Callable, arrays: list, to_numpy: Callable, axis: int) -> Runs:
    """The two passes of a torch function.

    Args:
        attend: q, k, v -> out.
        arrays: tensors q, k, v and d_out, float32, in attend's layout.
        to_numpy: a tensor of that layout -> float32 [B, T, heads, H].
        axis: which axis has the tokens.

    Returns:
        The passes.
    """
    import torch

    q, k, v = (x.contiguous().requires_grad_() for x in arrays[:3])
    d_out = arrays[3].contiguous()

    def forward() -> tuple:
        with torch.no_grad():
            return (attend(q, k, v),)

    def both(
        q: torch.Tensor = q, k: torch.Tensor = k, v: torch.Tensor = v, d_out: torch.Tensor = d_out
    ) -> tuple:
        out = attend(q, k, v)
        return out.detach(), *torch.autograd.grad(out, (q, k, v), d_out)

    few = [x.detach().narrow(axis, 0, 16).contiguous() for x in (q, k, v, d_out)]
    both(*(x.requires_grad_() for x in few[:3]), few[3])  # loads what torch loads lazily
    return Runs(forward, both, to_numpy)


def sdpa(arrays: list[np.ndarray]) -> Runs:
    """arrays: q, k, v and d_out, float32 [B, T, heads, H]."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    attend = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    heads_first = [torch.from_numpy(x).transpose(1, 2) for x in arrays]
    return torch_runs(attend, heads_first, lambda x: x.transpose(1, 2).numpy(), axis=2)


def ring_attention_pytorch(work: Work, bucket: int, rank: int, store: str, arrays: list[np.ndarray]) -> Runs:
    """One process of the ring.

    Args:
        work: the sizes.
        bucket: tokens of a tile.
        rank: number of this process.
        store: path of the file by which the processes find each other.
        arrays: this process' share of q, k, v and d_out, float32 [B, T / devices, heads, H].

    Returns:
        The passes.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=work.devices
    )
    from ring_attention_pytorch import ring_flash_attn

    def regroup(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
        """Query head n reads KV head n // G here, n % K there."""
        return x.unflatten(2, (kv_heads, -1)).transpose(2, 3).flatten(2, 3)

    q, k, v, d_out = map(torch.from_numpy, arrays)
    attend = partial(ring_flash_attn, causal=True, ring_reduce_col=work.devices > 1, bucket_size=bucket)

    def back(x: torch.Tensor) -> np.ndarray:
        return (
            regroup(x, work.heads // work.kv_heads) if x.shape[2] == work.heads != work.kv_heads else x
        ).numpy()

    runs = torch_runs(attend, [regroup(q, work.kv_heads), k, v, regroup(d_out, work.kv_heads)], back, axis=1)
    runs.together = torch.distributed.barrier
    return runs


def serve(name: str, work: Work, setting: Any, rank: int, store: str, pipe: Connection) -> None:
    """One process of a contender. Says what it did or what went wrong, in answer to `forward`, `both` and
    `result`.

    Args:
        name: which contender.
        work: the sizes.
        setting: its tile sizes, if it takes any.
        rank: number of this process.
        store: path of the file by which a contender's processes find each other.
        pipe: to the process that measures; first q, k, v and d_out come, float32 [B, T, heads, H].
    """
    try:
        arrays = pipe.recv()
        build = {
            "ringvision": partial(ringvision, work, work.devices),
            "ringvision-one": partial(ringvision, work, 1),
            "ringattention": partial(ringattention, work, setting),
            "ring-attention-pytorch": partial(ring_attention_pytorch, work, setting, rank, store),
            "sdpa": sdpa,
        }
        runs = build[name](arrays)
        last = ()
        pipe.send(("ready", runs.temporary))
        while (command := pipe.recv()) != "stop":
            if command == "result":
                pipe.send(("result", [runs.to_numpy(x) for x in last]))
                continue
            last = ()
            runs.together()
            wall = time.perf_counter()
            processor = time.process_time()
            last = getattr(runs, command)()
            pipe.send((command, (time.perf_counter() - wall, time.process_time() - processor)))
    except EOFError:
        pass  # whoever started this is gone
    except BaseException as error:
        traceback.print_exc()
        pipe.send(("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))


# In the process that measures.


class Failed(Exception):
    """A contender did not do what it was asked."""


class Contender:
    """A contender's processes, and what was measured of them."""

    def __init__(self, name: str, work: Work, setting: Any) -> None:
        self.name = name
        self.work = work
        self.setting = setting
        self.failed = ""
        self.devices = 1 if name in ("ringvision-one", "sdpa") else work.devices
        self.order = np.arange(work.length)
        self.walls: dict[str, list[float]] = {}
        self.processors: dict[str, list[float]] = {}
        self.trace: list[tuple[float, int]] = []  # seconds since the last question, bytes resident
        self.grown = 0
        self.temporary = {}
        self.errors = {}
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        self.folder = tempfile.TemporaryDirectory()

    def start(self, inputs: list[np.ndarray]) -> None:
        """inputs: q, k, v and d_out, float32 [B, T, heads, H], in their own order."""
        if self.name == "ringvision":
            from ringvision.ops.layout import order

            self.order = order(self.work.length, self.devices, "zigzag")
        context = multiprocessing.get_context("spawn")
        for rank, share in enumerate(
            np.split(self.order, self.devices if self.name == "ring-attention-pytorch" else 1)
        ):
            ours, theirs = context.Pipe()
            args = (self.name, self.work, self.setting, rank, f"{self.folder.name}/store", theirs)
            self.processes.append(context.Process(target=serve, args=args, daemon=True))
            self.processes[-1].start()
            theirs.close()
            self.pipes.append(ours)
            self.send(ours, [np.ascontiguousarray(x[:, share]) for x in inputs])
        self.temporary = self.answers()[0]
        self.resident_before = self.resident()

    def fail(self, why: str) -> Failed:
        self.failed = why
        say(f"{self.name} failed: {why}")
        return Failed(why)

    def send(self, pipe: Connection, message: Any) -> None:
        try:
            pipe.send(message)
        except OSError as error:
            raise self.fail(f"a process is gone: {error}") from None

    def resident(self) -> int:
        """Bytes, all processes together."""
        pages = (Path(f"/proc/{process.pid}/statm").read_text().split() for process in self.processes)
        return sum(int(page[1]) for page in pages if page) * os.sysconf("SC_PAGE_SIZE")

    def answers(self, watch: bool = False) -> list[Any]:
        """One a process; if asked to watch, with the resident memory over time meanwhile."""
        answers: dict[Connection, Any] = {}
        start = time.perf_counter()
        while len(answers) < len(self.pipes):
            for pipe in wait(
                [pipe for pipe in self.pipes if pipe not in answers], SAMPLED_EVERY if watch else None
            ):
                try:
                    kind, answers[pipe] = pipe.recv()
                except (EOFError, OSError):
                    process = self.processes[self.pipes.index(pipe)]
                    process.join(10)
                    raise self.fail(f"a process ended with exit code {process.exitcode}") from None
                if kind == "failed":
                    raise self.fail(answers[pipe])
            if watch:
                self.trace.append((time.perf_counter() - start, self.resident()))
        return [answers[pipe] for pipe in self.pipes]

    def ask(self, command: str, watch: bool = False) -> list[Any]:
        for pipe in self.pipes:
            self.send(pipe, command)
        return self.answers(watch)

    def run(self, which: str, watch: bool = False, keep: bool = True) -> float:
        """Seconds of the process that took longest."""
        self.trace = []
        walls, processors = zip(*self.ask(which, watch))
        if watch:
            self.grown = max(self.grown, max(size for _, size in self.trace) - self.resident_before)
        if keep:
            self.walls.setdefault(which, []).append(max(walls))
            self.processors.setdefault(which, []).append(sum(processors))
        return max(walls)

    def result(self) -> list[np.ndarray]:
        """out, dq, dk, dv of the last run of both, [B, T, heads, H], tokens in their own order."""
        return [
            np.concatenate(shares, axis=1)[:, np.argsort(self.order)] for shares in zip(*self.ask("result"))
        ]

    def report(self) -> dict[str, Any]:
        """What goes into the JSON. Of the trace at most 100 maxima remain."""
        every = 1 + len(self.trace) // 100
        parts = [self.trace[i : i + every] for i in range(0, len(self.trace), every)]
        return {name: getattr(self, name) for name in ("name", "setting", "failed", "devices", "errors")} | {
            "length": self.work.length,
            "seconds": {which: median(times) for which, times in self.walls.items()},
            "seconds_each": self.walls,
            "processor_seconds": {which: median(times) for which, times in self.processors.items()},
            "temporary_bytes_of_a_device": self.temporary,
            "temporary_bytes": {which: size * self.devices for which, size in self.temporary.items()},
            "resident_growth_bytes": self.grown,
            "resident_over_time": [(round(part[0][0], 3), max(size for _, size in part)) for part in parts],
        }

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes):
            if self.failed or not process.is_alive():
                process.kill()
            else:
                pipe.send("stop")
        for process in self.processes:
            process.join(30)
        self.folder.cleanup()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
