"""The transformer's training: packing changes nothing, stopping changes nothing, the mesh changes nothing;
and what is wrong is said.
"""

import dataclasses
import json
import math
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_run import MODEL, config, one_device, same, write_world

from ringvision.data.packing import Batch, pack
from ringvision.data.stream import Example
from ringvision.errors import UserError
from ringvision.mesh import make_mesh, parse_mesh
from ringvision.model_folder import load_model, read_config
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.train.initial_state import first_state
from ringvision.train.inputs import batch_sharder, open_data
from ringvision.train.loop import train
from ringvision.train.part import Part
from ringvision.train.record import read_metrics
from ringvision.train.state import decays, optimizer, schedule, shardings
from ringvision.train.step import compile_step, loss_fn
from ringvision.tree import flatten


def test_packed_and_unpacked_agree() -> None:
    random = np.random.default_rng(0)
    examples = []
    for size, weight in ((30, 1.0), (17, 3.0), (40, 1.0), (9, 2.0), (25, 1.0)):
        mask = (random.random(size) < 0.3).astype(np.float32)
        mask[-1] = 1
        examples.append(Example(random.integers(0, 640, size).astype(np.int32), mask, weight))
    graphdef, params = nnx.split(Transformer(MODEL, rngs=nnx.Rngs(0)))
    params = jax.tree.map(
        lambda x: 5 * x, params
    )  # attention far from even, so that a leak between examples would show
    bare_loss = partial(loss_fn, graphdef=graphdef, mesh=one_device(), chunk=32, code_offset=560)
    with_gradient = jax.jit(jax.value_and_grad(bare_loss, has_aux=True))

    def grad_fn(params: Any, batch: Batch) -> Any:
        return with_gradient(params, batch, batch.loss_weights.sum())

    (loss, _), gradient = grad_fn(params, pack(examples, 64, 2))
    (alone, _), gradient_alone = grad_fn(params, pack(examples, 40, 5))
    assert float(loss) == pytest.approx(float(alone), rel=1e-5)
    norm = math.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))
    for name, leaf in flatten(gradient).items():
        np.testing.assert_allclose(
            leaf, flatten(gradient_alone)[name], rtol=0, atol=1e-5 * norm, err_msg=name
        )
    # and by hand: every example's own mean, weighed
    total = 0.0
    for example in examples:
        (mean, _), _ = grad_fn(params, pack([example], 40, 5))
        total += float(mean) * example.weight
    assert float(loss) == pytest.approx(total / sum(example.weight for example in examples), rel=1e-5)


def test_two_steps_and_two_more_are_four_bit_for_bit(data: Path, tmp_path: Path) -> None:
    mesh = make_mesh(data=2, context=2, devices=jax.devices()[:4])
    setup = config(data, tmp_path / "resumed", optimizer={"kind": "muon", "ema": 0.9})
    straight = train(dataclasses.replace(setup, out=str(tmp_path / "straight")), quiet=True, mesh=mesh)
    halted = train(setup, stop_at=2, quiet=True, mesh=mesh)
    assert (int(halted.step), int(straight.step)) == (2, 4)
    resumed = train(setup, quiet=True, mesh=mesh)
    assert same(straight, resumed)
    assert not same(straight.params, halted.params)
    values = [
        [record["loss"] for record in read_metrics(tmp_path / name)] for name in ("straight", "resumed")
    ]
    assert values[0] == values[1]
    assert len(values[0]) == 4


