"""Training a part of a model: what is not trained stays bit for bit, stopping changes nothing, and the folder
holds the whole.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_run import MODEL, config, one_device, same

from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.model_folder import load_model, save_model
from ringvision.models.transformer import Transformer
from ringvision.train.export import exported
from ringvision.train.initial_state import first_state
from ringvision.train.inputs import open_data
from ringvision.train.loop import train
from ringvision.train.part import Part
from ringvision.train.record import read_metrics
from ringvision.train.state import optimizer, shardings
from ringvision.tree import flatten

TEXT = 560
"""Pieces of text: the rows before the first code."""


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Model folders of random weights, by whether their embeddings are tied; untied they also know the
    positions in a frame.
    """
    folders = {}
    for tied in (True, False):
        folder = tmp_path_factory.mktemp("base")
        processor, _ = open_data(config(data, folder, model=model(tied)))
        assert processor.vocabulary.code_offset == TEXT
        params = flatten(nnx.split(Transformer(model(tied), rngs=nnx.Rngs(7)))[1])
        folders[tied] = save_model(
            folder, {"kind": "assistant", "vocabulary": processor.vocabulary.to_dict()}, params
        )
    return folders


def model(tied: bool) -> Any:
    return dataclasses.replace(MODEL, tie_embeddings=tied, frame_period=0 if tied else 5, code_offset=TEXT)


def setup(
    data: Path, out: Path, base: dict[bool, Path], kind: str, tied: bool = False, **changes: Any
) -> Any:
    settings = {
        "model": model(tied),
        "init_from": str(base[tied]),
        "trainable": kind,
        "lora": {"rank": 3},
        "source": {"vision_weight": 1.0},
    }
    return config(data, out, **{**settings, **changes})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("new_rows", {}),
        ("new_rows", {"tied": True, "optimizer": {"ema": 0.5}}),
        ("lora", {"optimizer": {"ema": 0.5}}),
    ],
)
def test_two_steps_and_two_more_are_four_bit_for_bit(
    data: Path, base: Any, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    mesh = make_mesh(fsdp=2, context=2, devices=jax.devices()[:4])
    decay = {"weight_decay": 0.5, **changes.pop("optimizer", {})}
    run = setup(data, tmp_path / "resumed", base, kind, optimizer=decay, **changes)
    straight = train(dataclasses.replace(run, out=str(tmp_path / "straight")), quiet=True, mesh=mesh)
    halted = train(run, stop_at=2, quiet=True, mesh=mesh)
    resumed = train(run, quiet=True, mesh=mesh)
    assert same(straight, resumed) and not same(straight.params, halted.params)
    before = load_model(base[run.model.tie_embeddings])
    after = load_model(tmp_path / "resumed/model")
    assert {name: array.shape for name, array in after.items()} == {
        name: array.shape for name, array in before.items()
    }
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    if kind == "lora":
        assert changed == {
            name for name in before if name.startswith("layers.") and not name.endswith(".scale")
        }
        return
    assert changed == {"embed.table"} | (
        set() if run.model.tie_embeddings else {"unembed.kernel", "cells.table"}
    )
    np.testing.assert_array_equal(after["embed.table"][:TEXT], before["embed.table"][:TEXT])
    told = (after["embed.table"] != before["embed.table"]).any(axis=1)[
        TEXT : TEXT + 34
    ]  # 32 codes, the ends of a frame and of a video
    assert told.all()
    if not run.model.tie_embeddings:
        np.testing.assert_array_equal(after["unembed.kernel"][:, :TEXT], before["unembed.kernel"][:, :TEXT])
        assert (after["unembed.kernel"][:, TEXT:] != before["unembed.kernel"][:, TEXT:]).all()


@pytest.mark.parametrize("kind", ["new_rows", "lora"])
def test_only_what_is_trained_has_moments(data: Path, base: Any, tmp_path: Path, kind: str) -> None:
    run = setup(
        data,
        tmp_path,
        base,
        kind,
        mesh={"fsdp": 2, "tensor": 2, "context": 2},
        model=dataclasses.replace(model(False), num_kv_heads=2),
    )
    processor, _ = open_data(run)
    save_model(
        tmp_path / "wide",
        {"vocabulary": processor.vocabulary.to_dict()},
        flatten(nnx.split(Transformer(run.model, rngs=nnx.Rngs(0)))[1]),
    )
    run = dataclasses.replace(run, init_from=str(tmp_path / "wide"))
    mesh = make_mesh(fsdp=2, tensor=2, context=2)
    state = first_state(run, optimizer(run), mesh, processor)
    names = set(flatten(state.params))
    if kind == "lora":
        assert len(names) == 14 and all(name.startswith("layers.") for name in names)
        assert all(
            len(leaf.sharding.device_set) == 8 and not leaf.is_fully_replicated
            for leaf in flatten(state.params).values()
        )
    else:
        assert names == {"embed.table", "unembed.kernel", "cells.table"}
    sizes = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) < 2 * sizes + 5
    assert jax.tree.all(
        jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, state, shardings(state, mesh))
    )


@pytest.mark.parametrize("kind", ["new_rows", "lora"])
def test_the_first_step_begins_with_the_model_as_it_was(
    data: Path, base: Any, tmp_path: Path, kind: str
) -> None:
    """The loss of the first step is that of the base; what is exported before any step is the base, bit for
    bit.
    """
    run = setup(data, tmp_path / kind, base, kind)
    train(run, stop_at=1, quiet=True, mesh=one_device())
    plain = setup(data, tmp_path / "plain", base, "all")
    train(plain, stop_at=1, quiet=True, mesh=one_device())
    losses = [read_metrics(tmp_path / name)[0]["loss"] for name in (kind, "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    processor, _ = open_data(run)
    state = first_state(run, optimizer(run), one_device(), processor)
    found = flatten(exported(state, Part.of(run, processor.vocabulary)))
    expected = load_model(base[False])
    assert found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize(("kind", "falls"), [("new_rows", 0.2), ("lora", 0.1)])
def test_the_loss_falls(data: Path, base: Any, tmp_path: Path, kind: str, falls: float) -> None:
    train(
        setup(
            data,
            tmp_path,
            base,
            kind,
            steps=16,
            optimizer={"lr": 2e-2},
            checkpoints={"every": 100},
            log_every=4,
        ),
        quiet=True,
        mesh=one_device(),
    )
    losses = [record["loss"] for record in read_metrics(tmp_path)]
    assert losses[-1] < losses[0] - falls


def test_what_cannot_be_is_said(data: Path, tmp_path: Path) -> None:
    for changes, said in (
        ({"trainable": "lora"}, "init_from is none"),
        ({"trainable": "head"}, "expected all, new_rows or lora"),
        ({"lora": {"rank": 0}}, "lora.rank is 0"),
        ({"lora": {"alpha": 0.0}}, "lora.alpha is 0.0"),
    ):
        with pytest.raises(UserError, match=said):
            config(data, tmp_path, **changes)
