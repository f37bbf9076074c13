"""The cuDNN kernel without a GPU: plain JAX in the place of cuDNN's two calls, and what the real calls are
lowered to.
"""

import re
from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import Problem, dense_attention, make_problem, relative
from jax._src.cudnn import fused_attention_stablehlo as fused
from jax.sharding import PartitionSpec

from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.ops.attention import (
    AttentionInputs,
    OutputGradient,
    empty,
    group,
    heads_first,
    merge_grouped,
    ungroup,
)
from ringvision.ops.kernels import cudnn
from ringvision.ops.kernels.cudnn import DIAGONAL
from ringvision.ops.layout import inverse, order
from ringvision.ops.mask import ANY, MaskSpec, Tokens, attention_mask
from ringvision.ops.tiles import EMPTY, FULL, PARTIAL


def scores_of(q, k, scale, causal):
    """[B, N, T, H], [B, K, S, H] -> [B, K, G, T, S]; causal by index, as cuDNN's mask is."""
    queries = q.reshape(q.shape[0], k.shape[1], -1, *q.shape[2:])
    scores = (
        jnp.einsum("BKGTH,BKSH->BKGTS", queries, k, precision="highest", preferred_element_type=jnp.float32)
        * scale
    )
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool)) if causal else True
    return jnp.where(seen, scores, -jnp.inf)


def plain_forward(q, k, v, *, scale, causal):
    scores = scores_of(q, k, scale, causal)
    lse = jax.nn.logsumexp(scores, -1)
    out = jnp.einsum("BKGTS,BKSH->BKGTH", jnp.exp(scores - lse[..., None]), v, precision="highest")
    return out.reshape(q.shape).astype(q.dtype), lse.reshape(q.shape[:-1])


def plain_backward(q, k, v, lse, out, d_out, *, scale, causal):
    """Delta from `out`, as cuDNN makes it; sums of products in float32, what goes into a product and what
    comes out in q's type.
    """
    assert lse.dtype == jnp.float32 and lse.shape == q.shape[:-1] and out.dtype == d_out.dtype == q.dtype
    einsum = partial(jnp.einsum, precision="highest", preferred_element_type=jnp.float32)
    scores = scores_of(q, k, scale, causal)
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)
    lse, delta = (x.reshape(scores.shape[:-1])[..., None] for x in (lse, delta))
    queries, d_outs = (x.reshape(*scores.shape[:-1], x.shape[-1]) for x in (q, d_out))
    weights = jnp.exp(scores - lse)
    d_scores = (weights * (einsum("BKGTH,BKSH->BKGTS", d_outs, v) - delta) * scale).astype(q.dtype)
    dq = einsum("BKGTS,BKSH->BKGTH", d_scores, k).reshape(q.shape)
    dk = einsum("BKGTS,BKGTH->BKSH", d_scores, queries)
    dv = einsum("BKGTS,BKGTH->BKSH", weights.astype(q.dtype), d_outs)
    return [x.astype(q.dtype) for x in (dq, dk, dv)]


@pytest.fixture
def plain(monkeypatch):
    """Plain JAX for cuDNN: any device and any type will do."""
    monkeypatch.setattr(cudnn, "obstacle", lambda q: None)
    monkeypatch.setattr(cudnn, "_fused_forward", plain_forward)
    monkeypatch.setattr(cudnn, "_fused_backward", plain_backward)


@pytest.fixture
def anywhere(monkeypatch):
    """The checks that need a GPU, passed without one."""
    monkeypatch.setattr(cudnn, "obstacle", lambda q: None)
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91300)


@cache
def compiled(mask_spec: MaskSpec):
    """Only for tests with `plain`: the place of cuDNN's calls is looked up while tracing."""
    return jax.jit(partial(cudnn.forward, mask_spec=mask_spec)), jax.jit(
        partial(cudnn.backward, mask_spec=mask_spec)
    )


