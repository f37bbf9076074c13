"""Ring attention against its peers: the same inputs, one run, alternating repetitions, medians.

    python scripts/bench_ring.py --length 16384 32768 --tune --json ring.json --plot ring.svg
    python scripts/bench_ring.py --million --json million.json --plot million.svg

Prints the machine and a Markdown table of forward and forward+backward: wall seconds, how many times ringvision's they are, CPU seconds
of all processes, memory, and the error against dense attention in float64. All are causal, float32, on CPUs:

    ringvision               ring_attention on a ring of `--devices` CPU devices, zigzag layout, grouped queries
    ringvision-one           the same function on one device
    ringattention            PyPI's `ringattention` (its blockwise CPU path) on the same ring; KV heads repeated, it knows no groups
    ring-attention-pytorch   PyPI's `ring-attention-pytorch`, as many gloo processes of one thread each; it groups queries itself
    sdpa                     torch's scaled_dot_product_attention, one process, a thread a core: no ring, the floor

A peer that is not installed is skipped and named; one that fails says why. To have them all: pip install ringattention
ring-attention-pytorch torch. Of ring-attention-pytorch 0.5.20 the CPU path's dk and dv are wrong on any ring (its backward takes the pair
of buffers received and sent for the pair of dk and dv); the work is the same, so its time stands, and its error is shown as it is.

Every contender has processes of its own, which sleep while others run; compiling, layouts and head orders are not timed. Memory:
`temporary` is XLA's plan (`memory_analysis().temp_size_in_bytes`), what a device needs beside inputs and outputs; `resident` is by how
much the resident memory of all its processes, sampled, grew above what it was before the first call, outputs included. Errors: outputs
and dq at 64 tokens in all heads, dk and dv at 64 keys in the last KV head; outputs absolute, gradients relative to the largest.

`--tune` first tries a few tile sizes of each peer, at 8K tokens at most, and takes the fastest; without it they get what DEFAULTS says.
`--million` is one forward+backward each of ringvision at 128K, 256K, 512K and 1M tokens, one head: memory by length, and over time.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
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
DEFAULTS: dict[str, Any] = {"ringattention": (256, 256), "ring-attention-pytorch": 512}
TRIED: dict[str, list[Any]] = {
    "ringattention": [(128, 128), (256, 256), (512, 512), (1024, 1024), (128, 512), (512, 1024)],  # queries, keys
    "ring-attention-pytorch": [128, 256, 512, 1024],
}
PASSES = {"forward": "forward", "both": "forward+backward"}
NORMAL, MILLION = ([16384, 32768], 8, 2, 64), ([2**17, 2**18, 2**19, 2**20], 1, 1, 32)
"""Lengths, heads, KV heads, head width."""
SAMPLES, SAMPLED_EVERY, MB = 64, 0.02, 2**20


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
        shapes = [(self.batch, self.length, heads, self.head_dim) for heads in (self.heads, self.kv_heads, self.kv_heads, self.heads)]
        return [random.standard_normal(shape, np.float32) for shape in shapes]


# In a contender's own process: what it needs, then functions that finish before they return. All arrays are [B, T, heads, H].


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

    compiled, given = {}, {"forward": (*arrays[:3], *tokens), "both": (*arrays, *tokens)}
    for name, function in (("forward", lambda *args: (attend(*args),)), ("both", both)):
        compiled[name] = jax.jit(function).lower(*given[name]).compile()
    temporary = {name: program.memory_analysis().temp_size_in_bytes for name, program in compiled.items()}
    forward, both = (lambda name=name: jax.block_until_ready(compiled[name](*given[name])) for name in compiled)
    return Runs(forward, both, np.asarray, temporary=temporary)


def ringvision(work: Work, devices: int, arrays: list[np.ndarray]) -> Runs:
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    from ringvision import ring_attention
    from ringvision.mesh import make_mesh, sharding
    from ringvision.ops.layout import order

    mesh = make_mesh(context=devices)
    place = sharding(mesh, "batch", "length")
    placed = [jax.device_put(x, place) for x in arrays]
    positions = np.broadcast_to(order(work.length, devices, "zigzag"), (work.batch, work.length))
    tokens = () if devices == 1 else (jax.device_put(positions, place),)
    return jax_runs(lambda q, k, v, *tokens: ring_attention(q, k, v, mesh=mesh, positions=tokens[0] if tokens else None), placed, tokens)


def ringattention(work: Work, chunks: tuple[int, int], arrays: list[np.ndarray]) -> Runs:
    import jax
    import jax.extend
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", work.devices)
    if not hasattr(jax.lib, "xla_bridge"):  # gone from jax 0.10; the package asks it for the platform when it is imported
        jax.lib.xla_bridge = SimpleNamespace(get_backend=jax.extend.backend.get_backend)
    import ringattention as package

    own = {"deterministic": True, "dropout_rng": None, "attn_pdrop": 0.0, "precision": None, "prevent_cse": True}
    own |= {"causal_block_size": 1, "dtype": jnp.float32, "policy": jax.checkpoint_policies.nothing_saveable}
    own |= {f"{kind}_chunk_size": math.gcd(size, work.length // work.devices) for kind, size in zip(("query", "key"), chunks)}

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        k, v = (jnp.repeat(x, work.heads // work.kv_heads, axis=2) for x in (k, v))
        return package.ringattention(q, k, v, None, None, None, "ring", True, own)  # no bias, segments or cache; float32 logits

    mesh, spread = jax.make_mesh((work.devices,), ("ring",)), PartitionSpec(None, "ring")
    attend = jax.shard_map(local, mesh=mesh, in_specs=(spread,) * 3, out_specs=spread, check_vma=False)
    return jax_runs(attend, [jax.device_put(x, NamedSharding(mesh, spread)) for x in arrays])


def torch_runs(attend: Callable, arrays: list, to_numpy: Callable, axis: int) -> Runs:
    import torch

    q, k, v = (x.contiguous().requires_grad_() for x in arrays[:3])
    d_out = arrays[3].contiguous()

    def forward() -> tuple:
        with torch.no_grad():
            return (attend(q, k, v),)

    def both(q: torch.Tensor = q, k: torch.Tensor = k, v: torch.Tensor = v, d_out: torch.Tensor = d_out) -> tuple:
        out = attend(q, k, v)
        return out.detach(), *torch.autograd.grad(out, (q, k, v), d_out)

    few = [x.detach().narrow(axis, 0, 16).contiguous() for x in (q, k, v, d_out)]
    both(*(x.requires_grad_() for x in few[:3]), few[3])  # loads what torch loads lazily
    return Runs(forward, both, to_numpy)


def sdpa(arrays: list[np.ndarray]) -> Runs:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    attend = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    heads_first = [torch.from_numpy(x).transpose(1, 2) for x in arrays]
    return torch_runs(attend, heads_first, lambda x: x.transpose(1, 2).numpy(), axis=2)


def ring_attention_pytorch(work: Work, bucket: int, rank: int, store: str, arrays: list[np.ndarray]) -> Runs:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=work.devices)
    from ring_attention_pytorch import ring_flash_attn

    def regroup(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
        """Query head n reads KV head n // G here, n % K there."""
        return x.unflatten(2, (kv_heads, -1)).transpose(2, 3).flatten(2, 3)

    q, k, v, d_out = map(torch.from_numpy, arrays)
    attend = partial(ring_flash_attn, causal=True, ring_reduce_col=work.devices > 1, bucket_size=bucket)

    def back(x: torch.Tensor) -> np.ndarray:
        return (regroup(x, work.heads // work.kv_heads) if x.shape[2] == work.heads != work.kv_heads else x).numpy()

    runs = torch_runs(attend, [regroup(q, work.kv_heads), k, v, regroup(d_out, work.kv_heads)], back, axis=1)
    runs.together = torch.distributed.barrier
    return runs


def serve(name: str, work: Work, setting: Any, rank: int, store: str, pipe: Connection) -> None:
    """One process of a contender. Says what it did or what went wrong, in answer to `forward`, `both` and `result`."""
    try:
        arrays = pipe.recv()
        build = {
            "ringvision": partial(ringvision, work, work.devices),
            "ringvision-one": partial(ringvision, work, 1),
            "ringattention": partial(ringattention, work, setting),
            "ring-attention-pytorch": partial(ring_attention_pytorch, work, setting, rank, store),
            "sdpa": sdpa,
        }
        runs, last = build[name](arrays), ()
        pipe.send(("ready", runs.temporary))
        while (command := pipe.recv()) != "stop":
            if command == "result":
                pipe.send(("result", [runs.to_numpy(x) for x in last]))
                continue
            last = ()
            runs.together()
            wall, processor = time.perf_counter(), time.process_time()
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
        self.name, self.work, self.setting, self.failed = name, work, setting, ""
        self.devices = 1 if name in ("ringvision-one", "sdpa") else work.devices
        self.order = np.arange(work.length)
        self.walls: dict[str, list[float]] = {}
        self.processors: dict[str, list[float]] = {}
        self.trace: list[tuple[float, int]] = []  # seconds since the last question, bytes resident
        self.grown, self.temporary, self.errors = 0, {}, {}
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        self.folder = tempfile.TemporaryDirectory()

    def start(self, inputs: list[np.ndarray]) -> None:
        if self.name == "ringvision":
            from ringvision.ops.layout import order

            self.order = order(self.work.length, self.devices, "zigzag")
        context = multiprocessing.get_context("spawn")
        for rank, share in enumerate(np.split(self.order, self.devices if self.name == "ring-attention-pytorch" else 1)):
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
            for pipe in wait([pipe for pipe in self.pipes if pipe not in answers], SAMPLED_EVERY if watch else None):
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
        return [np.concatenate(shares, axis=1)[:, np.argsort(self.order)] for shares in zip(*self.ask("result"))]

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


class Reference:
    """Dense causal attention in float64, at some of the tokens. A key's gradient takes all queries after it, over all of their keys;
    so that a million tokens are affordable, keys are then drawn from the end only (above 32K; `first_key` says from where)."""

    def __init__(self, inputs: list[np.ndarray]) -> None:
        q, k = inputs[:2]
        length, groups = q.shape[1], q.shape[2] // k.shape[2]
        random = np.random.default_rng(1)
        self.first_key = max(0, length - 2**30 // length)
        self.rows = np.sort(random.choice(length, min(SAMPLES, length), replace=False))
        self.keys = self.first_key + np.sort(random.choice(length - self.first_key, min(SAMPLES, length - self.first_key), replace=False))
        self.out, self.dq = (np.zeros((q.shape[0], len(self.rows), *q.shape[2:])) for _ in range(2))
        self.dk, self.dv = (np.zeros((q.shape[0], len(self.keys), q.shape[3])) for _ in range(2))
        chunk = max(1, 2**24 // length)
        for batch, head in np.ndindex(q.shape[0], q.shape[2]):
            own = [x[batch, :, n].astype(np.float64) for x, n in zip(inputs, (head, head // groups, head // groups, head))]
            p, out, ds = self.rows_of(own, self.rows)
            self.out[batch, :, head], self.dq[batch, :, head] = out, ds @ own[1][: ds.shape[1]] * q.shape[3] ** -0.5
            if head // groups != k.shape[2] - 1:
                continue
            for start in range(int(self.keys[0]), length, chunk):
                rows = np.arange(start, min(start + chunk, length))
                p, out, ds = self.rows_of(own, rows, self.keys)
                self.dk[batch] += ds.T @ own[0][rows] * q.shape[3] ** -0.5
                self.dv[batch] += p.T @ own[3][rows]

    @staticmethod
    def rows_of(own: list[np.ndarray], rows: np.ndarray, keys: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights, output and the scores' gradient of these queries of one head, ascending; the first and last at `keys`, if given."""
        q, k, v, d_out = own
        seen = np.arange(rows[-1] + 1)
        p = q[rows] @ k[: len(seen)].T
        p *= q.shape[1] ** -0.5
        p[:, rows[0] :][seen[rows[0] :] > rows[:, None]] = -np.inf
        p -= p.max(axis=1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        out = p @ v[: len(seen)]
        keys = seen if keys is None else keys
        at_keys = np.zeros((len(rows), len(keys)))
        known = keys < len(seen)
        at_keys[:, known] = p[:, keys[known]]
        return at_keys, out, at_keys * (d_out[rows] @ v[keys].T - (d_out[rows] * out).sum(axis=1, keepdims=True))

    def errors(self, result: list[np.ndarray]) -> dict[str, float]:
        out, dq, dk, dv = result
        pairs = {"out": (out[:, self.rows], self.out), "dq": (dq[:, self.rows], self.dq)}
        pairs |= {"dk": (dk[:, self.keys, -1], self.dk), "dv": (dv[:, self.keys, -1], self.dv)}
        return {name: float(abs(a - b).max() / (1 if name == "out" else abs(b).max())) for name, (a, b) in pairs.items()}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tune(name: str, work: Work) -> Any:
    """The setting with the fastest forward+backward of two, after one that does not count."""
    small = replace(work, length=min(work.length, 8192))
    inputs, times = small.inputs(), {}
    for setting in TRIED[name]:
        if np.max(setting) > small.length // small.devices:
            continue
        try:
            with closing(Contender(name, small, setting)) as contender:
                contender.start(inputs)
                times[setting] = min([contender.run("both") for _ in range(3)][1:])
                say(f"{name}, {setting}, {small.length} tokens: {times[setting]:.2f} s")
        except Failed:
            continue
    return min(times, key=times.__getitem__, default=DEFAULTS[name])


def compare(work: Work, settings: dict[str, Any], repeats: int, million: bool) -> list[dict[str, Any]]:
    """One length: every contender once to warm up and to see its memory, then all of them in turn, `repeats` times."""
    inputs, passes = work.inputs(), list(PASSES)[million:]
    contenders = [Contender(name, work, setting) for name, setting in settings.items()]

    def each(act: Callable[[Contender], Any]) -> None:
        for contender in contenders:
            try:
                if not contender.failed:
                    act(contender)
            except Failed:
                continue
            except Exception as error:  # an import that fails here rather than there, say
                contender.fail(f"{type(error).__name__}: {error}")

    def first(contender: Contender) -> None:
        contender.start(inputs)
        for which in passes:
            took = contender.run(which, watch=True, keep=million)
            say(f"{work.length} tokens, {contender.name}, {PASSES[which]}, the first time: {took:.2f} s")

    try:
        each(first)
        reports = {contender.name: contender.report()["resident_over_time"] for contender in contenders}
        for which in [] if million else passes * repeats:
            each(lambda contender, which=which: contender.run(which))
        say(f"{work.length} tokens: the reference in float64")
        reference = Reference(inputs)
        each(lambda contender: contender.errors.update(reference.errors(contender.result())))
        checked = {"first_key_checked": reference.first_key}
        return [contender.report() | checked | {"resident_over_time": reports[contender.name]} for contender in contenders]
    finally:
        for contender in contenders:
            contender.close()


def version(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version" if importlib.util.find_spec(module) else "not installed"


def machine() -> dict[str, Any]:
    def reading(path: str, key: str) -> str:
        lines = Path(path).read_text().splitlines() if Path(path).exists() else []
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "unknown")

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=package, capture_output=True, text=True).stdout.strip()

    found = importlib.util.find_spec("ringvision")
    package = Path(found.origin).parent if found and found.origin else Path(__file__).parent
    return {
        "processor": reading("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": reading("/proc/meminfo", "MemTotal"),
        "load at the start": round(os.getloadavg()[0], 2),
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if git("status", "--porcelain", "--", ".") else ""),
        "python": platform.python_version(),
    } | {module: version(module) for module in sorted({"numpy"}.union(*NEEDS.values()))}


def table(results: list[dict[str, Any]], million: bool) -> str:
    passes = list(PASSES)[million:]
    head = ["tokens", "contender", "tiles"]
    head += [f"{PASSES[which]}, {column}" for which in passes for column in ("s", "× ringvision", "CPU s")]
    head += [f"temporary, {PASSES[which]}, MB × devices" for which in passes] + ["temporary, bytes a token"] * million
    head += ["resident, MB", "error: out", "dq", "dk", "dv"]
    ours = {result["length"]: result["seconds"] for result in results if result["name"] == "ringvision" and not result["failed"]}
    rows = [head, ["---"] * len(head)]
    for result in results:
        row = [str(result["length"]), result["name"], str(result["setting"] or "")]
        if result["failed"]:
            rows.append(row + ["failed: " + result["failed"].replace("|", "/")] + [""] * (len(head) - 4))
            continue
        for which in passes:
            took, against = result["seconds"][which], ours.get(result["length"])
            row += [f"{took:.3f}", f"{took / against[which]:.2f}" if against else "", f"{result['processor_seconds'][which]:.3f}"]
        sizes = result["temporary_bytes_of_a_device"]
        row += [f"{sizes[which] / MB:.1f} × {result['devices']}" if sizes else "" for which in passes]
        row += [f"{result['temporary_bytes']['both'] / result['length']:.0f}"] if million else []
        row += [f"{result['resident_growth_bytes'] / MB:.0f}"]
        rows.append(row + [f"{x:.1e}" if x < 1e-3 else f"**{x:.1e}**" for x in result["errors"].values()])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(results: list[dict[str, Any]], path: Path, million: bool) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    results = [result for result in results if not result["failed"]]
    lengths = sorted({result["length"] for result in results})
    labels, names = [f"{length / 1024:g}K" for length in lengths], [name for name in NEEDS if any(r["name"] == name for r in results)]
    if million:
        left.bar(labels, [result["temporary_bytes"]["both"] / result["length"] for result in results], 0.5)
        left.set(title="temporary memory, all devices, a token", xlabel="tokens", ylabel="bytes")
        for label, result in zip(labels, results):
            right.plot(*zip(*((second, size / MB) for second, size in result["resident_over_time"])), label=label)
        right.set(title="resident memory, the whole process", xlabel="seconds", ylabel="MB", ylim=(0, None), xscale="log")
    for axes, which in zip((left, right), () if million else PASSES):
        width = 0.85 / len(names)
        for index, name in enumerate(names):
            own = [result for result in results if result["name"] == name]
            places = [lengths.index(result["length"]) + (index - (len(names) - 1) / 2) * width for result in own]
            bars = axes.bar(places, [result["seconds"][which] for result in own], width, label=name)
            axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
        axes.set(title=PASSES[which], xlabel="tokens", ylabel="seconds", xticks=range(len(lengths)), xticklabels=labels)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    (right if million else left).legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, nargs="+", help="16384 32768; with --million 2**17 to 2**20")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--heads", type=int, help="8; with --million 1")
    parser.add_argument("--kv-heads", type=int, help="2; with --million 1")
    parser.add_argument("--head-dim", type=int, help="64; with --million 32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=NEEDS, metavar="NAME", help=", ".join(NEEDS))
    parser.add_argument("--tune", action="store_true", help="try a few tile sizes of the peers first")
    parser.add_argument("--million", action="store_true", help="ringvision alone, forward+backward once, up to a million tokens")
    parser.add_argument("--json", type=Path, help="everything measured")
    parser.add_argument("--plot", type=Path, help="a .png or .svg")
    args = parser.parse_args()
    for name, value in zip(("length", "heads", "kv_heads", "head_dim"), MILLION if args.million else NORMAL):
        setattr(args, name, getattr(args, name) or value)
    if args.repeats < 1 or args.heads % args.kv_heads or any(length % (2 * args.devices) for length in args.length):
        parser.error("expected at least 1 repeat, KV heads that divide the heads, and lengths that are multiples of twice the devices")

    wanted = ["ringvision"] if args.million else args.only or list(NEEDS)
    lacks = {name: [module for module in NEEDS[name] if not importlib.util.find_spec(module)] for name in wanted}
    skipped = {name: modules for name, modules in lacks.items() if modules}
    works = [Work(length, args.devices, args.heads, args.kv_heads, args.head_dim, args.batch) for length in args.length]
    report: dict[str, Any] = {
        "machine": machine(),
        "work": [asdict(work) for work in works],
        "repeats": 1 if args.million else args.repeats,
    }
    report |= {"skipped": skipped, "results": []}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    print(f"causal, float32, batch {args.batch}, heads {args.heads}, KV heads {args.kv_heads}, head width {args.head_dim}", end=", ")
    print(f"devices {args.devices}, repetitions {report['repeats']}")
    print(*(f"skipped: {name}, for want of {', '.join(modules)}" for name, modules in skipped.items()), "", sep="\n", flush=True)

    names = [name for name in NEEDS if name in wanted and name not in skipped]
    settings = {name: tune(name, works[-1]) if args.tune and name in TRIED else DEFAULTS.get(name) for name in names}
    for work in works:
        report["results"] += compare(work, settings, args.repeats, args.million)
        if args.json:  # after every length, so that what was measured is not lost
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report["results"], args.million))
    if args.plot:
        plot(report["results"], args.plot, args.million)


if __name__ == "__main__":
    main()
