"""A run that is killed at every step, and one that moves to another mesh, against one that was left in peace.

    python scripts/resume_kills.py [--json]

A training of drawn scenes with random codes is killed by SIGKILL right after step 1 was recorded, started
again, killed after step 2, and so on up to step 12, and goes to its end; a step is saved after every second.
Compared with an undisturbed run, bit for bit: the loss and gradient norm of every step; the bytes of its last
checkpoint, which are parameters, the optimizer's moments, the average, the counters and the memory of losses;
where the data stand, which all random choices follow from; and every batch, by a hash of each of its rows
whenever it was made. On one process of 8 devices and on two of 4 each, all of which are killed.

Then a run that was stopped after step 10 goes on for 20 steps on another mesh and another number of
processes. Its losses are compared with those of the run that stayed, in units in the last place of float32.
Exit status 1 where anything differs, or a loss by more than 16 of these units.
"""

import argparse
import faulthandler
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision import distributed, shipped
from ringvision.checkpoint.manifest import file_names, read_json, read_manifest
from ringvision.config import CheckpointConfig, MeshConfig, OptimizerConfig, TrainConfig
from ringvision.data.loader import Loaded, Loader
from ringvision.data.sources import DataConfig, WorldData
from ringvision.data.tokenized import TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.data.world import make_scene
from ringvision.mesh import parse_mesh
from ringvision.models.presets import TransformerConfig
from ringvision.train.loop import train
from ringvision.train.record import Record, read_metrics

KILLS = 12
STEPS = 14
STOP = 10
MORE = 20
ULPS = 16
PATIENCE = 600.0
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
MODEL = TransformerConfig(1024, 32, 2, 4, 2, 8, 48, max_length=192)


@dataclass(frozen=True)
class Place:
    """Where a run is computed."""

    mesh: str
    processes: int
    devices: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.devices}, {self.mesh}"


KILLED = (Place("data=2,fsdp=2,context=2", 1, 8), Place("data=2,fsdp=2,context=2", 2, 4))
MOVES = (
    (KILLED[0], (Place("fsdp=2,tensor=2,context=2", 2, 4), Place("context=2,ulysses=2", 1, 4))),
    (KILLED[1], (Place("data=4,context=2", 1, 8), Place("context=1", 1, 1))),
)


def write_data(folder: Path) -> None:
    """Scenes of the drawn world with random codes, and a text model."""
    random = np.random.default_rng(0)
    (folder / "text.model").write_bytes((shipped.model() / "text.model").read_bytes())
    with TokenizedWriter(folder / "codes", num_codes=64) as writer:
        for seed in range(200):
            frames = int(make_scene(seed).duration)
            codes = random.integers(0, 64, (frames, 2, 2))
            writer.add([TokenizedVideo(f"world:{seed}", "", codes, np.arange(frames), 1.0, 64, "random")])


def config(folder: Path, out: Path, steps: int, mesh: str) -> TrainConfig:
    return TrainConfig(
        "resume",
        str(out),
        DataConfig(
            (WorldData(str(folder / "codes")),),
            length=192,
            rows=8,
            text_model=str(folder / "text.model"),
            tokenizer="none",
        ),
        MODEL,
        steps,
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=2, ema=0.9),
        mesh=replace(MeshConfig(), **parse_mesh(mesh)),
        checkpoints=CheckpointConfig(every=2, export=False),
        log_every=1,
        loss_chunk=64,
    )


def work(run: TrainConfig, place: Place, process: int, port: int, kill: int, stop: int | None) -> None:
    """One process of a run, which ends with its last step, or by SIGKILL after the step `kill`."""
    said = os.open(f"{run.out}.said-{process}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    faulthandler.enable()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", place.devices)
    if place.processes > 1:
        distributed.start(f"127.0.0.1:{port}", place.processes, process)
    batches = Loader.batches
    write = Record.write

    def noting(loader: Loader, state: Any = None) -> Generator[Loaded, None, None]:
        with open(f"{run.out}.rows-{process}", "a", buffering=1) as file:
            for loaded in batches(loader, state):
                arrays = jax.tree.leaves(loaded.batch)
                for index, row in enumerate(loader.rows):
                    digest = hashlib.sha256(b"".join(array[index].tobytes() for array in arrays)).hexdigest()
                    file.write(json.dumps([loaded.state["step"], row, digest]) + "\n")
                yield loaded

    def fatal(record: Record, step: int, *rest: Any) -> None:
        write(record, step, *rest)
        if step == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    Loader.batches = noting  # type: ignore[method-assign]
    Record.write = fatal  # type: ignore[method-assign]
    train(run, stop_at=stop)


