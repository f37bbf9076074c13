"""Ring attention against its peers: the same inputs, one run, alternating repetitions, medians.

    python scripts/bench_ring.py --length 16384 32768 --tune --json ring.json --plot ring.svg
    python scripts/bench_ring.py --million --json million.json --plot million.svg

Prints the machine and a Markdown table of forward and forward+backward: wall seconds, how many times
ringvision's they are, CPU seconds of all processes, memory, and the error against dense attention in float64.
All are causal, float32, on CPUs:

    ringvision               ring_attention on a ring of `--devices` CPU devices, zigzag layout, grouped
                             queries
    ringvision-one           the same function on one device
    ringattention            PyPI's `ringattention` (its blockwise CPU path) on the same ring; KV heads
                             repeated, for it knows no groups
    ring-attention-pytorch   PyPI's `ring-attention-pytorch`, as many gloo processes of one thread each; it
                             groups queries itself
    sdpa                     torch's scaled_dot_product_attention, one process, a thread a core: no ring, the
                             least that the work takes

A peer that is not installed is skipped and named; one that fails says why. To have them all: pip install
ringattention ring-attention-pytorch torch. Of ring-attention-pytorch 0.5.20 the CPU path's dk and dv are
wrong on any ring (its backward takes the pair of buffers received and sent for the pair of dk and dv); the
work is the same, so its time stands, and its error is shown as it is.

Every contender has processes of its own, which sleep while others run; compiling, layouts and head orders are
not timed. Memory: `temporary` is XLA's plan (`memory_analysis().temp_size_in_bytes`), what a device needs
beside inputs and outputs; `resident` is by how much the resident memory of all its processes, sampled, grew
above what it was before the first call, outputs included. Errors: outputs and dq at 64 tokens in all heads,
dk and dv at 64 keys in the last KV head; outputs absolute, gradients relative to the largest.

`--tune` first tries a few tile sizes of each peer, at 8K tokens at most, and takes the fastest; without it
they get what DEFAULTS says. `--million` is one forward+backward each of ringvision at 128K, 256K, 512K and 1M
tokens, one head: memory by length, and over time.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from ring_contenders import NEEDS, Contender, Failed, Work, say

DEFAULTS: dict[str, Any] = {"ringattention": (1024, 1024), "ring-attention-pytorch": 512}
"""Tiles: LWM's for ringattention (its training scripts), the package's own for the other."""
TRIED: dict[str, list[Any]] = {
    "ringattention": [
        (128, 128),
        (256, 256),
        (512, 512),
        (1024, 1024),
        (128, 512),
        (512, 1024),
    ],  # queries, keys
    "ring-attention-pytorch": [128, 256, 512, 1024],
}
PASSES = {"forward": "forward", "both": "forward+backward"}
NORMAL = ([16384, 32768], 8, 2, 64)
MILLION = ([2**17, 2**18, 2**19, 2**20], 1, 1, 32)
"""Lengths, heads, KV heads, head width."""
SAMPLES = 64
MB = 2**20


class Reference:
    """Dense causal attention in float64, at some of the tokens. A key's gradient takes all queries after it,
    over all of their keys; so that a million tokens are affordable, keys are then drawn from the end only
    (above 32K; `first_key` says from where).
    """

    def __init__(self, inputs: list[np.ndarray]) -> None:
        q, k = inputs[:2]
        length = q.shape[1]
        groups = q.shape[2] // k.shape[2]
        random = np.random.default_rng(1)
        self.first_key = max(0, length - 2**30 // length)
        self.rows = np.sort(random.choice(length, min(SAMPLES, length), replace=False))
        self.keys = self.first_key + np.sort(
            random.choice(length - self.first_key, min(SAMPLES, length - self.first_key), replace=False)
        )
        self.out, self.dq = (np.zeros((q.shape[0], len(self.rows), *q.shape[2:])) for _ in range(2))
        self.dk, self.dv = (np.zeros((q.shape[0], len(self.keys), q.shape[3])) for _ in range(2))
        chunk = max(1, 2**24 // length)
        for batch, head in np.ndindex(q.shape[0], q.shape[2]):
            own = [
                x[batch, :, n].astype(np.float64)
                for x, n in zip(inputs, (head, head // groups, head // groups, head))
            ]
            p, out, ds = self.rows_of(own, self.rows)
            self.out[batch, :, head] = out
            self.dq[batch, :, head] = ds @ own[1][: ds.shape[1]] * q.shape[3] ** -0.5
            if head // groups != k.shape[2] - 1:
                continue
            for start in range(int(self.keys[0]), length, chunk):
                rows = np.arange(start, min(start + chunk, length))
                p, out, ds = self.rows_of(own, rows, self.keys)
                self.dk[batch] += ds.T @ own[0][rows] * q.shape[3] ** -0.5
                self.dv[batch] += p.T @ own[3][rows]

    @staticmethod
    def rows_of(
        own: list[np.ndarray], rows: np.ndarray, keys: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights [rows, keys], output [rows, H] and the scores' gradient [rows, keys] of some queries of one
        head, float64; own: its q, k, v and d_out [T, H]; rows: int, ascending; keys: int, None for all up to
        the last row.
        """
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
        return (
            at_keys,
            out,
            at_keys * (d_out[rows] @ v[keys].T - (d_out[rows] * out).sum(axis=1, keepdims=True)),
        )

    def errors(self, result: list[np.ndarray]) -> dict[str, float]:
        """out and dq [B, T, N, H], dk and dv [B, T, K, H] -> the largest error of each."""
        out, dq, dk, dv = result
        pairs = {"out": (out[:, self.rows], self.out), "dq": (dq[:, self.rows], self.dq)}
        pairs |= {"dk": (dk[:, self.keys, -1], self.dk), "dv": (dv[:, self.keys, -1], self.dv)}
        return {
            name: float(abs(a - b).max() / (1 if name == "out" else abs(b).max()))
            for name, (a, b) in pairs.items()
        }


