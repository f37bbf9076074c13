#!/usr/bin/env bash
# tensorboardX 2.6.5: where its file of events can no longer be written, SummaryWriter.add_scalar waits for ever. The thread
# that writes has ended by then, and the queue to it, which holds ten events, is full.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorboardX==2.6.5 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import importlib.metadata
import os
import resource
import signal
import sys
import threading

from tensorboardX import SummaryWriter

ADDED = 1000
SECONDS = 10

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
threading.excepthook = lambda args: print("the thread that writes:", repr(args.exc_value))
writer = SummaryWriter(f"{sys.argv[1]}/board", flush_secs=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as a disk with room for 1,000 bytes
added = []


def add():
    for step in range(ADDED):
        writer.add_scalar("loss", 1.0, step)
        added.append(step)


thread = threading.Thread(target=add, daemon=True)
thread.start()
thread.join(SECONDS)
print("tensorboardX", importlib.metadata.version("tensorboardX"))
print(f"after {SECONDS} s {len(added)} of {ADDED} scalars were added")
sys.stdout.flush()
assert thread.is_alive(), "changed: add_scalar no longer waits"
print("as found: add_scalar waits, and says nothing")
sys.stdout.flush()
os._exit(0)
PYTHON
