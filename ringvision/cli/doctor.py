"""`ringvision doctor`: what this installation has and whether it works: versions, devices, codecs, memory,
shipped files.

`examine() -> dict` is what --json prints, `describe(report) -> str` is for people. "problems" lists what
would keep `ringvision ask` from working; nothing here raises.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringvision import shipped
from ringvision.cli.devices import start_jax
from ringvision.cli.output import print_result
from ringvision.cli.parsing import Command, Json
from ringvision.errors import UserError

PACKAGES = (
    *("ringvision", "jax", "jaxlib", "flax", "optax", "numpy"),
    *("safetensors", "sentencepiece", "decord", "av", "gradio"),
)


@dataclasses.dataclass(frozen=True)
class Doctor(Command):
    json: Json = False

    def run(self) -> int:
        start_jax()
        report = examine()
        print_result(report, describe(report), as_json=self.json)
        return 1 if report["problems"] else 0


def examine() -> dict[str, Any]:
    """{"python", "platform", "packages", "devices", "memory", "codecs", "shipped", "problems"}."""
    problems: list[str] = []

    def try_to(what: str, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except Exception as error:
            problems.append(f"{what}: {type(error).__name__}: {error}")
            return None

    report = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": try_to("devices", _devices),
        "memory": try_to("memory", _memory),
        "codecs": {
            decoder: try_to(decoder, look)
            for decoder, look in (("decord", _decord), ("av", _av), ("h264", _round_trip))
        },
        "shipped": try_to("shipped files", _shipped) or [],
    }
    files = [Path(file["file"]) for file in report["shipped"]]
    if not any(file.name == "model.safetensors" and file.parts[0] == "demos" for file in files):
        problems.append("shipped files: there is no model under demos/model; give your own with --model DIR")
    if report["codecs"]["av"] and not report["codecs"]["decord"]:
        # PyAV reads everything, only slower
        problems = [problem for problem in problems if not problem.startswith("decord")]
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
    codecs = report["codecs"]
    error = codecs["h264"]
    h264 = "does not work" if error is None else f"written and read back, mean error {error:.1f} of 255"
    lines += [
        f"decord      {codecs['decord'] or 'missing: PyAV decodes instead, more slowly'}",
        f"PyAV        {codecs['av'] or 'missing'}",
        f"H.264       {h264}",
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
    """Write two seconds of H.264 and read them as `ask` reads a video; -> the mean difference of the pixels,
    of 255.
    """
    import av
    import numpy as np

    from ringvision.data.video import sample

    shades = np.linspace(40, 200, 16).astype(np.uint8)
    frames = np.stack([np.full((64, 64, 3), shade, np.uint8) for shade in shades])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trial.mp4")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width = 64
            stream.height = 64
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        read = np.concatenate([batch.frames for batch in sample(path, fps=8, size=64)])
    if len(read) != len(frames):
        raise UserError(f"{len(frames)} frames were written and {len(read)} read")
    return float(np.abs(read.astype(float) - frames).mean())


def _shipped() -> list[dict[str, Any]]:
    found = []
    for name in ("tokenizers", "demos"):
        folder = shipped.folder(name)
        wanted = ("*.safetensors", "config.json", "text.model")
        for path in sorted(path for pattern in wanted for path in folder.rglob(pattern)):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.append(
                {
                    "file": path.relative_to(folder.parent).as_posix(),
                    "bytes": path.stat().st_size,
                    "sha256": digest,
                }
            )
    return found
