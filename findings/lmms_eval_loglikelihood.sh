#!/usr/bin/env bash
# lmms-eval 0.7.3: the pair (log-probability, is greedy) that a model's `loglikelihood` is to return becomes a
# string before the task sees it, so that tasks of multiple_choice fail with every model that keeps to the
# interface. A pair inside a GenerationResult comes through.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps lmms_eval==0.7.3
"$folder/venv/bin/python" - <<'PYTHON'
from lmms_eval.api.instance import GenerationResult, unwrap_generation_output

pair = (-1.5, True)
bare, _ = unwrap_generation_output(pair)
inside, _ = unwrap_generation_output(GenerationResult(pair))
print(f"returned {pair!r}: the task gets {bare!r}; returned in a GenerationResult: {inside!r}")
assert bare == "(-1.5, True)", "changed: the pair comes through, or as something else"
assert inside == pair, "changed: a GenerationResult does not keep what it holds"
print("as found")
PYTHON
