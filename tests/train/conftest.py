"""One folder of data for all tests of the transformer's training."""

from pathlib import Path

import numpy as np
import pytest
from tiny_run import write_world

from ringvision.data.text.sentencepiece_tokenizer import train_text_tokenizer
from ringvision.data.world import make_scene, questions


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model, and tokenized videos of the world's first scenes, their codes random."""
    folder = tmp_path_factory.mktemp("data")
    sentences = [
        f"USER: {q.text} ASSISTANT: {q.answer}" for seed in range(60) for q in questions(make_scene(seed))
    ]
    train_text_tokenizer(sentences, folder / "text.model", 560)
    random = np.random.default_rng(0)
    write_world(
        folder / "codes",
        [(seed, random.integers(0, 32, (int(make_scene(seed).duration), 2, 2))) for seed in range(24)],
    )
    return folder
