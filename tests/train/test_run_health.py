"""A run that meets batches with a loss that is no number, or far too large: they are never applied."""

import dataclasses
from collections.abc import Collection, Generator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import config, one_device

from ringvision.config import StageConfig, TrainConfig
from ringvision.data.loader import Loaded, Loader
from ringvision.errors import UserError
from ringvision.ops.losses import Sums
from ringvision.train import loop, step
from ringvision.train.inputs import open_data
from ringvision.train.part import Part
from ringvision.train.record import read_metrics
from ringvision.train.state import TrainState


def small(data: Path, out: Path, **changes: Any) -> TrainConfig:
    base = {"checkpoints": {"every": 4, "export": False}, "health": {"window": 8}, "log_every": 1}
    return config(data, out, **{"steps": 12, **base, **changes})


def train(setup: TrainConfig) -> TrainState:
    state = loop.train(setup, mesh=one_device())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    return state


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Any:
    """spoil(batches of loss NaN, batches of a 100-fold loss): by their numbers in the run's data."""
    real = step.chunked_cross_entropy
    batches = Loader.batches

    def cross_entropy(hidden: Any, head: Any, targets: Any, weights: Any, **options: Any) -> Sums:
        sums = real(hidden, head, targets, weights, **options)
        return sums._replace(loss=jnp.where(weights.min() < 0, 100.0, 1.0) * sums.loss)

    def begin(no_number: Collection[int] = (), large: Collection[int] = ()) -> None:
        def spoiled(loader: Loader, state: Any = None) -> Generator[Loaded, None, None]:
            for loaded in batches(loader, state):
                weights = loaded.batch.loss_weights.copy()
                if loaded.state["step"] in no_number:
                    weights[0, 0] = np.nan
                if loaded.state["step"] in large:  # a mark for cross_entropy
                    weights[0, 0] = -1e-6
                yield loaded._replace(batch=dataclasses.replace(loaded.batch, loss_weights=weights))

        monkeypatch.setattr(Loader, "batches", spoiled)
        monkeypatch.setattr(step, "chunked_cross_entropy", cross_entropy)

    return begin


@pytest.mark.parametrize("log_every", [1, 5])
def test_refused_one_after_another_the_run_goes_back_and_past_them(
    data: Path, tmp_path: Path, spoil: Any, capsys: pytest.CaptureFixture[str], log_every: int
) -> None:
    spoil(no_number=range(6, 11))  # five, where three send it back: it goes back once, not again for the rest
    state = train(small(data, tmp_path, log_every=log_every))
    said = capsys.readouterr().err
    assert said.count("refused; back to step 4, and past these batches") == 1
    assert int(state.step) == 12
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == ([*range(1, 13)] if log_every == 1 else [5, 10, 12])
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)


def test_a_run_with_bad_batches_ends_like_a_clean_one(
    data: Path, tmp_path: Path, spoil: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = []
    for name, no_number, large in (("clean", (), ()), ("spoiled", (33, 34, 35), (20,))):
        spoil(no_number, large)
        saving = {"every": 10, "export": False}
        setup = small(data, tmp_path / name, steps=60, checkpoints=saving, health={"window": 32})
        setup = dataclasses.replace(setup, data=dataclasses.replace(setup.data, rows=8))
        state = train(setup)
        assert max(line.get("loss", 0) for line in read_metrics(tmp_path / name)) < 8, "none of them counts"
        ends.append(held_out_loss(setup, state))
    said = capsys.readouterr().err
    assert "refused; back to step 30" in said, said
    assert abs(ends[1] / ends[0] - 1) < 0.01, ends


def held_out_loss(setup: TrainConfig, state: TrainState) -> float:
    """The mean loss of ten batches that are none of the run's."""
    processor, loader = open_data(setup, seed=77)
    graphdef, _ = Part.of(setup, processor.vocabulary).describe()
    loss = jax.jit(
        partial(
            step.loss_fn,
            graphdef=graphdef,
            mesh=one_device(),
            chunk=64,
            code_offset=processor.vocabulary.code_offset,
        )
    )
    with closing(loader.batches()) as batches:
        found = [
            loss(state.params, loaded.batch, loaded.batch.loss_weights.sum())[0]
            for loaded in islice(batches, 10)
        ]
    return float(np.mean(found))


def test_before_the_first_checkpoint_it_goes_on_without_going_back(
    data: Path, tmp_path: Path, spoil: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(no_number=(2, 3, 4))
    assert int(train(small(data, tmp_path, steps=6, checkpoints={"every": 5, "export": False})).step) == 6
    assert "refused, and nothing is saved yet; goes on past these batches" in capsys.readouterr().err


def test_without_end_it_stops(data: Path, tmp_path: Path, spoil: Any) -> None:
    spoil(no_number=range(6, 1000))
    with pytest.raises(UserError, match=r"going back 2 times did not help; look at the data"):
        train(small(data, tmp_path, health={"window": 8, "rollbacks": 2}))


def test_it_goes_back_no_further_than_its_stage(
    data: Path, tmp_path: Path, spoil: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(no_number=(2, 3, 4))
    first = dataclasses.replace(small(data, tmp_path).optimizer, warmup_steps=1)
    stages = (
        StageConfig(steps=1, optimizer=first),
        StageConfig(steps=5, optimizer=dataclasses.replace(first, kind="muon")),
    )
    state = train(small(data, tmp_path, steps=0, stages=stages))
    assert "refused; back to step 1, and past these batches" in capsys.readouterr().err
    assert int(state.step) == 6
