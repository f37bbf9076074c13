"""Training the video tokenizer: frames on disk in, a folder for tokenizers/ out.

    config.data: .npy, uint8 [F, H, W, 3]; the last frames are held out
      -> config.out/{metrics.jsonl, tensorboard/, pictures/step-*.png, checkpoints/, tokenizer/{config.json,
      model.safetensors}}

A run goes on from its newest checkpoint. The batch of a step depends on (seed, step) alone, so a run that was
stopped gives the same weights, bit for bit, as one that never was.
"""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from ringvision.checkpoint import Checkpoints
from ringvision.config import TokenizerTrainConfig
from ringvision.errors import UserError
from ringvision.model_folder import save_model
from ringvision.train.record import Record
from ringvision.train.run_lock import alone
from ringvision.train.tokenizer_step import TokenizerState, TokenizerTraining
from ringvision.tree import flatten

HELD_OUT = 512  # frames at the end of the file, or an eighth of a small one
SHOWN = 16


def train_tokenizer(
    config: TokenizerTrainConfig, *, stop_at: int | None = None, quiet: bool = False
) -> TokenizerState:
    """Train until config.steps, or until step `stop_at` to go on another day. -> the state, which is also on
    disk.

    UserError where the frames are missing or of another shape than the network's, or another run
    writes to config.out.
    """
    frames = open_frames(config)
    held_out = min(HELD_OUT, len(frames) // 8)
    seen = frames[: len(frames) - held_out]
    unseen = frames[len(frames) - held_out :]
    out = Path(config.out)
    kept = config.checkpoints
    checkpoints = Checkpoints(out / "checkpoints", keep=kept.keep, keep_every=kept.keep_every)
    training, state = TokenizerTraining.start(config)
    skipped: list[str] = []
    if checkpoints.latest() is not None:
        restored = checkpoints.restore(state)
        state = restored.tree
        skipped = restored.skipped
    evaluate = evaluator(training)
    train_step = training.compile(adversarial=False)
    adversarial = False
    adversarial_start = config.loss.adversarial_start
    step = int(state.step)
    last = min(config.steps, stop_at or config.steps)
    with alone(out), checkpoints, Record(out, step=step, steps=config.steps, quiet=quiet) as record:
        for sentence in skipped:
            record.say(sentence)
        started = time.monotonic()
        since = step
        while step < last:
            if not adversarial and adversarial_start is not None and step >= adversarial_start:
                train_step = training.compile(adversarial=True)
                adversarial = True
            state, scalars = train_step(state, batch_of(seen, config, step))
            step += 1
            checkpoints.check()
            record.advance(step)
            if step % config.log_every == 0 or step == last:
                values = {name: float(value) for name, value in scalars.items()}
                values["seconds_per_step"] = (time.monotonic() - started) / (step - since)
                record.write(step, values)
                started = time.monotonic()
                since = step
            if config.eval_every and (step % config.eval_every == 0 or step == last):
                values, picture = evaluate(state, unseen)
                record.write(step, values)
                (out / "pictures").mkdir(exist_ok=True)
                Image.fromarray(picture).save(out / "pictures" / f"step-{step:06d}.png")
                started = time.monotonic()
                since = step
            if step % config.checkpoints.every == 0 or step == last:
                checkpoints.save(step, state)
                save_tokenizer(out / "tokenizer", config, state)
                started = time.monotonic()
                since = step
    return state


def open_frames(config: TokenizerTrainConfig) -> np.ndarray:
    """The frames of config.data, uint8 [F, H, W, 3], left on disk until they are read."""
    path = Path(config.data)
    network = config.vqgan
    if not path.is_file():
        raise UserError(
            f"{path} is not there; config.data must name a .npy file of frames, uint8 [F, H, W, "
            f"{network.in_channels}]"
        )
    frames = np.load(path, mmap_mode="r")
    expected = (network.resolution, network.resolution, network.in_channels)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != expected or len(frames) < 16:
        raise UserError(
            f"{path} holds {frames.dtype} {list(frames.shape)}; expected uint8 [F, "
            f"{', '.join(map(str, expected))}] with F at least 16: "
            "make the frames again or change vqgan.resolution"
        )
    return frames


def batch_of(frames: np.ndarray, config: TokenizerTrainConfig, step: int) -> np.ndarray:
    """The batch of a step out of frames uint8 [F, H, W, 3]: uint8 [batch, H, W, 3], sampled by (seed, step),
    read in the file's order.
    """
    sampled = np.random.default_rng((config.seed, step)).integers(len(frames), size=config.batch)
    return np.asarray(frames[np.sort(sampled)])


def evaluator(
    training: TokenizerTraining,
) -> Callable[[TokenizerState, np.ndarray], tuple[dict[str, float], np.ndarray]]:
    """A function evaluate(state, frames) of a tokenizer in training.

    It takes frames uint8 [F, H, W, 3] and returns {psnr (dB), used (share of the codebook), perplexity} and
    a picture uint8 [rows, columns, 3]: some originals, their reconstructions below them.
    """
    batch = training.config.batch
    size = training.config.vqgan.codebook_size

    @jax.jit
    def reconstruct(params, frames):
        model = nnx.merge(training.graph, params)
        z_q, codes = model.quantize(model.latents(frames.astype(jnp.float32) / 127.5 - 1))
        pixels = jnp.round((model.decode(z_q, clip=False) + 1) * 127.5)
        return jnp.clip(pixels, 0, 255).astype(jnp.uint8), codes

    def evaluate(state: TokenizerState, frames: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        outputs = np.empty(frames.shape, np.uint8)
        counts = np.zeros(size)
        for start in range(0, len(frames), batch):
            chunk = frames[start : start + batch]
            padded = np.concatenate([chunk, np.zeros((batch - len(chunk), *chunk.shape[1:]), np.uint8)])
            pixels, codes = jax.device_get(reconstruct(state.params, padded))
            outputs[start : start + batch] = pixels[: len(chunk)]
            counts += np.bincount(codes[: len(chunk)].reshape(-1), minlength=size)
        squared = (outputs.astype(np.float64) - frames) ** 2
        share = counts[counts > 0] / counts.sum()
        values = {
            "psnr": float(10 * np.log10(255**2 / max(squared.mean(), 1e-9))),
            "used": float(np.mean(counts > 0)),
            "perplexity": float(np.exp(-np.sum(share * np.log(share)))),
        }
        shown = np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).astype(int)
        return values, over_under(frames[shown], outputs[shown])

    return evaluate


def over_under(above: np.ndarray, below: np.ndarray, columns: int = 8, scale: int = 3) -> np.ndarray:
    """One picture of two clips: a row of the first over a row of the second, and so on.

    Args:
        above: uint8 [N, H, W, 3].
        below: uint8 [N, H, W, 3].
        columns: frames in a row.
        scale: how many pixels a side a pixel becomes.

    Returns:
        uint8 [2 * rows * H * scale, columns * W * scale, 3].
    """
    rows = []
    for start in range(0, len(above), columns):
        for frames in (above, below):
            row = list(frames[start : start + columns])
            row += [np.zeros_like(row[0])] * (min(columns, len(above)) - len(row))
            rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows).repeat(scale, axis=0).repeat(scale, axis=1)


def save_tokenizer(folder: Path, config: TokenizerTrainConfig, state: TokenizerState) -> None:
    """Write a tokenizer folder, as ringvision.video_tokenizer opens it."""
    vqgan = config.vqgan
    save_model(
        folder,
        {"kind": "vqgan", "name": config.name, "size": vqgan.resolution, "vqgan": vqgan.to_dict()},
        flatten(state.params),
    )
