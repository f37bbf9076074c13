"""What the tests of imported models share: where the fixtures lie, and what a model answers by whole forward
passes.
"""

from pathlib import Path

import jax
import numpy as np
from PIL import Image

from ringvision.data.video import sample
from ringvision.infer.assistant import Assistant
from ringvision.mesh import make_mesh

FIXTURES = Path(__file__).parents[1] / "fixtures"
PROMPT = "a red circle"


def one() -> jax.sharding.Mesh:
    return make_mesh(context=1, devices=jax.devices()[:1])


def sheet(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def greedy(assistant: Assistant, prompt: np.ndarray, count: int) -> list[int]:
    """The likeliest text after the prompt, by whole forward passes."""
    tokens = prompt.tolist()
    for _ in range(count):
        padded = np.zeros((1, len(prompt) + count), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = assistant.model.logits(
            padded, None, (np.arange(padded.shape[1]) < len(tokens)).astype(int)[None]
        )
        tokens.append(int(np.argmax(np.asarray(logits)[0, len(tokens) - 1, : assistant.text.size])))
        if tokens[-1] == assistant.eos:
            break
    return tokens[len(prompt) :]


def seen(assistant: Assistant, clip: Path, fps: float) -> list[tuple[np.ndarray, np.ndarray]]:
    batches = list(sample(clip, fps=fps, size=assistant.tokenizer.size, batch=16))
    return [
        (
            assistant.tokenizer.encode(np.concatenate([one.frames for one in batches])),
            np.concatenate([one.times for one in batches]),
        )
    ]
