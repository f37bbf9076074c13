"""The devices that a command computes on: jax is set up before its first use, and a mesh made of them."""

import contextlib
import dataclasses
import hashlib
import math
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ringvision.cli.parsing import COUNT, WHOLE, Options, choice, option
from ringvision.errors import UserError

if TYPE_CHECKING:
    import jax

MOST_BY_CORE = 8
"""A short clip has no more tokens than a few cores are busy with."""
CpuDevices = Annotated[int | None, COUNT, option("on a CPU, make N devices of it")]


@dataclasses.dataclass(frozen=True)
class MeshOptions(Options):
    """Where the model runs, and in which type; `make` gives the mesh."""

    devices: Annotated[
        int | None, COUNT, option("spread the work over N devices; a CPU is made into N of them")
    ] = None
    mesh: Annotated[
        str | None,
        option(
            "how many devices each axis gets: context=4,data=2", "AXES", default="all on context, the ring"
        ),
    ] = None
    dtype: Annotated[
        str | None,
        choice("float32", "bfloat16", "float16", "stored"),
        option(
            "type of the weights and of what is computed with them; stored: as on disk", default="float32"
        ),
    ] = None

    def make(self, *, by_core: bool = False) -> "jax.sharding.Mesh":
        """The mesh of --devices and --mesh: without --devices as many as --mesh names; without --mesh all on
        the ring. by_core: without either a CPU is made into a device for each core, for what spends its time
        reading long prompts: a device goes through the tiles of attention one after another, on one core.
        """
        import jax

        from ringvision.mesh import make_mesh, parse_mesh

        axes = parse_mesh(self.mesh) if self.mesh else {}
        devices = self.devices
        if devices is None and axes:
            devices = math.prod(axes.values())
        if devices is None and by_core:
            make_cpu_devices(min(_cores(), MOST_BY_CORE))
        start_jax(devices)
        return make_mesh(**axes, devices=jax.devices()[:devices])


@dataclasses.dataclass(frozen=True)
class ProcessOptions(Options):
    """The several processes of a run; none of these where the cluster says it (SLURM, a TPU pod)."""

    coordinator: Annotated[
        str | None,
        option("where process 0 listens, the same for all; for a run on several hosts", "HOST:PORT"),
    ] = None
    processes: Annotated[int | None, COUNT, option("how many processes there are")] = None
    process: Annotated[int | None, WHOLE, option("which one this is, from 0", "I")] = None

    def start(self) -> None:
        """Make this process one of them, before jax is used; nothing where there is one. UserError where the
        others are not found.
        """
        from ringvision import distributed

        distributed.start(self.coordinator, self.processes, self.process)


Processes = Annotated[ProcessOptions, option("Several processes as one run.")]
Mesh = Annotated[MeshOptions, option("Where the model runs, and in which type.")]


def start_jax(devices: int | None = None) -> None:
    """Set up jax before its first use: where compiled programs are kept, and on a CPU how many devices it
    makes of it.

    Raises:
        UserError: where there are fewer devices than `devices`.
    """
    import jax

    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", str(_cache_folder(jax.__version__)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if devices is None:
        return
    make_cpu_devices(devices)
    available = jax.local_device_count()
    kind = jax.default_backend()
    if available < devices:
        raise UserError(
            f"{devices} devices were asked for, but there are {available} of kind {kind} here; ask for "
            f"{available} or fewer"
        )


def make_cpu_devices(devices: int) -> None:
    """Make so many devices of a CPU, unless jax has started already in this process: what it has must do."""
    import jax

    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", devices)


def describe_mesh(mesh: "jax.sharding.Mesh") -> str:
    """`4 cpu devices, a ring of 4`."""
    ring = mesh.shape["context"]
    kind = mesh.devices.flat[0].platform
    return f"{mesh.size} {kind} device{'s' * (mesh.size != 1)}" + (f", a ring of {ring}" if ring > 1 else "")


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cache_folder(version: str) -> Path:
    """Compiled programs fit one version of jax and one kind of processor: a folder for each, under the user's
    cache folder.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            kind = next((line for line in file if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        kind = platform.processor()
    digest = hashlib.sha256(kind.encode()).hexdigest()[:8]
    return Path(home, "ringvision", f"jax-{version}-{platform.machine()}-{digest}")