def test_the_model_folder_holds_what_was_trained(data: Path, tmp_path: Path) -> None:
    setup = config(
        data,
        tmp_path,
        optimizer={"ema": 0.5},
        evaluation={"folder": str(data / "codes"), "every": 4, "examples": 20},
    )
    state = train(setup, quiet=True, mesh=one_device())
    settings = read_config(tmp_path / "model", "assistant")
    arrays = load_model(tmp_path / "model")
    assert set(arrays) == set(flatten(state.average))
    assert all(np.array_equal(arrays[name], leaf) for name, leaf in flatten(state.average).items())
    assert TransformerConfig.from_dict(settings["transformer"]) == MODEL
    assert settings["vocabulary"]["text_size"] + settings["vocabulary"]["vision_size"] == MODEL.vocab_size
    assert (tmp_path / "model/text.model").read_bytes() == (data / "text.model").read_bytes()
    last = read_metrics(tmp_path)[-1]
    assert 0 <= last["eval/all"] <= 1
    assert {"eval/colour", "eval/needle", "eval/time"} <= set(last)
    assert (tmp_path / "curves.png").is_file()
    saved = json.loads((tmp_path / "run.json").read_text())
    assert saved["optimizer"]["lr"] == setup.optimizer.lr
    assert saved["data"]["rows"] == setup.data.rows
    assert saved["data"]["sources"][0]["kind"] == "WorldData"


@pytest.mark.parametrize(
    ("mesh", "rule", "length"),
    [
        ("data=2,context=4", "adamw", 192),
        ("fsdp=2,tensor=2,context=2", "muon", 192),
        ("fsdp=2,context=2,ulysses=2", "adamw", 192),
        ("data=2,context=2,ulysses=2", "adamw", 32),
    ],
)
def test_the_mesh_changes_nothing(data: Path, tmp_path: Path, mesh: str, rule: str, length: int) -> None:
    """Nor where examples are cut, so that positions of a row begin anywhere."""
    model = dataclasses.replace(MODEL, num_kv_heads=2)
    losses: list[list[list[float]]] = []
    furthest = 0
    for devices in (one_device(), make_mesh(**parse_mesh(mesh))):
        setup = config(
            data,
            tmp_path,
            model=model,
            mesh=parse_mesh(mesh),
            optimizer={"kind": rule},
            data={"length": length},
            source={"vision_weight": 1.0},
        )
        processor, loader = open_data(setup)
        tx = optimizer(setup)
        state = first_state(setup, tx, devices, processor)
        put = batch_sharder(setup, devices)
        step = compile_step(Part.of(setup, processor.vocabulary), tx, setup, devices, state)
        losses.append([])
        with closing(loader.batches()) as batches:
            for loaded in islice(batches, 3):
                furthest = max(furthest, int(loaded.batch.positions.max()))
                state, metrics = step(state, put(loaded.batch))
                losses[-1].append([float(value) for value in metrics["judged"]])
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)
    assert (furthest >= length) == (length == 32)


def test_a_run_can_begin_with_another_ones_model(data: Path, tmp_path: Path) -> None:
    mesh = one_device()
    first = train(config(data, tmp_path / "first"), stop_at=1, quiet=True, mesh=mesh)
    setup = config(data, tmp_path / "second", init_from=str(tmp_path / "first/model"))
    processor, _ = open_data(setup)
    assert same(first_state(setup, optimizer(setup), mesh, processor).params, first.params)
    other = dataclasses.replace(setup, model=dataclasses.replace(MODEL, vocab_size=648))
    with pytest.raises(UserError, match="another vocabulary"):
        train(other, quiet=True, mesh=mesh)
    with pytest.raises(UserError, match="has shape"):
        train(
            dataclasses.replace(setup, model=dataclasses.replace(MODEL, hidden_dim=64)), quiet=True, mesh=mesh
        )


def test_the_loss_falls(data: Path, tmp_path: Path) -> None:
    train(
        config(data, tmp_path, steps=24, optimizer={"lr": 2e-2}, checkpoints={"every": 100}, log_every=4),
        quiet=True,
        mesh=one_device(),
    )
    losses = [record["loss"] for record in read_metrics(tmp_path)]
    assert losses[-1] < losses[0] - 2


