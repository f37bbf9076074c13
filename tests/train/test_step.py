"""The step: parts of a batch add up to it, bfloat16 learns as float32 does, what is not sound is never
applied, and every mesh gives the same.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_meshes
from tiny_run import MODEL, one_device, same
from tiny_step import drawn, first, losses, part_of, put, run, steps

from ringvision.data.packing import Batch
from ringvision.errors import UserError
from ringvision.mesh import make_mesh, parse_mesh
from ringvision.train.metrics import averages
from ringvision.train.state import shardings, update, update_shardings
from ringvision.train.step import compile_step, gradients
from ringvision.tree import flatten, unflatten


def mesh_of(text: str) -> jax.sharding.Mesh:
    axes = parse_mesh(text)
    return make_mesh(**{"context": 1, **axes}, devices=jax.devices()[: int(np.prod(list(axes.values())))])


@pytest.mark.parametrize("mesh", ["data=1", "data=2,context=2"])
def test_parts_of_a_batch_add_up_to_it(mesh: str) -> None:
    """Also where one of them has little weight, and one none."""
    batch = drawn(0, rows=8)
    batch.loss_weights[2:4] *= 0.01
    batch.loss_weights[4:6] = 0
    found = []
    for accumulate in (1, 4 if mesh == "data=1" else 2):
        setup = run(accumulate=accumulate, data={"rows": 8})
        devices = mesh_of(mesh)
        _, state = first(setup, devices, scale=3.0)
        function = partial(gradients, part=part_of(setup), config=setup, mesh=devices)
        found.append(jax.jit(function)(state, put(batch, devices)))
    whole, in_parts = found
    assert float(in_parts.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    np.testing.assert_allclose(in_parts.sums.groups, whole.sums.groups, rtol=1e-5, atol=1e-6)
    for name, leaf in flatten(whole.of_params).items():
        largest = float(jnp.abs(leaf).max())
        np.testing.assert_allclose(flatten(in_parts.of_params)[name], leaf, rtol=0, atol=1e-5 * largest)


def test_rows_that_parts_do_not_divide() -> None:
    setup = run(accumulate=4, data={"rows": 4})
    mesh = mesh_of("data=2")
    _, state = first(setup, mesh)
    with pytest.raises(UserError, match="accumulate=4 parts on data x fsdp = 2 devices: give rows that 8"):
        jax.eval_shape(partial(gradients, part=part_of(setup), config=setup, mesh=mesh), state, drawn(0))


def test_bfloat16_learns_as_float32_does() -> None:
    """Within 1 % of its loss after 100 steps; gradients, moments and parameters are float32."""
    found = {}
    for compute_dtype in ("float32", "bfloat16"):
        setup = run(compute_dtype=compute_dtype, steps=100, optimizer={"lr": 5e-3, "warmup_steps": 10})
        state, metrics = steps(setup, one_device(), map(drawn, range(100)))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "int32"}
        found[compute_dtype] = losses(metrics)
    assert found["float32"][-10:].mean() < 0.6 * found["float32"][0]
    assert found["bfloat16"][-10:].mean() == pytest.approx(found["float32"][-10:].mean(), rel=0.01)
    assert (found["bfloat16"] != found["float32"]).all()


def test_bfloat16_on_a_mesh_that_splits_heads() -> None:
    """There a sum in bfloat16 ended the process, in the CPU's compiler."""
    setup = run(compute_dtype="bfloat16", model=replace(MODEL, num_kv_heads=2))
    alone, spread = (
        steps(setup, mesh_of(mesh), [drawn(0)])[1] for mesh in ("data=1", "data=2,fsdp=2,tensor=2")
    )
    np.testing.assert_allclose(spread[0]["judged"], alone[0]["judged"], rtol=1e-2)


def spike(batch: Batch) -> Batch:
    """Weights that all but cancel, the larger at targets that are wrong: a mean loss a hundred times as
    large.
    """
    targets = batch.targets.copy()
    targets[:, ::2] = (targets[:, ::2] + 7) % 80
    weights = np.where(batch.loss_weights > 0, np.where(np.arange(64) % 2, -0.98, 1.0), 0).astype(np.float32)
    weights[:, ::2] *= -weights[:, 1::2].sum() / weights[:, ::2].sum() * 1.01
    return replace(batch, targets=targets, loss_weights=weights)


def test_what_is_not_sound_is_never_applied() -> None:
    """NaN at four steps, three of them in a row, and a batch with a hundred times the loss: each leaves the
    state as it was but for the count of steps, and the run ends like one that never met them.
    """
    setup = run(steps=60, optimizer={"warmup_steps": 10, "ema": 0.9}, health={"window": 16})
    clean = [drawn(seed) for seed in range(60)]
    with_nan = drawn(100)
    with_nan.loss_weights[0, 3] = np.nan
    damaged = {1: [with_nan], 30: [with_nan] * 3, 45: [spike(drawn(200))]}
    tx, state = first(setup, one_device())
    step = compile_step(part_of(setup), tx, setup, one_device(), state)
    refused = []
    loss = np.inf
    for number, batch in enumerate(clean):
        for bad in damaged.get(number, ()):
            before = jax.device_get(state)
            state, said = step(state, put(bad, one_device()))
            after = jax.device_get(state)
            kept = [(one.params, one.opt_state, one.average, one.health.window) for one in (before, after)]
            assert same(*kept) and int(after.step) == int(before.step) + 1
            assert int(said["applied"]) == 0 and averages([said]) == {}
            refused.append(int(said["refused"]))
            assert np.isnan(said["judged"]).all() or float(said["judged"][0]) > 100 * loss
        state, said = step(state, put(batch, one_device()))
        assert (int(said["applied"]), int(said["refused"])) == (1, 0)
        loss = float(said["judged"][0])
    assert refused == [1, 1, 2, 3, 1]
    undisturbed, metrics = steps(setup, one_device(), clean)
    assert loss == pytest.approx(float(losses(metrics)[-1]), rel=0.01)
    assert same(state.opt_state, undisturbed.opt_state)


