#!/usr/bin/env bash
# PyAV 18.1.0: opening its AV1 encoder (libsvtav1) as root turns the calling thread from the usual scheduling to
# SCHED_FIFO with priority 99, and leaves it so when the file is closed. Child processes inherit it. Other encoders
# do not. Needs Linux and root (in a container, one that may set real-time priorities).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.3.5
SVT_LOG=1 "$folder/venv/bin/python" - <<'PYTHON'
import io
import os
import subprocess
import sys

import av
import numpy as np

NAMES = {os.SCHED_OTHER: "SCHED_OTHER", os.SCHED_FIFO: "SCHED_FIFO"}


def scheduling():
    return NAMES.get(os.sched_getscheduler(0)), os.sched_getparam(0).sched_priority


def encode(codec):
    with av.open(io.BytesIO(), "w", format="mp4") as file:
        stream = file.add_stream(codec, rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        picture = np.zeros((64, 64, 3), np.uint8)
        for _ in range(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def of_a_child():
    code = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()


if os.geteuid() != 0:
    sys.exit("run this as root: for others nothing changes")
seen = {"before": scheduling()}
for codec in ("libx264", "libvpx-vp9", "libsvtav1"):
    encode(codec)
    seen[codec] = scheduling()
child = of_a_child()
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
print("av", av.__version__, seen, "a child afterwards:", child)
usual = ("SCHED_OTHER", 0)
assert seen["before"] == seen["libx264"] == seen["libvpx-vp9"] == usual, "changed: other encoders do it, too"
assert seen["libsvtav1"] == ("SCHED_FIFO", 99), "changed: the scheduling stays as it was"
assert child == f"{os.SCHED_FIFO} 99", "changed: a child process has the usual scheduling"
print("as found: after libsvtav1 the thread, and what it starts, run at the highest real-time priority")
PYTHON