def ring_of_blocks(problem: Problem, shares: int, mask_spec: MaskSpec) -> dict[str, np.ndarray]:
    """What a ring does, one block after another: every share of queries to every share of keys, merged; then
    the same backward.
    """
    forward, backward = compiled(mask_spec)
    kv_heads = problem.k.shape[2]
    cut = partial(np.split, indices_or_sections=shares)
    tokens = [Tokens(*x) for x in zip(cut(problem.q_positions, axis=1), cut(problem.q_segment_ids, axis=1))]
    earliest = [None] * shares if problem.q_earliest is None else cut(problem.q_earliest, axis=1)
    queries = [x._replace(earliest=limit) for x, limit in zip(tokens, earliest)]
    q, d_out = (cut(np.asarray(group(x, kv_heads)), axis=3) for x in (problem.q, problem.d_out))
    k, v = (cut(np.asarray(heads_first(x)), axis=2) for x in (problem.k, problem.v))
    everyone = range(shares)
    outs = []
    lses = []
    dq = [0] * shares
    dk = [0] * shares
    dv = [0] * shares
    for i in everyone:
        out, lse = empty(q[i])
        for j in everyone:
            inputs = AttentionInputs(q[i], k[j], v[j], queries[i], tokens[j])
            out, lse = merge_grouped((out, lse), forward(inputs))
        assert out.dtype == lse.dtype == jnp.float32
        outs.append(out)
        lses.append(lse)
    for i, j in product(everyone, everyone):
        delta = (outs[i] * d_out[i]).sum(-1)
        inputs = AttentionInputs(q[i], k[j], v[j], queries[i], tokens[j])
        grads = backward(inputs, OutputGradient(lses[i], d_out[i], delta))
        assert all(x.dtype == jnp.float32 for x in grads)
        dq[i], dk[j], dv[j] = (a + b for a, b in zip((dq[i], dk[j], dv[j]), grads))
    lse = np.concatenate(lses, -1)
    return {
        "out": np.asarray(ungroup(jnp.concatenate(outs, 3))),
        "lse": lse.reshape(lse.shape[0], -1, lse.shape[-1]),
        "dq": np.asarray(ungroup(jnp.concatenate(dq, 3))),
        "dk": np.concatenate(dk, 2).swapaxes(1, 2),
        "dv": np.concatenate(dv, 2).swapaxes(1, 2),
    }


def check(problem: Problem, shares: int, layout: str, *, causal=True, window=None) -> None:
    laid_out = order(problem.q.shape[1], shares, layout)
    actual = ring_of_blocks(
        problem.ordered(laid_out), shares, MaskSpec(causal, window, problem.q.shape[-1] ** -0.5)
    )
    back = inverse(laid_out)
    expected = dense_attention(problem, causal=causal, window=window)
    assert np.abs(actual["out"][:, back] - expected["out"]).max() < 2e-6
    lse = actual["lse"][..., back]
    seen = np.isfinite(expected["lse"])
    assert np.array_equal(np.isneginf(lse), ~seen)
    assert np.abs(lse[seen] - expected["lse"][seen]).max() < 2e-6
    for name in ("dq", "dk", "dv"):
        assert relative(actual[name][:, back], expected[name]) < 1e-5, name