def start(run: TrainConfig, place: Place, kill: int = 0, stop: int | None = None) -> None:
    """A run's processes, from their start to their end, which has to be as expected."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=work, args=(run, place, process, port, kill, stop))
        for process in range(place.processes)
    ]
    for child in children:
        child.start()
    end = time.monotonic() + PATIENCE
    for child in children:
        child.join(max(0.0, end - time.monotonic()))
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
        child.join()
    if codes != [-signal.SIGKILL if kill else 0] * place.processes:
        said = Path(f"{run.out}.said-0").read_text()[-2000:]
        raise SystemExit(f"{place}, to be killed at {kill}: exit codes {codes}; it said: {said}")


def rows(out: Path) -> dict[tuple[int, int], set[str]]:
    """(batch, row) -> the hashes that it had, over all processes and starts."""
    found: dict[tuple[int, int], set[str]] = {}
    for path in out.parent.glob(f"{out.name}.rows-*"):
        for line in path.read_text().splitlines():
            batch, row, digest = json.loads(line)
            found.setdefault((batch, row), set()).add(digest)
    return found


def state(out: Path, step: int) -> dict[str, Any]:
    """Checksums of the arrays of a checkpoint, and where its data stand."""
    folder = out / "checkpoints" / f"step-{step:08d}"
    manifest = read_manifest(folder, step)
    notes = [read_json(folder / file_names(i, manifest.processes)[2]) for i in range(manifest.processes)]
    arrays = {name: file for name, file in manifest.files.items() if name.startswith("arrays")}
    return {"arrays": arrays, "data": [note["data"] for note in notes]}


def scalars(out: Path) -> dict[float, dict[str, float]]:
    """What a run recorded of each step, but for what depends on the clock."""
    clocks = ("time", "elapsed", "seconds_per_step", "tokens_per_second", "mfu")
    return {
        line["step"]: {name: value for name, value in line.items() if name not in clocks}
        for line in read_metrics(out)
    }


def kill_at_every_step(folder: Path, place: Place) -> dict[str, Any]:
    """What differs between a run that is killed KILLS times and one that is not."""
    began = time.monotonic()
    straight = folder / f"straight-{place.processes}"
    killed = folder / f"killed-{place.processes}"
    start(config(folder, straight, STEPS, place.mesh), place)
    run = config(folder, killed, STEPS, place.mesh)
    for step in range(1, KILLS + 1):
        start(run, place, kill=step)
    start(run, place)
    said = Path(f"{killed}.said-0").read_text()
    starts = [int(part.split()[0]) for part in said.split("from step ")[1:]]
    wanted = rows(straight)
    found = rows(killed)
    return {
        "place": str(place),
        "kills": KILLS,
        "went on from": starts,
        "steps": STEPS,
        "steps with other scalars": sum(
            scalars(killed).get(step) != values for step, values in scalars(straight).items()
        ),
        "last checkpoints differ": state(killed, STEPS) != state(straight, STEPS),
        "rows compared": len(wanted),
        "rows that differ": sum(found.get(key) != values for key, values in wanted.items()),
        "seconds": round(time.monotonic() - began),
    }


def move(folder: Path, place: Place, others: tuple[Place, ...]) -> list[dict[str, Any]]:
    """How far the losses of runs that moved to other places are from those of the one that stayed."""
    stayed = folder / f"stayed-{place.processes}"
    stopped = folder / f"stopped-{place.processes}"
    steps = STOP + MORE
    start(config(folder, stayed, steps, place.mesh), place)
    start(config(folder, stopped, steps, place.mesh), place, stop=STOP)
    found = []
    for number, other in enumerate(others):
        moved = folder / f"moved-{place.processes}-{number}"
        shutil.copytree(stopped, moved)
        start(config(folder, moved, steps, other.mesh), other)
        losses = [
            np.array([scalars(out)[step]["loss"] for step in range(STOP + 1, steps + 1)], np.float32)
            for out in (stayed, moved)
        ]
        ulps = np.abs(losses[1] - losses[0]) / np.spacing(losses[0])
        found.append(
            {
                "from": str(place),
                "to": str(other),
                "steps": len(ulps),
                "most ulps": float(ulps.max()),
                "median ulps": float(np.median(ulps)),
                "losses": [float(losses[0][0]), float(losses[0][-1])],
            }
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
    os.environ.setdefault("XLA_FLAGS", QUICK)
    results: list[dict[str, Any]] = []

    def report(found: dict[str, Any]) -> None:
        results.append(found)
        if not options.json:
            print(", ".join(f"{name}: {value}" for name, value in found.items()), flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
        writer = multiprocessing.get_context("fork").Process(target=write_data, args=(folder,))
        writer.start()  # so that no thread is left here when the runs are forked
        writer.join()
        for place in KILLED:
            report(kill_at_every_step(folder, place))
        for place, others in MOVES:
            for found in move(folder, place, others):
                report(found)
    if options.json:
        print(json.dumps(results))
    wrong = ("steps with other scalars", "last checkpoints differ", "rows that differ")
    bad = any(found.get(name) for found in results for name in wrong)
    return int(bad or any(found.get("most ulps", 0) > ULPS for found in results))


if __name__ == "__main__":
    sys.exit(main())