def test_rows_and_batches_without_weight() -> None:
    """A device whose rows are padding adds nothing; a batch without any weight is not applied, nor
    refused.
    """
    batch = drawn(0)
    for array in (batch.tokens, batch.targets, batch.positions, batch.segment_ids, batch.loss_weights):
        array[2:] = 0
    setup = run()
    alone = steps(setup, one_device(), [batch, batch])
    spread = steps(setup, mesh_of("data=2"), [batch, batch])
    np.testing.assert_allclose(losses(spread[1]), losses(alone[1]), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(spread[0])))
    nothing = replace(batch, loss_weights=np.zeros_like(batch.loss_weights))
    state, metrics = steps(setup, mesh_of("data=2"), [nothing])
    _, before = first(setup, mesh_of("data=2"))
    assert same(state.params, before.params) and same(state.opt_state, before.opt_state)
    assert [int(metrics[0][name]) for name in ("applied", "refused", "tokens_weighted")] == [0, 0, 0]
    np.testing.assert_array_equal(metrics[0]["judged"], [0, 0])


def test_what_a_step_says() -> None:
    """Losses by kind and by position make up the loss; of what the batch has nothing of, nothing is said."""
    batch = drawn(0, length=600)
    setup = run(model=replace(MODEL, max_length=1024), data={"length": 600})
    mesh = mesh_of("data=4")
    tx, state = first(setup, mesh)
    signal = jax.device_put(np.array([0, 0, 1, 0], np.int32), jax.NamedSharding(mesh, jax.P("data")))
    _, said = compile_step(part_of(setup), tx, setup, mesh, state)(state, put(batch, mesh), signal)
    values = averages([said])
    loss, norm = (float(value) for value in said["judged"])
    assert set(values) == {
        "loss", "loss/text", "loss/vision", "loss/position/0-255", "loss/position/256-1023",
        "answer_accuracy", "gradient_norm",
    }  # fmt: skip
    assert values["loss"] == pytest.approx(loss, rel=1e-6) and values["gradient_norm"] == pytest.approx(norm)
    for names in (("text", "vision"), ("position/0-255", "position/256-1023")):
        means = [said[f"loss/{name}"] for name in names]
        shares = [float(mean.weight / said["loss"].weight) for mean in means]
        assert sum(shares) == pytest.approx(1, rel=1e-5)
        whole = sum(share * values[f"loss/{name}"] for share, name in zip(shares, names, strict=True))
        assert whole == pytest.approx(loss, rel=1e-5)
    assert int(said["tokens"]) == np.count_nonzero(batch.segment_ids)
    assert int(said["tokens_weighted"]) == np.count_nonzero(batch.loss_weights)
    assert [int(said[name]) for name in ("signal", "applied", "refused")] == [1, 1, 0]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_replicas_share_the_optimizer(kind: str) -> None:
    """On data=8 each device keeps an eighth of moments and average, computes an eighth of the update, and the
    update is that of one device.
    """
    model = replace(MODEL, num_layers=8, vocab_size=64)
    setup = run(model=model, optimizer={"kind": kind, "ema": 0.9, "warmup_steps": 0})
    found = {}
    flops = {}
    for devices in (1, 8):
        random = np.random.default_rng(0)
        mesh = mesh_of(f"data={devices}")
        tx, state = first(setup, mesh)
        for name, leaf in flatten((state.opt_state, state.average)).items():
            if leaf.ndim > 2:
                assert leaf.addressable_shards[0].data.size * devices == leaf.size, name
        places = update_shardings(state.params, state.opt_state, mesh)
        numbers = {
            name: random.standard_normal(leaf.shape).astype(np.float32)
            for name, leaf in flatten(state.params).items()
        }
        drawn_gradients = jax.device_put(unflatten(numbers, state.params), places)
        step = jax.jit(partial(update, tx=tx, ema=0.9), out_shardings=shardings(state, mesh))
        compiled = step.lower(state, drawn_gradients).compile()
        flops[devices] = compiled.cost_analysis()["flops"]
        found[devices] = jax.device_get(compiled(state, drawn_gradients))
    assert flops[8] < flops[1] / 6
    for one, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(found[8]), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "mesh", ["data=2,fsdp=2,tensor=2", "tensor=2,context=2,ulysses=2", "fsdp=2,context=4"]
)
def test_every_mesh_gives_the_loss_and_gradients_of_one_device(mesh: str) -> None:
    """scripts/train_meshes.py goes through all meshes of eight devices, on one process and on two."""
    expected = train_meshes.on_one_device()
    difference = train_meshes.largest_difference(train_meshes.on_mesh(parse_mesh(mesh)), expected)
    assert difference < train_meshes.TOLERANCE


def test_all_meshes_are_counted() -> None:
    meshes = train_meshes.meshes(8)
    assert len(meshes) == 35 and {int(np.prod(list(axes.values()))) for axes in meshes} == {8}
    assert all(axes.keys() == meshes[0].keys() for axes in meshes)