@pytest.mark.parametrize("layout", ["zigzag", "contiguous", "striped"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("documents", [False, True])
def test_a_ring_of_blocks_is_dense_attention(plain, layout, causal, documents):
    check(make_problem(segments=documents), 4, layout, causal=causal)


@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [5, 40])
def test_windows(plain, layout, causal, window):
    check(make_problem(), 4, layout, causal=causal, window=window)


@pytest.mark.parametrize("layout", ["zigzag", "contiguous", "striped"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("documents", [False, True])
def test_two_kinds_of_queries(plain, layout, causal, documents):
    check(make_problem(segments=documents).with_kinds(window=9), 4, layout, causal=causal)


def test_documents_that_end_with_the_halves(plain):
    """Two documents of 24 and 40 in shares of 16: quarters of another document are EMPTY, and none is
    PARTIAL.
    """
    problem = make_problem()
    problem.q_segment_ids[:, 24:] = 2
    problem.q_positions[:, 24:] -= 24
    check(problem, 4, "contiguous")


@pytest.mark.parametrize("length, shares", [(45, 5), (4, 4)])
def test_lengths_that_cannot_be_halved(plain, length, shares):
    check(make_problem(length=length), shares, "contiguous")


def test_rows_of_padding_are_zero_and_take_no_gradient(plain):
    problem = make_problem(segments=True)
    problem.q_segment_ids[1] = 0
    actual = ring_of_blocks(problem, 2, MaskSpec(True, None, 0.25))
    padding = problem.q_segment_ids == 0
    assert np.isneginf(actual["lse"].swapaxes(1, 2)[padding]).all()
    for name in ("out", "dq", "dk", "dv"):
        assert not actual[name][padding].any(), name


def tokens_of(start: int, length: int = 8, segment: int = 1, stride: int = 1) -> Tokens:
    return Tokens(jnp.arange(start, start + length * stride, stride)[None], jnp.full((1, length), segment))


def joined(*parts: Tokens, axis: int = 1) -> Tokens:
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis), *parts)


def reaching(tokens: Tokens, *earliest: int) -> Tokens:
    """With these limits for its queries, by turns."""
    return tokens._replace(earliest=jnp.resize(jnp.array(earliest), tokens.positions.shape))


CAUSAL = MaskSpec(True, None, 1.0)
BOTH_WAYS = MaskSpec(False, None, 1.0)
RUN = tokens_of(8)
LATER = tokens_of(16)
PADDED = joined(tokens_of(8, 7), tokens_of(0, 1, segment=0))


@pytest.mark.parametrize(
    "queries, keys, mask_spec, kind",
    [
        (RUN, RUN, CAUSAL, DIAGONAL),
        (LATER, RUN, CAUSAL, FULL),
        (RUN, LATER, CAUSAL, EMPTY),
        (RUN, RUN, BOTH_WAYS, FULL),
        (RUN, LATER, BOTH_WAYS, FULL),
        (RUN, tokens_of(8, segment=2), BOTH_WAYS, EMPTY),
        (RUN, tokens_of(8, segment=2), CAUSAL, EMPTY),
        (tokens_of(9), RUN, CAUSAL, PARTIAL),
        (RUN, tokens_of(9), CAUSAL, PARTIAL),
        (RUN, tokens_of(8, 7), CAUSAL, PARTIAL),
        (
            joined(tokens_of(12, 4), tokens_of(8, 4)),
            joined(tokens_of(12, 4), tokens_of(8, 4)),
            CAUSAL,
            PARTIAL,
        ),
        (PADDED, PADDED, CAUSAL, PARTIAL),
        (LATER, PADDED, CAUSAL, PARTIAL),
        (tokens_of(1, stride=4), tokens_of(1, stride=4), CAUSAL, DIAGONAL),
        (tokens_of(3, stride=4), tokens_of(1, stride=4), CAUSAL, DIAGONAL),
        (tokens_of(1, stride=4), tokens_of(3, stride=4), CAUSAL, PARTIAL),
        (RUN, RUN, MaskSpec(True, 8, 1.0), DIAGONAL),
        (RUN, RUN, MaskSpec(True, 7, 1.0), PARTIAL),
        (LATER, RUN, MaskSpec(True, 16, 1.0), FULL),
        (LATER, RUN, MaskSpec(True, 15, 1.0), PARTIAL),
        (LATER, RUN, MaskSpec(True, 1, 1.0), EMPTY),
        (reaching(RUN, 8), RUN, CAUSAL, DIAGONAL),
        (reaching(RUN, 9), RUN, CAUSAL, PARTIAL),
        (reaching(RUN, ANY, 9), RUN, CAUSAL, PARTIAL),
        (reaching(LATER, 8, ANY), RUN, CAUSAL, FULL),
        (reaching(LATER, 8, 9), RUN, CAUSAL, PARTIAL),
        (reaching(LATER, 15, 16), RUN, CAUSAL, PARTIAL),
        (reaching(LATER, 16, 17), RUN, CAUSAL, EMPTY),
        (joined(RUN, RUN, axis=0), joined(RUN, RUN, axis=0), CAUSAL, DIAGONAL),
        (joined(RUN, LATER, axis=0), joined(RUN, RUN, axis=0), CAUSAL, PARTIAL),
    ],
)
def test_kinds(queries, keys, mask_spec, kind):
    assert cudnn._kind(queries, keys, mask_spec) == kind
    seen = np.asarray(attention_mask(queries, keys, mask_spec))
    by_index = {EMPTY: np.zeros_like(seen), FULL: np.ones_like(seen), DIAGONAL: np.tril(np.ones_like(seen))}
    assert kind == PARTIAL or np.array_equal(seen, by_index[kind])


def test_a_kind_is_never_wrong():
    """Small blocks of random tokens: whatever is not PARTIAL says exactly who sees whom."""
    random = np.random.default_rng(0)
    kind_of = jax.jit(cudnn._kind, static_argnums=2)
    by_index = {EMPTY: np.zeros((3, 3)), FULL: np.ones((3, 3)), DIAGONAL: np.tril(np.ones((3, 3)))}
    found = set()

    def tokens(limits: bool = False) -> Tokens:
        positions = (
            np.sort(random.integers(0, 6, 3)) if random.integers(2) else random.integers(3) + np.arange(3)
        )
        segment_ids = random.choice([0, 1, 1, 2], 3) if random.integers(2) else np.ones(3)
        earliest = random.choice([ANY, 0, 1, 2, 4], 3)[None].astype(np.int32) if limits else None
        return Tokens(positions[None].astype(np.int32), segment_ids[None].astype(np.int32), earliest)

    for turn in range(900):
        queries = tokens(limits=turn >= 600)
        keys = tokens()
        mask_spec = MaskSpec(bool(random.integers(2)), (None, 2, 6)[random.integers(3)], 1.0)
        kind = int(kind_of(queries, keys, mask_spec))
        found.add(kind)
        assert kind == PARTIAL or np.array_equal(attention_mask(queries, keys, mask_spec)[0], by_index[kind])
    assert found == {EMPTY, PARTIAL, FULL, DIAGONAL}


@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
def test_nothing_of_a_long_document_is_left_to_the_xla_kernel(layout):
    shares = [Tokens(x, jnp.ones_like(x)) for x in jnp.split(jnp.asarray(order(64, 4, layout))[None], 4, 1)]
    kinds = []
    for queries, keys in product(shares, shares):
        whole = int(cudnn._kind(queries, keys, CAUSAL))
        quarters = [
            int(cudnn._kind(*pair, CAUSAL))
            for pair in product(cudnn._halves_of_tokens(queries), cudnn._halves_of_tokens(keys))
        ]
        kinds += quarters if whole == PARTIAL else [whole]
    assert PARTIAL not in kinds
    assert kinds.count(DIAGONAL) == 4  # every device, once: a share and itself, both runs at a time


def test_one_query_is_left_to_the_xla_kernel(anywhere):
    inputs, gradient = abstract(length=1)
    assert calls(lambda x: cudnn.forward(x, CAUSAL), inputs) == []
    assert calls(lambda x, g: cudnn.backward(x, g, CAUSAL), inputs, gradient) == []


@pytest.mark.parametrize("size", [1.0, 1e-30])
def test_an_out_made_from_delta_costs_what_the_real_one_costs(size):
    """In bfloat16, d_out over six orders of magnitude: the error of the gradients, next to that with the real
    out over all the keys.
    """
    problem = make_problem(batch=1, length=256, kv_heads=2, width=64)
    random = np.random.default_rng(1)
    problem.q *= 4
    problem.d_out *= size * 10 ** random.uniform(-3, 3, (1, 256, 4, 1)).astype(np.float32)
    problem.d_out[:, 7] = 0
    for name in ("q", "k", "v", "d_out"):
        setattr(problem, name, np.asarray(jnp.bfloat16(getattr(problem, name)), np.float32))
    expected = dense_attention(problem)
    q, k, v, d_out, out = (
        heads_first(jnp.bfloat16(x))
        for x in (problem.q, problem.k, problem.v, problem.d_out, expected["out"])
    )
    delta = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)

    def errors(out: jax.Array) -> list[float]:
        grads = plain_backward(q, k, v, jnp.float32(expected["lse"]), out, d_out, scale=0.125, causal=True)
        pairs = [
            (np.asarray(heads_first(x), np.float64) / size, expected[n] / size)
            for x, n in zip(grads, ("dq", "dk", "dv"))
        ]
        return [np.linalg.norm(actual - wanted) / np.linalg.norm(wanted) for actual, wanted in pairs]

    made = cudnn._out_for(delta, d_out)
    assert made.dtype == jnp.bfloat16
    assert (
        jnp.linalg.norm(made.astype(jnp.float32), axis=-1).max()
        <= 1.01 * jnp.linalg.norm(out.astype(jnp.float32), axis=-1).max()
    )
    assert max(errors(out)) < 0.005
    assert np.all(np.array(errors(made)) < 1.1 * np.array(errors(out)))


