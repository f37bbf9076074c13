#!/usr/bin/env bash
# safetensors 0.8.0 with NumPy: float8 arrays are written and cannot be read back by the same module; bfloat16 is
# read in a process that has imported ml_dtypes, and in no other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 ml_dtypes==0.6.0 numpy==2.4.6
cat > "$folder/read.py" <<'PYTHON'
"""read.py FILE [MODULE]: the dtype of the tensor in FILE, or the type of the error."""
import importlib
import sys

from safetensors.numpy import load_file

if len(sys.argv) > 2:
    importlib.import_module(sys.argv[2])
try:
    print(load_file(sys.argv[1])["x"].dtype)
except Exception as error:
    print(type(error).__name__)
PYTHON
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

folder = Path(sys.argv[1])


def read(path, *module):
    done = subprocess.run([sys.executable, folder / "read.py", path, *module], capture_output=True, text=True, check=True)
    return done.stdout.strip()


found = {}
for name in ("float8_e4m3fn", "float8_e5m2", "bfloat16"):
    path = folder / f"{name}.safetensors"
    save_file({"x": np.arange(4).astype(getattr(ml_dtypes, name))}, path)
    found[name] = read(path), read(path, "ml_dtypes")
print("safetensors", importlib.metadata.version("safetensors"), " ml_dtypes", ml_dtypes.__version__)
for name, (alone, with_types) in found.items():
    print(f"{name:14} written; read alone: {alone}; read after `import ml_dtypes`: {with_types}")
assert found["float8_e4m3fn"] == ("AttributeError", "AttributeError"), "changed for float8_e4m3fn"
assert found["float8_e5m2"] == ("AttributeError", "AttributeError"), "changed for float8_e5m2"
assert found["bfloat16"] == ("TypeError", "bfloat16"), "changed for bfloat16"
print("as found")
PYTHON
