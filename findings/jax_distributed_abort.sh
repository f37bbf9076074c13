#!/usr/bin/env bash
# jax 0.10.2: `jax.distributed.initialize` does not raise where nobody listens at the coordinator's address: it ends
# the process by SIGABRT (status 134), and no `except` sees it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2
cat > "$folder/join.py" <<'PYTHON'
import socket

import jax

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
try:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=1, initialization_timeout=3)
except BaseException as error:
    print("raised", type(error).__name__)
PYTHON
status=0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/join.py" > "$folder/out" 2> "$folder/err" || status=$?
cat "$folder/out"
grep -o 'Terminating process because the JAX distributed service detected fatal errors' "$folder/err" || true
echo "exit status $status"
[ "$status" -eq 134 ] && ! grep -q raised "$folder/out" || { echo "changed"; exit 1; }
echo "as found"