def abstract(
    dtype=jnp.bfloat16, width: int = 64, length: int = 64, keys: int = 64
) -> tuple[AttentionInputs, OutputGradient]:
    q, k = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 2, 3, length, width), (2, 2, keys, width)))
    q_ids, k_ids = (jax.ShapeDtypeStruct((2, n), jnp.int32) for n in (length, keys))
    per_row = jax.ShapeDtypeStruct(q.shape[:-1], jnp.float32)
    tokens = Tokens(q_ids, q_ids), Tokens(k_ids, k_ids)
    return AttentionInputs(q, k, k, *tokens), OutputGradient(per_row, q, per_row)


def calls(function, *arguments) -> list[tuple[str, str, float, str]]:
    """(name, mask, scale, operand and result types) of every call of cuDNN in what `function` is lowered to
    for CUDA.
    """
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    lines = [line.replace("\\22", '"') for line in text.splitlines() if "__cudnn$" in line]
    patterns = r"@(__cudnn\$\w+)\(", r'"mask_type": "(\w+)"', r'"fmha_scale": ([\d.]+)', r" : (\(tensor.*)"
    found = [[re.search(pattern, line)[1] for pattern in patterns] for line in lines]
    return [(name, mask, float(scale), types) for name, mask, scale, types in found]


def test_the_forward_pass_lowers_to_cudnn_with_a_float32_lse(anywhere):
    inputs, _ = abstract()
    found = calls(lambda x: cudnn.forward(x, MaskSpec(True, None, 0.25)), inputs)
    assert {(name, mask) for name, mask, _, _ in found} == {
        ("__cudnn$fmhaSoftmax", "NO_MASK"),
        ("__cudnn$fmhaSoftmax", "CAUSAL"),
    }
    assert {scale for _, _, scale, _ in found} == {0.25}
    q = "tensor<2x6x64x64xbf16>"
    k = "tensor<2x2x64x64xbf16>"
    lse = "tensor<2x6x64xf32>"
    assert f"({q}, {k}, {k}) -> ({q}, {lse}, tensor<0xui8>)" in {types for *_, types in found}
    assert {types.count("x32x") for *_, types in found} == {0, 5}


