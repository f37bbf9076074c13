"""The tokenizer's training: exact resume, learning, what becomes of unused codes, what is left on disk."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_assistant import VQGAN_CONFIG

from ringvision.config import (
    CheckpointConfig,
    TokenizerLossConfig,
    TokenizerOptimizerConfig,
    TokenizerTrainConfig,
)
from ringvision.errors import UserError
from ringvision.models.vqgan import nearest
from ringvision.train.record import read_metrics
from ringvision.train.tokenizer import batch_of, open_frames, over_under, train_tokenizer
from ringvision.train.tokenizer_step import TokenizerTraining, edge_weights, update_codebook
from ringvision.tree import flatten
from ringvision.video_tokenizer import load_video_tokenizer


@pytest.fixture(scope="module")
def frames_file(tmp_path_factory) -> Path:
    """Bright squares on dark ground: 128 frames of 16x16."""
    random = np.random.default_rng(0)
    frames = np.full((128, 16, 16, 3), 40, np.uint8)
    for frame, (row, column, channel) in zip(
        frames, random.integers((10, 10, 3), size=(128, 3)), strict=True
    ):
        frame[row : row + 6, column : column + 6, channel] = 230
    path = tmp_path_factory.mktemp("frames") / "frames.npy"
    np.save(path, frames)
    return path


@pytest.fixture
def config(frames_file, tmp_path) -> TokenizerTrainConfig:
    return TokenizerTrainConfig(
        name="squares",
        out=str(tmp_path / "run"),
        vqgan=dataclasses.replace(VQGAN_CONFIG, patch_size=4),
        data=str(frames_file),
        steps=4,
        batch=8,
        optimizer=TokenizerOptimizerConfig(lr=3e-3, warmup_steps=1),
        loss=TokenizerLossConfig(codebook_weight=0.25, edge_weight=1.0),
        checkpoints=CheckpointConfig(every=100),
        log_every=1,
        eval_every=0,
    )


def assert_same(one, other) -> None:
    for name, array in flatten(one).items():
        np.testing.assert_array_equal(array, flatten(other)[name], err_msg=name)


def test_two_and_two_is_four(config, tmp_path) -> None:
    """Bit for bit, with the adversarial loss beginning in the second half."""
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, adversarial_start=3))
    whole = train_tokenizer(config, quiet=True)
    halves = dataclasses.replace(config, out=str(tmp_path / "halves"))
    assert int(train_tokenizer(halves, stop_at=2, quiet=True).step) == 2
    resumed = train_tokenizer(halves, quiet=True)
    assert int(resumed.step) == 4
    assert_same(whole, resumed)
    one, other = (load_video_tokenizer(Path(c.out) / "tokenizer") for c in (config, halves))
    assert one.hash == other.hash
    records = [record for record in read_metrics(halves.out) if "loss" in record]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert "judge" not in records[2] and records[3]["judge"] > 0


def test_learns_and_leaves_a_tokenizer(config, frames_file) -> None:
    config = dataclasses.replace(config, steps=200, log_every=20, eval_every=100)
    state = train_tokenizer(config, quiet=True)
    out = Path(config.out)
    records = read_metrics(config.out)
    losses = [record["loss"] for record in records if "loss" in record]
    evaluations = [record for record in records if "psnr" in record]
    assert losses[-1] < 0.6 * losses[0]
    assert [record["step"] for record in evaluations] == [100, 200]
    assert (
        evaluations[-1]["psnr"] > 15 and evaluations[-1]["used"] > 0.25 and evaluations[-1]["perplexity"] > 4
    )
    picture = np.asarray(Image.open(out / "pictures" / "step-000200.png"))
    held_out = np.load(frames_file)[112:]
    np.testing.assert_array_equal(picture[0 : 16 * 3 : 3, 0 : 16 * 3 : 3], held_out[0])
    tokenizer = load_video_tokenizer(out / "tokenizer")
    assert tokenizer.name == "squares" and tokenizer.size == 16
    np.testing.assert_array_equal(tokenizer.codebook, state.params["codebook"][...])
    decoded = tokenizer.decode(tokenizer.encode(held_out), dtype=np.uint8)
    squared = np.mean((decoded.astype(float) - held_out) ** 2)
    assert 10 * np.log10(255**2 / squared) == pytest.approx(evaluations[-1]["psnr"], abs=0.05)
    assert int(train_tokenizer(config, quiet=True).step) == 200  # finished: nothing more to do


def test_a_batch_depends_on_seed_and_step_alone(config) -> None:
    frames = open_frames(config)
    np.testing.assert_array_equal(batch_of(frames, config, 7), batch_of(frames, config, 7))
    assert (batch_of(frames, config, 7) != batch_of(frames, config, 8)).any()
    assert (batch_of(frames, config, 7) != batch_of(frames, dataclasses.replace(config, seed=1), 7)).any()


def test_codebook_follows_its_latents_and_revives_the_dead() -> None:
    """Latents around eight places, all rows at one of them: soon the rows are spread over the places, and all
    are used.
    """
    random = np.random.default_rng(0)
    places = random.normal(size=(8, 3)).astype(np.float32) * 10
    codebook = jnp.tile(places[0], (16, 1))
    counts = jnp.ones(16)
    sums = jnp.tile(places[0], (16, 1))
    update = jax.jit(update_codebook)
    dead = []
    used = np.zeros(16)
    errors = []
    for step in range(400):
        z = jnp.asarray(
            places[random.integers(8, size=(4, 4, 4))]
            + random.normal(size=(4, 4, 4, 3)).astype(np.float32) * 0.1
        )
        codes = nearest(z, codebook)
        errors.append(float(jnp.mean((z - codebook[codes]) ** 2)))
        used = 0.98 * used + 0.02 * np.bincount(np.asarray(codes).ravel(), minlength=16)
        codebook, counts, sums, started_again = update(
            counts, sums, z, codebook[codes], codes, jax.random.key(step)
        )
        dead.append(int(started_again))
    assert max(dead) > 0
    assert (used > 0.1).all(), "a row that nobody uses"
    # Two places may come to share a row, as in k-means; that all of them do not is what revival is for.
    assert np.mean(errors[-20:]) < 0.1 * errors[0]
    apart = np.linalg.norm(places[:, None] - np.asarray(codebook)[None], axis=-1)
    assert (apart.min(axis=1) < 1).sum() >= 4  # of eight places some ten apart


def test_adversarial_loss_is_compiled_in_only_when_asked(config) -> None:
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, adversarial_start=0))
    frames = np.zeros((8, 16, 16, 3), np.uint8)
    training, state = TokenizerTraining.start(config)
    before = jax.device_get(state.judge_params)
    state, scalars = training.compile(adversarial=False)(state, frames)
    assert "judge" not in scalars
    assert_same(before, state.judge_params)
    state, scalars = training.compile(adversarial=True)(state, frames)
    assert {"judge", "fooled"} <= set(scalars) and np.isfinite(list(map(float, scalars.values()))).all()
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.judge_params), strict=True)
    )


def test_edges_weigh_more() -> None:
    images = np.full((1, 8, 8, 3), -1, np.float32)
    images[0, :, 4:] = 1
    weights = np.asarray(edge_weights(jnp.asarray(images), 3.0))
    assert weights.shape == (1, 8, 8, 1)
    assert (weights[0, 1:7, 2:5] == 4).all(), "the pixels of a step, and one on either side"
    assert (weights[0, :, [0, 1, 6, 7]] == 1).all()
    assert (np.asarray(edge_weights(jnp.asarray(images), 0.0)) == 1).all()


def test_originals_over_reconstructions() -> None:
    above = np.arange(3, dtype=np.uint8)
    below = np.arange(10, 13, dtype=np.uint8)
    picture = over_under(
        *(np.broadcast_to(x[:, None, None, None], (3, 2, 2, 3)) for x in (above, below)), columns=2, scale=1
    )
    assert picture[::2, ::2, 0].tolist() == [[0, 1], [10, 11], [2, 0], [12, 0]]


def test_refuses_missing_or_other_frames(config, tmp_path) -> None:
    with pytest.raises(UserError, match="is not there"):
        train_tokenizer(dataclasses.replace(config, data=str(tmp_path / "none.npy")), quiet=True)
    np.save(tmp_path / "other.npy", np.zeros((20, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="expected uint8"):
        train_tokenizer(dataclasses.replace(config, data=str(tmp_path / "other.npy")), quiet=True)
    assert not Path(config.out).exists()
