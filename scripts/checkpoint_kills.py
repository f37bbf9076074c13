"""SIGKILL at random moments of asynchronous saves: is every checkpoint that was said to be saved still there?

    python scripts/checkpoint_kills.py --kills 200

A run restores its newest checkpoint, compares every value with what that step must hold, then takes steps
that donate their arrays and saves after every one, two or three in the background, without a pause: a save is
on its way most of the time. It is killed at a random moment and started again in the same folder, 200 times
on one process of four devices and 200 times on two (2 x 4 devices; both are killed, the second up to 50 ms
after the first; which one is first is drawn). Half of the runs begin by saving again the step that they
restored, so that a folder is replaced too.

What is killed is a whole operating system process with its jax, its devices and its background thread. Only
its start is cheap: it is forked from this one, which has imported everything and started nothing.
"""

import argparse
import json
import multiprocessing
import os
import random
import select
import socket
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision import distributed
from ringvision.checkpoint import Checkpoints
from ringvision.errors import UserError
from ringvision.mesh import make_mesh

SIZE = 1 << 16
"""Numbers in an array: a quarter of a megabyte."""
ARRAYS = 6
LONGEST = 0.4
"""Seconds after its first save within which a run is killed."""
PATIENCE = 120.0


def run(folder: Path, process: int, processes: int, port: int, seed: int, pipe: int) -> None:
    """A run that saves until it is killed; what it says, a line each, is JSON: [what, step, ...]."""

    def say(*words: Any) -> None:
        os.write(pipe, (json.dumps(words) + "\n").encode())

    if processes > 1:  # what jax says when the other process is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    draw = random.Random(seed)  # the same on both processes
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    if processes > 1:
        distributed.start(f"127.0.0.1:{port}", processes, process)
    mesh = make_mesh(context=4 * processes)
    sharding = jax.NamedSharding(mesh, jax.P("context"))
    like = {
        f"a{number}": jax.ShapeDtypeStruct((SIZE,), np.int32, sharding=sharding) for number in range(ARRAYS)
    }
    step_fn = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(folder)
    step = 0
    tree = {name: jax.jit(lambda: jax.numpy.zeros(SIZE, np.int32), out_shardings=sharding)() for name in like}
    if checkpoints.latest() is not None:
        try:
            restored = checkpoints.restore(like)
        except UserError as error:
            say("unreadable", 0, str(error))
            return
        step = restored.step
        tree = restored.tree
        values = [np.asarray(shard.data) for leaf in tree.values() for shard in leaf.addressable_shards]
        good = all((value == step).all() for value in values) and restored.notes == [
            {"process": index, "step": step} for index in range(processes)
        ]
        say("restored", step, good, restored.skipped)
    again = draw.random() < 0.5
    while True:
        if step and again:
            say("saving", step)
            checkpoints.save(step, tree, {"process": process, "step": step})
        again = True
        for _ in range(draw.randrange(1, 4)):
            tree = step_fn(tree)
            step += 1
            checkpoints.check()
        if checkpoints.saved is not None:
            say("saved", checkpoints.saved)


def start(folder: Path, processes: int, seed: int, port: int) -> tuple[list[Any], list[int]]:
    """The processes of a run, and the ends of the pipes that they write to."""
    context = multiprocessing.get_context("fork")
    started = []
    pipes = []
    for process in range(processes):
        reader, writer = os.pipe()
        child = context.Process(target=run, args=(folder, process, processes, port, seed, writer))
        child.start()
        os.close(writer)
        started.append(child)
        pipes.append(reader)
    return started, pipes