def test_the_backward_pass_lowers_to_cudnn(anywhere):
    found = calls(lambda x, g: cudnn.backward(x, g, MaskSpec(True, None, 0.25)), *abstract())
    name = "__cudnn$fmhaSoftmaxBackward"
    assert {(name, mask, scale) for name, mask, scale, _ in found} == {
        (name, "NO_MASK", 0.25),
        (name, "CAUSAL", 0.25),
    }
    q = "tensor<2x6x64x64xbf16>"
    k = "tensor<2x2x64x64xbf16>"
    lse = "tensor<2x6x64xf32>"
    assert f"({q}, {k}, {k}, {lse}, {q}, {q}) -> ({q}, {k}, {k}, tensor<0xui8>)" in {
        types for *_, types in found
    }


def test_the_backward_call_takes_its_operands_in_the_order_of_cudnn():
    """Those of one type could be swapped unnoticed; XLA wants q, k, v, lse, d_out, out."""
    q, k, lse = (
        jax.ShapeDtypeStruct(shape, kind)
        for shape, kind in (((2, 6, 8, 8), "bfloat16"), ((2, 2, 8, 8), "bfloat16"), ((2, 6, 8), "float32"))
    )
    function = jax.jit(partial(cudnn._fused_backward, scale=1.0, causal=True))
    text = function.trace(q, k, k, lse, q, q).lower(lowering_platforms=("cuda",)).as_text()
    assert "@__cudnn$fmhaSoftmaxBackward(%arg0, %arg1, %arg2, %arg3, %arg5, %arg4)" in text


