#!/usr/bin/env bash
# Orbax 0.12.8 on two processes: where one of them cannot write (a full disk), its own save fails at once, and the
# other one is told nothing: it waits until a barrier gives up, a minute and more later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 orbax-checkpoint==0.12.8
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$folder/save.py" <<'PYTHON'
"""save.py PROCESS PORT FOLDER: one of two processes, of which process 1 may write 100 kB a file; prints its seconds."""
import os
import resource
import sys
import time

import jax
import numpy as np

process, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

sharding = jax.NamedSharding(jax.make_mesh((8,), ("x",)), jax.P("x"))
values = np.random.default_rng(0).standard_normal(4_000_000)
tree = {"a": jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])}
multihost_utils.sync_global_devices("both are here")
if process == 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
began = time.monotonic()
try:
    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(f"{folder}/step", args=ocp.args.StandardSave(tree))
        checkpointer.wait_until_finished()
    what = "saved"
except Exception as error:
    what = type(error).__name__
print(f"process {process}: {what} after {time.monotonic() - began:.0f} s", flush=True)
os._exit(0)
PYTHON
"$folder/venv/bin/python" "$folder/save.py" 1 "$port" "$folder" > "$folder/one" 2> /dev/null &
"$folder/venv/bin/python" "$folder/save.py" 0 "$port" "$folder" > "$folder/zero" 2> /dev/null
wait
grep -h '^process' "$folder/zero" "$folder/one"
grep -q 'process 1: ValueError' "$folder/one" || { echo "changed: process 1"; exit 1; }
[ "$(sed -n 's/^process 0: TimeoutError after \([0-9]*\) s$/\1/p' "$folder/zero")" -gt 30 ] || { echo "changed: process 0"; exit 1; }
echo "as found"