def test_what_decays_and_how_the_rate_goes(data: Path, tmp_path: Path) -> None:
    _, params = nnx.split(nnx.eval_shape(lambda: Transformer(MODEL, rngs=nnx.Rngs(0))))
    kept = {name for name, decay in flatten(decays(params)).items() if not decay}
    assert kept == {
        "embed.table",
        "norm.scale",
        "layers.attention_norm.scale",
        "layers.feed_forward_norm.scale",
    }
    rate = schedule(
        config(data, tmp_path, steps=100, optimizer={"warmup_steps": 10, "lr": 1.0, "min_lr": 0.1})
    )
    assert [round(float(rate(step)), 3) for step in (0, 5, 10, 55, 100, 200)] == [
        0.0,
        0.5,
        1.0,
        0.55,
        0.1,
        0.1,
    ]


def test_muon_moves_the_matrices_of_the_layers_evenly_in_every_direction(data: Path, tmp_path: Path) -> None:
    _, params = nnx.split(Transformer(MODEL, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(
        0
    )  # what is stretched by 0 stays so: a square of random numbers comes near it, hence 0.3
    gradients = jax.tree.map(
        lambda leaf: jnp.asarray(random.standard_normal(leaf.shape) * 1e-3, leaf.dtype), params
    )
    tx = optimizer(
        config(
            data,
            tmp_path,
            optimizer={"kind": "muon", "lr": 1e-2, "muon_lr": 0.5, "weight_decay": 0.0, "warmup_steps": 0},
        )
    )
    changes = flatten(tx.update(gradients, tx.init(params), params)[0])
    for name in changes:
        if name.endswith(
            (".table", ".scale", "unembed.kernel")
        ):  # Adam's first step: lr, or a little more, whatever the gradient
            np.testing.assert_allclose(np.abs(changes[name]), 1e-2, rtol=0.6)
    inputs = {"query": 32, "key": 32, "value": 32, "output": 32, "gate": 32, "up": 32, "down": 48}
    for part, size in inputs.items():
        name = next(name for name in changes if name.endswith("." + part))
        for matrix in np.asarray(changes[name]).reshape(MODEL.num_layers, size, -1):
            stretched = np.linalg.svd(matrix, compute_uv=False) / 0.5 / max(1, matrix.shape[1] / size) ** 0.5
            assert 0.3 < stretched.min() <= stretched.max() < 1.3, (name, stretched)


def test_every_large_parameter_and_its_moments_are_spread(data: Path, tmp_path: Path) -> None:
    setup = config(data, tmp_path, mesh={"fsdp": 4, "context": 2})
    processor, _ = open_data(setup)
    mesh = make_mesh(fsdp=4, context=2)
    state = first_state(setup, optimizer(setup), mesh, processor)
    for name, leaf in flatten(state).items():
        small = name.endswith("scale") or name.startswith("health.")
        if leaf.ndim > 1 and not small:  # fsdp reaches over the ring
            assert leaf.addressable_shards[0].data.size * 8 == leaf.size, name
    assert jax.tree.all(
        jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, state, shardings(state, mesh))
    )


def test_errors_say_what_to_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="so give at least"):
        train(config(data, tmp_path, model=dataclasses.replace(MODEL, vocab_size=64)), quiet=True)
    with pytest.raises(UserError, match="give rows and length that these divide"):
        train(config(data, tmp_path, data={"rows": 3}, mesh={"data": 2, "context": 4}), quiet=True)
    with pytest.raises(UserError, match=r"steps in a row were refused up to step \d+ \(loss (nan|inf)"):
        train(
            config(data, tmp_path, optimizer={"lr": 1e30, "min_lr": 0.0}, steps=6, checkpoints={"every": 1}),
            quiet=True,
            mesh=one_device(),
        )
    assert (
        not (tmp_path / "model").exists() or np.isfinite(load_model(tmp_path / "model")["norm.scale"]).all()
    )
    other = tmp_path / "other"
    write_world(other, [(0, np.zeros((4, 2, 2), int))], tokenizer="another")
    with pytest.raises(UserError, match="tokenize both with one tokenizer"):
        train(
            config(data, tmp_path / "run", evaluation={"folder": str(other), "every": 1}),
            quiet=True,
            mesh=one_device(),
        )