def test_no_causal_call_where_none_can_be_made(anywhere):
    for mask_spec, keys in ((BOTH_WAYS, 64), (CAUSAL, 32)):
        inputs, _ = abstract(keys=keys)
        found = calls(lambda x, mask_spec=mask_spec: cudnn.forward(x, mask_spec), inputs)
        assert {mask for _, mask, *_ in found} == {"NO_MASK"}


def test_on_a_mesh_each_device_calls_cudnn_for_its_share(anywhere):
    """Inside shard_map the call stands as it is, with local shapes: nothing is left to a partitioner."""
    heads = PartitionSpec(None, "tensor", None, "context")
    ids = PartitionSpec(None, "context")
    keys = PartitionSpec(None, "tensor", "context")
    specs = AttentionInputs(heads, keys, keys, Tokens(ids, ids), Tokens(ids, ids))
    local = jax.shard_map(
        lambda x: cudnn.forward(x, CAUSAL),
        mesh=make_mesh(data=1, tensor=2, context=4),
        in_specs=(specs,),
        out_specs=(heads, PartitionSpec(None, "tensor", None, "context")),
        check_vma=False,
    )
    types = {types for *_, types in calls(local, abstract(length=128, keys=128)[0])}
    assert any(x.startswith("(tensor<2x3x32x64xbf16>, tensor<2x1x32x64xbf16>") for x in types)


@pytest.mark.parametrize(
    "dtype, width, capability, version, message",
    [
        (jnp.float32, 64, "9.0", 91300, "q is float32, expected bfloat16 or float16"),
        (jnp.bfloat16, 64, "7.5", 91300, "expected an NVIDIA GPU of compute capability 8.0"),
        (jnp.bfloat16, 60, "8.0", 91300, "head dim must be <= 128 and a multiple of 8, but got 60"),
        (jnp.bfloat16, 256, "8.0", 91300, "head dim must be <= 128"),
        (jnp.bfloat16, 64, "8.0", None, "cuDNN is not detected"),
        (jnp.bfloat16, 256, "10.0", 91300, "heads are 256 wide, expected at most 128"),
        (jnp.bfloat16, 64, "9.0", 91001, "cuDNN is 91001, whose attention is known to be faulty"),
        (jnp.bfloat16, 128, "8.0", 91300, None),
        (jnp.bfloat16, 128, "10.0", 91300, None),
        (jnp.float16, 256, "9.0", 91300, None),
    ],
)
def test_obstacles(monkeypatch, dtype, width, capability, version, message):
    monkeypatch.setattr(fused, "check_compute_capability", lambda least: float(least) <= float(capability))
    if version:
        monkeypatch.setattr(fused, "check_cudnn_version", lambda: version)
    inputs, gradient = abstract(dtype, width)
    reason = cudnn.obstacle(inputs.q)
    assert cudnn.takes(inputs.q) == (message is None)
    if message is None:
        assert reason is None
        return
    assert message in reason
    with pytest.raises(UserError, match=re.escape(message)):
        cudnn.forward(inputs, CAUSAL)
    with pytest.raises(UserError, match="take the xla kernel"):
        cudnn.backward(inputs, gradient, CAUSAL)


def test_a_cpu_is_an_obstacle():
    inputs, _ = abstract()
    assert cudnn.obstacle(inputs.q).startswith("the device is cpu, expected an NVIDIA GPU")


def test_a_rounded_lse_is_noticed(monkeypatch, anywhere):
    def rounding(*arguments, **options):
        out, lse = plain_forward(*arguments, **options)
        return out, lse.astype(jnp.bfloat16)

    monkeypatch.setattr(cudnn, "_fused_forward", rounding)
    inputs, _ = abstract()
    with pytest.raises(AssertionError, match="bfloat16"):
        jax.eval_shape(lambda x: cudnn.forward(x, CAUSAL), inputs)
