"""Chunked cross-entropy against the whole table of logits in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.mesh import TRAINING, make_mesh, sharding
from ringvision.ops.losses import Groups, Sums, chunked_cross_entropy

B = 2
L = 24
D = 8
V = 40


def problem():
    random = np.random.default_rng(0)
    hidden = random.normal(size=(B, L, D)).astype(np.float32)
    head = random.normal(size=(D, V)).astype(np.float32)
    weights = random.uniform(size=(B, L)).astype(np.float32) * (random.uniform(size=(B, L)) > 0.3)
    return hidden, head, random.integers(0, V, size=(B, L)).astype(np.int32), weights


def definition(hidden, head, targets, weights):
    logits = hidden.astype(np.float64) @ head.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    d_logits = weights[..., None] * (np.exp(log_p) - np.eye(V)[targets])
    return {
        "sums": ((weights * loss).sum(), weights.sum(), (weights * (logits.argmax(-1) == targets)).sum()),
        "hidden": d_logits @ head.T.astype(np.float64),
        "head": np.einsum("BLD,BLV->DV", hidden.astype(np.float64), d_logits),
        "weights": loss,
    }


@pytest.mark.parametrize("chunk", [6, 7, 24, 100])
def test_sums_and_gradients(chunk):
    hidden, head, targets, weights = problem()
    expected = definition(hidden, head, targets, weights)

    @jax.jit
    def run(hidden, head, weights):
        def loss(hidden, head, weights):
            return chunked_cross_entropy(hidden, head, targets, weights, chunk=chunk)

        sums, pull_back = jax.vjp(loss, hidden, head, weights)
        cotangents = Sums(jnp.float32(2), jnp.float32(0), jnp.float32(0), jnp.zeros((1, 3)))
        return loss(hidden, head, weights), sums, pull_back(cotangents)

    without_gradient, sums, gradients = run(hidden, head, weights)
    for found in (without_gradient, sums):
        assert np.allclose(found[:3], expected["sums"], rtol=1e-5)
        assert np.allclose(found.groups, [expected["sums"]], rtol=1e-5)
    for name, gradient in zip(("hidden", "head", "weights"), gradients):
        assert np.abs(gradient - 2 * expected[name]).max() < 1e-5 * np.abs(expected[name]).max(), name


def test_a_mean_by_the_weights():
    """Dividing by the sum of weights sends a cotangent to both sums."""
    hidden, head, targets, weights = problem()

    def mean(weights):
        sums = chunked_cross_entropy(hidden, head, targets, weights, chunk=8)
        return sums.loss / sums.weight

    losses = definition(hidden, head, targets, weights)["weights"]
    value, gradient = jax.jit(jax.value_and_grad(mean))(weights)
    expected = (losses - value) / weights.sum()
    assert np.abs(gradient - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_logits_never_exist_as_a_whole():
    hidden, head, targets, weights = problem()

    def loss(hidden, head):
        return chunked_cross_entropy(hidden, head, targets, weights, chunk=6)[0]

    traced = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(hidden, head))
    assert f"[{B},6,{V}]" in traced
    assert f"{L},{V}]" not in traced


def test_a_mesh_that_does_not_divide_the_length():
    mesh = make_mesh(context=5, devices=jax.devices()[:5])
    with pytest.raises(UserError, match="multiples of what the mesh spreads them over, 1 and 5"):
        chunked_cross_entropy(*problem(), chunk=8, mesh=mesh)


def test_half_precision():
    hidden, head, targets, weights = problem()
    hidden = np.asarray(hidden, jnp.bfloat16)
    head = np.asarray(head, jnp.bfloat16)
    expected = definition(hidden.astype(np.float32), head.astype(np.float32), targets, weights)
    total, gradients = jax.jit(
        jax.value_and_grad(lambda *a: chunked_cross_entropy(*a, targets, weights, chunk=6)[0], argnums=(0, 1))
    )(hidden, head)
    assert total.dtype == jnp.float32
    assert float(total) == pytest.approx(expected["sums"][0], rel=1e-4)
    for name, gradient in zip(("hidden", "head"), gradients):
        assert gradient.dtype == jnp.bfloat16
        assert (
            np.abs(gradient.astype(np.float32) - expected[name]).max() < 2e-2 * np.abs(expected[name]).max()
        )


def test_spread_over_the_ring():
    """Every device works on its part of every chunk: hidden states are not gathered."""
    mesh = make_mesh(context=4, devices=jax.devices()[:4])
    arrays = problem()
    places = (("batch", "length", None), (None, None), ("batch", "length"), ("batch", "length"))
    spread = [jax.device_put(array, sharding(mesh, *place)) for array, place in zip(arrays, places)]

    def loss(hidden, head, targets, weights):
        return chunked_cross_entropy(hidden, head, targets, weights, chunk=8)[0]

    step = jax.jit(jax.value_and_grad(loss)).lower(*spread).compile()
    total, d_hidden = step(*spread)
    expected = definition(*arrays)
    assert float(total) == pytest.approx(expected["sums"][0], rel=1e-5)
    assert np.abs(d_hidden - expected["hidden"]).max() < 1e-5 * np.abs(expected["hidden"]).max()
    assert d_hidden.sharding.is_equivalent_to(spread[0].sharding, 3)
    assert "all-gather" not in step.as_text()


@pytest.mark.parametrize(
    "axes", [{"context": 4}, {"data": 2, "context": 2, "ulysses": 2}, {"fsdp": 2, "tensor": 2, "context": 2}]
)
def test_on_a_mesh_the_head_is_gathered_once_and_its_gradient_scattered_once(axes):
    """The head lies as in training; neither it nor its gradient travels within the loop over chunks."""
    devices = int(np.prod(list(axes.values())))
    mesh = make_mesh(**axes, devices=jax.devices()[:devices])
    arrays = problem()
    places = [
        sharding(mesh, *place, rules=TRAINING)
        for place in (("batch", "length", None), ("embed", "vocab"), ("batch", "length"), ("batch", "length"))
    ]
    spread = [jax.device_put(array, place) for array, place in zip(arrays, places)]

    def loss(*arrays):
        sums = chunked_cross_entropy(*arrays, chunk=2, mesh=mesh, rules=TRAINING)
        return sums[0], sums

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)).lower(*spread).compile()
    (_, sums), (d_hidden, d_head) = step(*spread)
    expected = definition(*arrays)
    np.testing.assert_allclose(sums[:3], expected["sums"], rtol=1e-5)
    for name, found, place in (("hidden", d_hidden, places[0]), ("head", d_head, places[1])):
        assert np.abs(found - expected[name]).max() < 1e-5 * np.abs(expected[name]).max(), name
        assert found.sharding.is_equivalent_to(place, found.ndim), name
    text = step.as_text()
    scattered = [axis for axis in ("fsdp", "context", "ulysses") if axes.get(axis, 1) > 1]
    assert text.count(" reduce-scatter(") == len(scattered)
    in_a_loop = [line for line in text.splitlines() if "while/body" in line]
    assert in_a_loop
    moved = ("all-gather(", "reduce-scatter(") if "tensor" in axes else ("all-gather(", "all-reduce(")
    assert not [line for line in in_a_loop if any(f" {kind}" in line for kind in moved)]


@pytest.mark.parametrize("axes", [None, {"data": 2, "context": 2}])
def test_the_sums_of_groups(axes):
    """Each group's sums are those of its positions alone; one that no position belongs to has zeros. With and
    without a gradient.
    """
    hidden, head, targets, weights = problem()
    ids = np.random.default_rng(1).integers(0, 3, size=(B, L)).astype(np.int32)
    mesh = axes and make_mesh(**axes, devices=jax.devices()[:4])

    def loss(hidden):
        sums = chunked_cross_entropy(
            hidden, head, targets, weights, chunk=5, groups=Groups(ids, 4), mesh=mesh, rules=TRAINING
        )
        return sums.loss, sums

    expected = [definition(hidden, head, targets, weights * (ids == group))["sums"] for group in range(4)]
    assert expected[3] == (0, 0, 0)
    (_, sums), _ = jax.jit(jax.value_and_grad(loss, has_aux=True))(hidden)
    _, without_gradient = jax.jit(loss)(hidden)
    for found in (sums, without_gradient):
        np.testing.assert_allclose(found.groups, expected, rtol=1e-5)
        np.testing.assert_allclose(found[:3], np.sum(expected, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": np.zeros((9, V), np.float32)}, r"hidden \(2, 24, 8\) and head \(9, 40\)"),
        ({"targets": np.zeros((2, 23), np.int32)}, r"targets of shape \(2, 23\).*\(2, 24\)"),
        ({"weights": np.zeros((24,), np.float32)}, r"weights of shape \(24,\)"),
        ({"groups": Groups(np.zeros((2, 25), np.int32), 2)}, r"groups of shape \(2, 25\)"),
        ({"chunk": 0}, "chunk=0"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = dict(zip(("hidden", "head", "targets", "weights"), problem())) | {"chunk": 6} | changes
    with pytest.raises(UserError, match=message):
        chunked_cross_entropy(**arguments)


def test_what_weighs_nothing_may_be_beyond_the_head():
    hidden, head, targets, weights = problem()
    beyond = np.where(weights == 0, V + 7, targets)
    assert (beyond >= V).any()

    def loss(hidden, head, targets):
        return chunked_cross_entropy(hidden, head, targets, weights, chunk=7)[0]

    results = [jax.value_and_grad(loss, (0, 1))(hidden, head, some) for some in (targets, beyond)]
    for expected, found in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(found, expected)
