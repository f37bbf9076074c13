"""Shows that the batches of a run do not depend on who makes them: 200 steps, hashed, on 1, 2 and 4 processes
of one mesh, with 0, 1 and 3 workers each, and stopped at every 17th step to go on with another number.

    python scripts/data_determinism.py [--steps 200] [--json]

The data is a mixture of videos of the world, which grow, of videos with captions and questions, and of text;
some examples of each are longer than a row. Every process is started anew, joins the others by
jax.distributed and makes the rows that its own device holds, as training does; a stopped run goes on from
the JSON of the states alone. A batch's hash is that of its rows in order.
"""

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any

ROWS = 4
LENGTH = 160
PROCESSES = (1, 2, 4)
WORKERS = (0, 1, 3)
STOP = 17


def write_data(folder: Path) -> None:
    """The text model, the two folders of tokens and the text that the config names; codes are random."""
    import numpy as np

    from ringvision import shipped
    from ringvision.data.tokenized import TokenizedVideo
    from ringvision.data.tokenized.writer import TokenizedWriter
    from ringvision.data.world import make_scene

    random = np.random.default_rng(0)
    (folder / "text.model").write_bytes((shipped.model() / "text.model").read_bytes())

    def video(source: str, frames: int, **said: Any) -> TokenizedVideo:
        codes = random.integers(0, 64, (frames, 2, 2))
        return TokenizedVideo(source, "", codes, np.arange(frames), 1.0, 64, "random", **said)

    with TokenizedWriter(folder / "world", num_codes=64) as writer:
        writer.add([video(f"world:{seed}", int(make_scene(seed).duration)) for seed in range(200)])
    with TokenizedWriter(folder / "clips", num_codes=64) as writer:
        writer.add(
            [
                video(
                    f"{number}.mp4",
                    int(random.integers(2, 60)),
                    caption=f"clip {number}",
                    qa=tuple((f"Which clip is number {number}.{n}?", f"{number} {n}") for n in range(3)),
                )
                for number in range(70)
            ]
        )

    documents = [
        " ".join(f"word {number}" for number in random.integers(0, 100, random.integers(1, 300)))
        for _ in range(60)
    ]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))


def config(folder: Path, processes: int, workers: int) -> Any:
    from ringvision.config import MeshConfig, TrainConfig
    from ringvision.data.sources import DataConfig, TextData, TokenizedData, WorldData
    from ringvision.models.presets import TransformerConfig

    sources = (
        WorldData(str(folder / "world"), turns_max=6, vision_weight=0.3, grow_from=2, grow_steps=120),
        TokenizedData(str(folder / "clips"), vision_weight=0.1, weight=0.5),
        TextData(str(folder / "text.jsonl"), weight=0.7),
    )
    data = DataConfig(
        sources, LENGTH, ROWS, text_model=str(folder / "text.model"), tokenizer="none", workers=workers
    )
    model = TransformerConfig(1024, 16, 1, 1, 1, 16, 16, max_length=3 * LENGTH)
    mesh = MeshConfig(data=processes, context=1)
    return TrainConfig("data", "unused", data, model, 1000, mesh=mesh, seed=7)


def make_rows(task: dict[str, Any]) -> None:
    """One process: print for each step the hash of each of its rows, and at the end the states."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if task["processes"] > 1:
        jax.distributed.initialize(task["address"], task["processes"], task["process"])
    from ringvision.mesh import make_mesh
    from ringvision.train.inputs import open_data

    run = config(Path(task["folder"]), task["processes"], task["workers"])
    _, loader = open_data(run, make_mesh(data=task["processes"], context=1))
    state = None if task["state"] is None else json.loads(Path(task["state"]).read_text())
    hashes = []
    with closing(loader.batches(state)) as batches:
        for loaded in islice(batches, task["steps"]):
            state = loaded.state
            arrays = jax.tree.leaves(loaded.batch)
            hashes.append(
                {
                    row: hashlib.sha256(b"".join(array[place].tobytes() for array in arrays)).hexdigest()
                    for place, row in enumerate(loader.rows)
                }
            )
    print(json.dumps({"hashes": hashes, "state": state}))


def run_processes(
    folder: Path, processes: int, workers: int, steps: int, state: dict[str, Any] | None
) -> tuple[list[str], dict[str, Any]]:
    """`steps` global batches on so many processes -> the hash of each, and the state after the last."""
    path = folder / "state.json"
    if state is not None:
        path.write_text(json.dumps(state))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for process in range(processes):
        task = {
            "folder": str(folder),
            "processes": processes,
            "process": process,
            "workers": workers,
            "steps": steps,
            "state": None if state is None else str(path),
            "address": address,
        }
        command = [sys.executable, __file__, "--task", json.dumps(task)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ))
    answers = [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]
    if any(one.returncode for one in started):
        raise SystemExit(f"a process ended with status {[one.returncode for one in started]}")
    lanes: dict[str, Any] = {}
    for answer in answers:
        lanes |= answer["state"]["lanes"]
    hashes = []
    for step in range(steps):
        rows = {row: hash for answer in answers for row, hash in answer["hashes"][step].items()}
        joined = "".join(rows[str(row)] for row in range(ROWS))
        hashes.append(hashlib.sha256(joined.encode()).hexdigest())
    return hashes, {"step": answers[0]["state"]["step"], "lanes": lanes}


def stopped_run(folder: Path, steps: int) -> list[str]:
    """The hashes of a run that is stopped at every STOP-th step, and goes on with the next number of
    processes and of workers.
    """
    hashes: list[str] = []
    state: dict[str, Any] | None = None
    for processes, workers in zip(cycle(PROCESSES), cycle((0, 0, 0, 1, 3)), strict=False):
        count = min(STOP, steps - len(hashes))
        if not count:
            return hashes
        found, state = run_processes(folder, processes, workers, count, state)
        hashes += found
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        make_rows(arguments.task)
        return
    began = time.monotonic()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        for processes in PROCESSES:
            for workers in WORKERS:
                hashes, _ = run_processes(folder, processes, workers, arguments.steps, None)
                results.append({"processes": processes, "workers": workers, "stops": 0, "hashes": hashes})
        hashes = stopped_run(folder, arguments.steps)
        stops = (arguments.steps - 1) // STOP
        results.append({"processes": "1, 2, 4", "workers": "0, 1, 3", "stops": stops, "hashes": hashes})
    expected = results[0]["hashes"]
    for result in results:
        found = result.pop("hashes")
        result |= {"equal": sum(map(str.__eq__, found, expected)), "steps": len(found)}
        result["hash"] = hashlib.sha256("".join(found).encode()).hexdigest()[:16]
    different = len(set(expected))
    if arguments.json:
        print(json.dumps({"runs": results, "different": different}))
    else:
        print(f"| processes | workers | stops | equal to the first run | hash of {arguments.steps} steps |")
        print("|---|---|---|---|---|")
        for one in results:
            print(
                f"| {one['processes']} | {one['workers']} | {one['stops']} "
                f"| {one['equal']} of {one['steps']} | {one['hash']} |"
            )
        print(f"\n{different} different batches; {time.monotonic() - began:.0f} s")
    if any(one["equal"] != arguments.steps for one in results):
        raise SystemExit("batches differ")


if __name__ == "__main__":
    main()