class Listener:
    """What the processes of a run have said so far."""

    def __init__(self, pipes: list[int]) -> None:
        self.pipes = pipes
        self.said: list[list[Any]] = []
        self._rest = dict.fromkeys(pipes, b"")

    def listen(self, until: float) -> None:
        """Take in what they say until then, or until all pipes are closed."""
        while self.pipes and (left := until - time.monotonic()) > 0:
            for pipe in select.select(self.pipes, [], [], left)[0]:
                self._take(pipe)

    def wait_for(self, what: str) -> bool:
        """Whether one of them said it within PATIENCE."""
        end = time.monotonic() + PATIENCE
        while self.pipes and time.monotonic() < end and not self.steps(what):
            for pipe in select.select(self.pipes, [], [], 1.0)[0]:
                self._take(pipe)
        return bool(self.steps(what))

    def steps(self, what: str) -> list[int]:
        return [words[1] for words in self.said if words[0] == what]

    def _take(self, pipe: int) -> None:
        data = os.read(pipe, 1 << 16)
        if not data:
            self.pipes.remove(pipe)
            os.close(pipe)
        *lines, self._rest[pipe] = (self._rest[pipe] + data).split(b"\n")
        self.said += [json.loads(line) for line in lines]


def kill_and_restore(folder: Path, processes: int, kills: int, draw: random.Random) -> dict[str, Any]:
    """`kills` runs that are killed, and one more that restores.

    Returns:
        What was counted.
    """
    counts: Counter[str] = Counter()
    last = 0  # the newest step that any process said was saved
    began = time.monotonic()
    for attempt in range(kills + 1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started, pipes = start(folder, processes, draw.randrange(1 << 30), port)
        listener = Listener(pipes)
        if not listener.wait_for("saving"):
            counts["did not begin"] += 1
        if attempt < kills:
            listener.listen(time.monotonic() + draw.uniform(0, LONGEST))
        counts["ended by themselves"] += not all(child.is_alive() for child in started)
        draw.shuffle(started)
        for number, child in enumerate(started):
            if number:
                time.sleep(draw.uniform(0, 0.05))
            child.kill()
        listener.listen(time.monotonic() + PATIENCE)
        for child in started:
            child.join()
        restored = [words for words in listener.said if words[0] == "restored"]
        counts["unreadable"] += bool(listener.steps("unreadable"))
        counts["wrong values"] += any(not words[2] for words in restored)
        counts["passed over"] += any(words[3] for words in restored)
        counts["restored"] += bool(restored)
        for words in restored:
            counts["steps lost"] = max(counts["steps lost"], last - words[1])
        last = max([last, *listener.steps("saved")])
        if attempt < kills:
            counts["kills"] += 1
            left = {path.name.split("-")[0] for path in folder.glob(".*")} if folder.exists() else set()
            counts.update(f"left {name}" for name in left)
            counts["within a save"] += bool(left) or max([0, *listener.steps("saving")]) > last
        if attempt % 20 == 0:
            print(f"{processes} processes, {attempt} kills: {dict(counts)}", file=sys.stderr, flush=True)
    return {**counts, "last step": last, "seconds": round(time.monotonic() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="of each number of processes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
    rows = {
        "SIGKILLs": "kills",
        "while a save was on its way": "within a save",
        "which left files half written (`.partial-…`)": "left .partial",
        "a step half replaced (`.replaced-…`)": "left .replaced",
        "a step half removed (`.removed-…`)": "left .removed",
        "starts that restored a step": "restored",
        "unreadable": "unreadable",
        "passed over as damaged": "passed over",
        "values other than the step's": "wrong values",
        "most steps lost beyond the last that was said to be saved": "steps lost",
        "runs that did not begin or ended by themselves": "failed",
        "last step": "last step",
        "seconds": "seconds",
    }
    results = []
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as scratch:
            found = kill_and_restore(
                Path(scratch, "run"), processes, options.kills, random.Random(options.seed + processes)
            )
        found["failed"] = found.get("did not begin", 0) + found.get("ended by themselves", 0)
        results.append(found)
    print("| | one process | two processes |\n|---|---|---|")
    for title, name in rows.items():
        print(f"| {title} | {' | '.join(str(found.get(name, 0)) for found in results)} |")
    bad = ("unreadable", "passed over", "wrong values", "steps lost", "failed")
    if any(found.get(name, 0) for found in results for name in bad):
        raise SystemExit("checkpoints were lost")


if __name__ == "__main__":
    main()
