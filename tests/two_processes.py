"""What each of the two processes of test_distributed.py does: `python two_processes.py PORT PROCESS TASK`.

TASK is "fail-0" or "fail-1", or a folder, to which it writes what it found: found-PROCESS.json.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

VALUES = np.arange(8 * 16, dtype=np.float32).reshape(8, 16)


def refused(action: Callable[[], Any], disk: int | None = None) -> str:
    """What the UserError says that an action raises. disk: how many bytes a file may have meanwhile."""
    from ringvision.errors import UserError

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if disk is None else disk, before[1]))
    try:
        action()
    except UserError as error:
        return str(error)
    except ValueError as error:
        return f"ValueError: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return "nothing"


def stopped_at(mesh: jax.sharding.Mesh, process: int) -> int:
    """The step at which a run of this process ends; somebody sends SIGTERM to process 1 in the fifth."""
    from ringvision.distributed import StopRequest, signals

    step_fn = jax.jit(lambda flags: flags.max())
    with StopRequest() as stop:
        for step in range(100):
            if step == 5 and process == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                while not stop.asked:
                    time.sleep(0.01)
            if int(step_fn(signals(mesh, int(stop.asked)))):
                return step
    return -1


def checkpoints_of_both(folder: Path, process: int) -> dict[str, Any]:
    """Restores what one process saved, saves, passes over damage, and fails together."""
    from ringvision.checkpoint import Checkpoints
    from ringvision.distributed import barrier
    from ringvision.mesh import make_mesh

    mesh = make_mesh(data=2, fsdp=2)
    like = {
        "split": jax.ShapeDtypeStruct(
            VALUES.shape, VALUES.dtype, sharding=jax.NamedSharding(mesh, jax.P("fsdp", ("data", "context")))
        ),
        "whole": jax.ShapeDtypeStruct((), np.int32, sharding=jax.NamedSharding(mesh, jax.P())),
        "number": 0,
    }
    checkpoints = Checkpoints(folder / "run")
    found: dict[str, Any] = {"latest": checkpoints.latest()}
    restored = checkpoints.restore(like)
    found["notes"] = restored.notes
    found["equal"] = (
        all(
            np.array_equal(shard.data, VALUES[shard.index])
            for shard in restored.tree["split"].addressable_shards
        )
        and len({str(shard.index) for shard in restored.tree["split"].addressable_shards}) == 4
    )
    doubled = restored.tree | {"split": 2 * restored.tree["split"]}
    checkpoints.save(4, doubled, {"process": process})
    checkpoints.save(5, doubled, {"process": process})
    checkpoints.wait()
    if process == 0:
        with (folder / "run" / "step-00000005" / "notes-00001-of-00002.json").open("r+b") as file:
            file.write(b"[")
    barrier("damaged")
    restored = checkpoints.restore(like)
    found["skipped"] = [restored.step, *restored.skipped]
    began = time.monotonic()
    large = {"large": jax.jit(lambda: jax.numpy.zeros(400_000), out_shardings=like["whole"].sharding)()}
    large["split"] = jax.device_put(np.zeros(400_000), jax.NamedSharding(mesh, jax.P(mesh.axis_names)))

    def save() -> None:
        checkpoints.save(6, large)
        checkpoints.wait()

    found["full"] = refused(save, disk=100_000 if process == 1 else None)
    found["full_seconds"] = time.monotonic() - began
    checkpoints.save(7, doubled, {"process": process})
    checkpoints.close()
    return found


def models_of_both(folder: Path, process: int) -> dict[str, Any]:
    from ringvision.mesh import make_mesh
    from ringvision.train.gathered_model import save_gathered

    mesh = make_mesh(fsdp=8)
    params = {
        name: jax.make_array_from_callback(
            VALUES.shape, jax.NamedSharding(mesh, jax.P(*axes)), lambda index: VALUES[index]
        )
        for name, axes in {"layers.a": (None, "fsdp"), "b": ("fsdp",), "c": ()}.items()
    }
    card = folder / "text"
    card.write_bytes(b"text")
    save_gathered(folder / "model", {"kind": "trial"}, params, {"folder/card": card})
    again = refused(
        lambda: save_gathered(folder / "model", {"kind": "other"}, params, {}), 100 if process == 0 else None
    )
    return {"model": again}


def fail(process: int, failing: int) -> None:
    """A run that ends by an error on one process while the other is in a step that needs both."""
    from ringvision import distributed
    from ringvision.errors import UserError
    from ringvision.mesh import make_mesh

    mesh = make_mesh()
    largest = jax.jit(lambda flags: flags.max())
    try:
        with distributed.ending_together():
            largest(distributed.signals(mesh, 0)).block_until_ready()
            if process == failing:
                raise UserError("its videos are gone")
            largest(distributed.signals(mesh, 0)).block_until_ready()
    except UserError as error:
        sys.exit(f"ringvision: {error}")


def failing_of_both(process: int) -> None:
    from ringvision import distributed

    with distributed.failing_together("opening the data"):
        if process == 1:
            raise ValueError("no data here")


def work(process: int, folder: Path) -> None:
    from ringvision import distributed
    from ringvision.mesh import make_mesh

    found: dict[str, Any] = {
        "gathered": [distributed.gathered("numbers", {"is": process}) for _ in range(2)],
        "agreed": refused(lambda: distributed.agreed("the config", "same")),
        "disagreed": refused(lambda: distributed.agreed("the config", f"{process}{process}")),
        "late": refused(lambda: process or distributed.gathered("late", 0, seconds=0.2)),
        "left_out": refused(lambda: make_mesh(devices=jax.devices()[4 - 4 * process :][:4])),
        "not_filled": refused(lambda: make_mesh(data=3)),
        "together": refused(lambda: failing_of_both(process)),
        "own": make_mesh(devices=jax.local_devices()).size,
        "order": [device.process_index for device in make_mesh(data=2, tensor=2).devices.flat],
        "stopped": stopped_at(make_mesh(), process),
    }
    found |= checkpoints_of_both(folder, process)
    found |= models_of_both(folder, process)
    (folder / f"found-{process}.json").write_text(json.dumps(found))


def main(port: str, process: int, task: str) -> None:
    from ringvision import distributed

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    distributed.start(f"127.0.0.1:{port}", 2, process, seconds=60)
    if task.startswith("fail"):
        fail(process, int(task[-1]))
    else:
        work(process, Path(task))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
