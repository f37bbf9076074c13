"""What this installation has and whether it works: versions, devices, codecs, memory, shipped files.

`examine() -> dict` (what `ringvision doctor --json` prints), `describe(report) -> str` for people. "problems"
lists what would keep `ringvision ask` from working; nothing here raises.
"""

import hashlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ringvision import shipped
from ringvision.errors import UserError

PACKAGES = (
    *("ringvision", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("safetensors", "sentencepiece", "decord", "av", "gradio"),
)


def examine() -> dict[str, Any]:
    """{"python", "platform", "packages", "devices", "memory", "codecs", "shipped", "problems"}."""
    problems: list[str] = []

    def tried(what: str, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except Exception as error:
            problems.append(f"{what}: {type(error).__name__}: {error}")
            return None

    report = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": tried("devices", _devices),
        "memory": tried("memory", _memory),
        "codecs": {
            decoder: tried(decoder, look)
            for decoder, look in (("decord", _decord), ("av", _av), ("h264", _round_trip))
        },
        "shipped": tried("shipped files", _shipped) or [],
    }
    if not any(
        Path(file["file"]).name == "model.safetensors" and Path(file["file"]).parts[0] == "demos"
        for file in report["shipped"]
    ):
        problems.append("shipped files: there is no model under demos/model; give your own with --model DIR")
    if report["codecs"]["av"] and not report["codecs"]["decord"]:
        problems = [
            problem for problem in problems if not problem.startswith("decord")
        ]  # PyAV reads everything, only slower
    return {**report, "problems": problems}


def describe(report: dict[str, Any]) -> str:
    """The report as lines of `name  value`."""
    devices = report["devices"] or {}
    memory = report["memory"] or {}
    kinds = ", ".join(devices.get("kinds", []))
    lines = [
        f"python      {report['python']} on {report['platform']}",
        "packages    "
        + ", ".join(f"{name} {version or 'missing'}" for name, version in report["packages"].items()),
        f"devices     {devices.get('count', 0)} {devices.get('platform', '')} ({kinds}), "
        f"{os.cpu_count()} cores",
        f"memory      {memory.get('available_gib', 0):.1f} of {memory.get('total_gib', 0):.1f} GiB available",
    ]
    h264 = report["codecs"]["h264"]
    lines += [
        f"decord      {report['codecs']['decord'] or 'missing: PyAV decodes instead, more slowly'}",
        f"PyAV        {report['codecs']['av'] or 'missing'}",
        f"H.264       {f'written and read back, mean error {h264:.1f} of 255' if h264 is not None else 'does not work'}",
    ]
    for file in report["shipped"]:
        lines.append(
            f"shipped     {file['file']}  {file['bytes'] / 2**20:.1f} MiB  sha256 {file['sha256'][:16]}"
        )
    lines += [f"problem     {problem}" for problem in report["problems"]] or ["all well"]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    import jax

    found = jax.devices()
    return {
        "platform": found[0].platform,
        "count": len(found),
        "kinds": sorted({device.device_kind for device in found}),
    }


def _memory() -> dict[str, float]:
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "total_gib": os.sysconf("SC_PHYS_PAGES") * page / 2**30,
        "available_gib": os.sysconf("SC_AVPHYS_PAGES") * page / 2**30,
    }


def _decord() -> str:
    import decord

    return decord.__version__


def _av() -> str:
    import av

    if "h264" not in av.codecs_available:
        raise UserError("PyAV was built without H.264; install the av wheel from its registry")
    return av.__version__


def _round_trip() -> float:
    """Write two seconds of H.264, read them by the path that `ask` takes; -> the mean difference of the
    pixels.
    """
    import av

    from ringvision.data.video import sample

    shades = np.linspace(40, 200, 16).astype(np.uint8)
    frames = np.stack([np.full((64, 64, 3), shade, np.uint8) for shade in shades])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trial.mp4")
        with av.open(str(path), "w") as film:
            stream = film.add_stream("libx264", rate=8)
            stream.width = 64
            stream.height = 64
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            film.mux(stream.encode())
        read = np.concatenate([batch.frames for batch in sample(path, fps=8, size=64)])
    if len(read) != len(frames):
        raise UserError(f"{len(frames)} frames were written and {len(read)} read")
    return float(np.abs(read.astype(float) - frames).mean())


def _shipped() -> list[dict[str, Any]]:
    found = []
    for name in ("tokenizers", "demos"):
        place = shipped.folder(name)
        for path in sorted(
            (*place.rglob("*.safetensors"), *place.rglob("config.json"), *place.rglob("text.model"))
        ):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.append(
                {
                    "file": path.relative_to(place.parent).as_posix(),
                    "bytes": path.stat().st_size,
                    "sha256": digest,
                }
            )
    return found
