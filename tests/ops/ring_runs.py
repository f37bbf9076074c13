"""The ring on a problem of dense.py: run with its gradients, and held against float64."""

from functools import cache

import jax
import numpy as np
from dense import Problem, relative
from optimised import optimised_jit

from ringvision.mesh import make_mesh
from ringvision.ops.layout import inverse, order
from ringvision.ops.ring import ring_attention


@cache
def ring(
    devices: int,
    *,
    causal=True,
    window=None,
    data=1,
    tensor=1,
    ulysses=1,
    exchange=None,
    kernel=None,
    layout=None,
    as_users_compile_it=False,
):
    """(problem's arrays) -> (out, dq, dk, dv), compiled once for each shape. With `layout` positions are not
    given but follow from it.
    """
    count = devices * data * tensor * ulysses
    mesh = make_mesh(
        data=data, tensor=tensor, context=devices, ulysses=ulysses, devices=jax.devices()[:count]
    )

    @(optimised_jit if as_users_compile_it else jax.jit)
    def run(q, k, v, d_out, positions, segment_ids, earliest=None):
        def attend(q, k, v):
            known = {"layout": layout} if layout else {"positions": positions, "segment_ids": segment_ids}
            known |= {"causal": causal, "window": window, "earliest": earliest}
            return ring_attention(q, k, v, mesh=mesh, exchange=exchange, kernel=kernel, **known)

        out, pull_back = jax.vjp(attend, q, k, v)
        return out, *pull_back(d_out)

    return run


def run(problem: Problem, devices: int, **options) -> dict[str, np.ndarray]:
    p = problem
    tokens = p.q_positions, p.q_segment_ids, p.q_earliest
    results = ring(devices, **options)(p.q, p.k, p.v, p.d_out, *tokens)
    return dict(zip(("out", "dq", "dk", "dv"), map(np.asarray, results)))


def run_laid_out(problem: Problem, devices: int, arrangement: str, **options) -> dict[str, np.ndarray]:
    """`run` with the tokens in a layout; the results are in the problem's own order."""
    laid_out = order(problem.q.shape[1], devices, arrangement)
    results = run(problem.ordered(laid_out), devices, **options)
    return {name: array[:, inverse(laid_out)] for name, array in results.items()}


def check(
    actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], case: object, *, alone: bool = False
) -> None:
    """Outputs to 2e-6, absolutely (they are averages of standard normals); gradients to 1e-5 of the largest
    element of each.

    `alone`: tokens may see themselves alone, by which the gradients of q and k are nothing but what rounding
    leaves of terms that cancel: they are then compared with the largest element of all three.
    """
    assert np.abs(actual["out"] - expected["out"]).max() < 2e-6, case
    gradients = ("dq", "dk", "dv")
    for name in gradients:
        if alone:
            largest = max(np.abs(expected[other]).max() for other in gradients)
            assert np.abs(actual[name] - expected[name]).max() <= 1e-5 * largest, (case, name)
        else:
            assert relative(actual[name], expected[name]) < 1e-5, (case, name)
