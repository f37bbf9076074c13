"""What travels round the ring, how often, and which hops are left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import make_problem
from jax.extend.core import Jaxpr
from jax.sharding import PartitionSpec
from ring_runs import ring

from ringvision.mesh import make_mesh
from ringvision.ops.layout import order
from ringvision.ops.mask import ANY, MaskSpec, Tokens
from ringvision.ops.route import make_route
from ringvision.ops.spec import AttentionSpec


def hops(jaxpr: Jaxpr, times: int = 1) -> list[tuple[int, tuple[int, ...], np.dtype]]:
    """(how often, shape, type) of everything that is sent to a neighbour."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "ppermute":
            found.append((times, equation.invars[0].aval.shape, equation.invars[0].aval.dtype))
        often = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        for inner in jax.tree.leaves(
            tuple(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += hops(inner, often)
    return found


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_only_kv_heads_travel_and_n_minus_one_times(devices):
    p = make_problem()
    for name in ("q", "k", "v", "d_out"):
        setattr(p, name, np.asarray(getattr(p, name), jnp.bfloat16))
    traced = jax.make_jaxpr(ring(devices, layout="zigzag"))(
        p.q, p.k, p.v, p.d_out, p.q_positions, p.q_segment_ids
    )
    sent = hops(traced.jaxpr)
    share = (2, 2, 2, 64 // devices, 16)  # k and v, batch, KV heads, tokens, width
    tokens = (2, 2, 64 // devices)  # positions and segment ids
    assert {shape for _, shape, kind in sent if kind != jnp.int32} == {share}
    assert {shape for _, shape, kind in sent if kind == jnp.int32} == {tokens}
    forward_and_backward = sum(times for times, _, kind in sent if kind == jnp.bfloat16)
    gradients = sum(times for times, _, kind in sent if kind == jnp.float32)
    assert forward_and_backward == 2 * (devices - 1)
    assert gradients == devices - 1


def test_hops_on_which_nobody_sees_anything_are_not_run():
    """A window of 9 tokens in shares of 8: the next device's keys, or those of the one after it, and no
    others.
    """
    p = make_problem()
    for window, expected in ((8, 1), (9, 1), (10, 2)):
        program = ring(8, layout="contiguous", window=window)
        traced = jax.make_jaxpr(program)(p.q, p.k, p.v, p.d_out, p.q_positions, p.q_segment_ids)
        sent = [times for times, shape, _ in hops(traced.jaxpr) if len(shape) == 5]
        # keys and values go so many hops forward and so many backward, and their gradients as many and home
        # again
        assert sum(sent) == 2 * expected + (expected - 1) + expected, window


@pytest.mark.parametrize(
    ("layout", "options", "documents", "expected"),
    [
        ("contiguous", {}, None, [1, 2, 3, 4, 5, 6, 7]),
        ("contiguous", {"window": 9}, None, [1]),
        ("contiguous", {"earliest": 9}, None, [1]),
        ("contiguous", {"earliest": 18}, None, [1, 2, 3]),
        ("zigzag", {"earliest": 5}, None, [1, 7]),
        ("contiguous", {"earliest": 9, "word": 60}, None, [1, 2, 3, 4, 5, 6, 7]),
        ("contiguous", {"earliest": 9, "word": 20}, None, [1, 2]),
        ("contiguous", {"earliest": 9}, 32, [1]),
        ("zigzag", {"window": 5}, None, [1, 7]),
        ("striped", {"window": 5}, None, [1, 2, 3, 4]),
        ("contiguous", {}, 8, []),
        ("contiguous", {}, 16, [1]),
        ("contiguous", {"causal": False}, 16, [1, 7]),
        ("zigzag", {}, 4, []),
    ],
)
def test_which_hops_are_run(layout, options, documents, expected):
    """Told from the tokens, on the devices. Rows of one document, or of documents of so many tokens; windows
    for all queries, or for those but one word.
    """
    mesh = make_mesh(data=1, context=8)
    laid_out = order(64, 8, layout)
    segment_ids = (
        np.ones((2, 64), np.int32) if documents is None else np.tile(1 + np.arange(64) // documents, (2, 1))
    )
    segment_ids[1] = 0  # padding asks for nothing
    positions = np.tile(np.arange(64), (2, 1))
    options = dict(options)
    earliest = positions - options["earliest"] + 1 if "earliest" in options else None
    if "word" in options:
        earliest[:, options["word"]] = ANY
    tokens = Tokens(positions, segment_ids, earliest).map(lambda x: jnp.asarray(x[:, laid_out], jnp.int32))
    options = {name: value for name, value in options.items() if name not in ("earliest", "word")}
    mask = MaskSpec(**({"causal": True, "window": None, "scale": 1.0} | options))
    spec = AttentionSpec(mask, mesh, kernel="xla", exchange="ring")

    def local(tokens):
        route = make_route(tokens, tokens.as_keys, spec)
        return route.hops, route.following, route.preceding

    token_spec = PartitionSpec(None, "context")
    run = jax.shard_map(local, mesh=mesh, in_specs=token_spec, out_specs=PartitionSpec(), check_vma=False)
    count, following, preceding = jax.jit(run)(tokens)
    taken = [0]
    for _ in range(int(count)):
        taken.append(int(following[taken[-1]]))
    assert taken == [0, *expected]
    back = [int(following[taken[-1]])]
    for _ in range(int(count) + 1):
        back.append(int(preceding[back[-1]]))
    assert back[1:] == taken[::-1]
