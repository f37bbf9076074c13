"""One folder of data for all tests of the transformer's training."""

from pathlib import Path

import numpy as np
import pytest

from ringvision.data.shards import ShardsInfo, ShardWriter
from ringvision.data.text.sentencepiece_tokenizer import train_text_tokenizer
from ringvision.data.world import make_scene, questions


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model and shards of the world's first scenes, their codes random."""
    folder = tmp_path_factory.mktemp("data")
    sentences = [
        f"USER: {q.text} ASSISTANT: {q.answer}" for seed in range(60) for q in questions(make_scene(seed))
    ]
    train_text_tokenizer(sentences, folder / "text.model", 560)
    random = np.random.default_rng(0)
    with ShardWriter(folder / "codes", ShardsInfo("none", "0", (2, 2), 32, 1.0)) as writer:
        for seed in range(24):
            frames = int(make_scene(seed).duration)
            writer.add(random.integers(0, 32, (frames, 2, 2)), np.arange(frames), seed)
    return folder