def tune(name: str, work: Work) -> Any:
    """The setting with the fastest forward+backward of two, after one that does not count."""
    small = replace(work, length=min(work.length, 8192))
    inputs = small.inputs()
    times = {}
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
    """One length: every contender once to warm up and to see its memory, then all of them in turn.

    Args:
        work: the length and the other sizes.
        settings: of each contender, by its name.
        repeats: how often each is measured.
        million: only forward+backward, only the first time.

    Returns:
        A report of each contender, as it goes into the JSON.
    """
    inputs = work.inputs()
    passes = list(PASSES)[million:]
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
        return [
            contender.report() | checked | {"resident_over_time": reports[contender.name]}
            for contender in contenders
        ]
    finally:
        for contender in contenders:
            contender.close()


def table(results: list[dict[str, Any]], million: bool) -> str:
    passes = list(PASSES)[million:]
    head = ["tokens", "contender", "tiles"]
    head += [f"{PASSES[which]}, {column}" for which in passes for column in ("s", "× ringvision", "CPU s")]
    head += [f"temporary, {PASSES[which]}, MB × devices" for which in passes] + [
        "temporary, bytes a token"
    ] * million
    head += ["resident, MB", "error: out", "dq", "dk", "dv"]
    ours = {
        result["length"]: result["seconds"]
        for result in results
        if result["name"] == "ringvision" and not result["failed"]
    }
    rows = [head, ["---"] * len(head)]
    for result in results:
        row = [str(result["length"]), result["name"], str(result["setting"] or "")]
        if result["failed"]:
            rows.append(row + ["failed: " + result["failed"].replace("|", "/")] + [""] * (len(head) - 4))
            continue
        for which in passes:
            took = result["seconds"][which]
            against = ours.get(result["length"])
            row += [
                f"{took:.3f}",
                f"{took / against[which]:.2f}" if against else "",
                f"{result['processor_seconds'][which]:.3f}",
            ]
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
    labels = [f"{length / 1024:g}K" for length in lengths]
    names = [name for name in NEEDS if any(r["name"] == name for r in results)]
    if million:
        left.bar(labels, [result["temporary_bytes"]["both"] / result["length"] for result in results], 0.5)
        left.set(title="temporary memory, all devices, a token", xlabel="tokens", ylabel="bytes")
        for label, result in zip(labels, results):
            right.plot(
                *zip(*((second, size / MB) for second, size in result["resident_over_time"])), label=label
            )
        right.set(
            title="resident memory, the whole process",
            xlabel="seconds",
            ylabel="MB",
            ylim=(0, None),
            xscale="log",
        )
    for axes, which in zip((left, right), () if million else PASSES):
        width = 0.85 / len(names)
        for index, name in enumerate(names):
            own = [result for result in results if result["name"] == name]
            places = [
                lengths.index(result["length"]) + (index - (len(names) - 1) / 2) * width for result in own
            ]
            bars = axes.bar(places, [result["seconds"][which] for result in own], width, label=name)
            axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
        axes.set(
            title=PASSES[which],
            xlabel="tokens",
            ylabel="seconds",
            xticks=range(len(lengths)),
            xticklabels=labels,
        )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    (right if million else left).legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=160)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, nargs="+", help="16384 32768; with --million 2**17 to 2**20")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--heads", type=int, help="8; with --million 1")
    parser.add_argument("--kv-heads", type=int, help="2; with --million 1")
    parser.add_argument("--head-dim", type=int, help="64; with --million 32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=NEEDS, metavar="NAME", help=", ".join(NEEDS))
    parser.add_argument("--tune", action="store_true", help="try a few tile sizes of the peers first")
    parser.add_argument(
        "--million",
        action="store_true",
        help="ringvision alone, forward+backward once, up to a million tokens",
    )
    parser.add_argument("--json", type=Path, help="everything measured")
    parser.add_argument("--plot", type=Path, help="a .png or .svg")
    args = parser.parse_args()
    for name, value in zip(("length", "heads", "kv_heads", "head_dim"), MILLION if args.million else NORMAL):
        setattr(args, name, getattr(args, name) or value)
    if (
        args.repeats < 1
        or args.heads % args.kv_heads
        or any(length % (2 * args.devices) for length in args.length)
    ):
        parser.error(
            "expected at least 1 repeat, KV heads that divide the heads, and lengths that are "
            "multiples of twice the devices"
        )
    return args


def main() -> None:
    args = arguments()
    wanted = ["ringvision"] if args.million else args.only or list(NEEDS)
    lacks = {
        name: [module for module in NEEDS[name] if not importlib.util.find_spec(module)] for name in wanted
    }
    skipped = {name: modules for name, modules in lacks.items() if modules}
    works = [
        Work(length, args.devices, args.heads, args.kv_heads, args.head_dim, args.batch)
        for length in args.length
    ]
    report: dict[str, Any] = {
        "machine": machine(sorted({"numpy"}.union(*NEEDS.values()))),
        "work": [asdict(work) for work in works],
        "repeats": 1 if args.million else args.repeats,
    }
    report |= {"skipped": skipped, "results": []}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    print(
        f"causal, float32, batch {args.batch}, heads {args.heads}, KV heads {args.kv_heads}, "
        f"head width {args.head_dim}",
        end=", ",
    )
    print(f"devices {args.devices}, repetitions {report['repeats']}")
    print(
        *(f"skipped: {name}, for want of {', '.join(modules)}" for name, modules in skipped.items()),
        "",
        sep="\n",
        flush=True,
    )

    names = [name for name in NEEDS if name in wanted and name not in skipped]
    settings = {
        name: tune(name, works[-1]) if args.tune and name in TRIED else DEFAULTS.get(name) for name in names
    }
    for work in works:
        report["results"] += compare(work, settings, args.repeats, args.million)
        if args.json:  # after every length, so that what was measured is not lost
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report["results"], args.million))
    if args.plot:
        plot(report["results"], args.plot, args.million)


if __name__ == "__main__":
    main()
