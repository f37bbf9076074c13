#!/usr/bin/env bash
# jax 0.10.2: dot_product_attention(..., return_residual=True) gives the log-sum-exp in the dtype of its inputs. In
# bfloat16 it is wrong by 0.016, so two halves of the keys merged by it are 2.5 times as far from the truth as the
# same halves merged by an exact log-sum-exp.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

LENGTH = 256
HEADS = 4
WIDTH = 32
q, k, v = (
    jax.random.normal(key, (1, LENGTH, HEADS, WIDTH), jnp.bfloat16)
    for key in jax.random.split(jax.random.key(0), 3)
)


def exact(q, k, v):
    """Output and log-sum-exp in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("btnh,bsnh->btns", q, k) / np.sqrt(WIDTH)
    weights = np.exp(scores)
    total = weights.sum(-1)
    return np.einsum("btns,bsnh->btnh", weights, v) / total[..., None], np.log(total)


def merged(parts):
    """Results over different keys, put together by their log-sum-exps in float64."""
    outs, lses = (np.stack([np.asarray(x, np.float64) for x in xs]) for xs in zip(*parts))
    share = np.exp(lses - np.logaddexp.reduce(lses, axis=0))
    return (outs * share[..., None]).sum(0)


halves = [slice(0, LENGTH // 2), slice(LENGTH // 2, LENGTH)]
given = [jax.nn.dot_product_attention(q, k[:, half], v[:, half], return_residual=True) for half in halves]
true_lse = [exact(q, k[:, half], v[:, half])[1] for half in halves]
wrong_lse = max(np.abs(np.asarray(lse, np.float64) - true).max() for (_, lse), true in zip(given, true_lse))
truth = exact(q, k, v)[0]
by_given = np.abs(merged(given) - truth).mean()
by_true = np.abs(merged([(out, lse) for (out, _), lse in zip(given, true_lse)]) - truth).mean()
print("jax", jax.__version__, "on", jax.default_backend())
print("dtype of the log-sum-exp:", given[0][1].dtype, "  largest error:", round(float(wrong_lse), 4))
print("mean error of the merged output, by this log-sum-exp:", float(by_given), "  by the exact one:", float(by_true))
assert given[0][1].dtype == jnp.bfloat16, "changed: the log-sum-exp has another dtype now"
assert 0.005 < wrong_lse < 0.04, "changed: its error is another one now"
assert by_given > 1.2 * by_true, "changed: merging by it costs nothing now"
print("as found: the log-sum-exp is rounded to bfloat16")
PYTHON
