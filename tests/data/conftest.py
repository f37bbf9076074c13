"""A text tokenizer of the world's words, a prompt processor for 2x2 codes, and shards of random codes as long
as a few dozen of the world's scenes.
"""

from pathlib import Path

import numpy as np
import pytest

from ringvision.data.shards import Shards, ShardsInfo, ShardWriter
from ringvision.data.stream import PromptProcessor
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer, train_text_tokenizer
from ringvision.data.world import make_scene, questions
from ringvision.vocabulary import Vocabulary

INFO = ShardsInfo(tokenizer="none", hash="0", grid=(2, 2), num_codes=32, fps=1.0)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> LosslessTokenizer:
    sentences = [
        f"USER: {q.text} ASSISTANT: {q.answer}" for seed in range(60) for q in questions(make_scene(seed))
    ]
    return train_text_tokenizer(sentences, tmp_path_factory.mktemp("text") / "text.model", 560)


@pytest.fixture(scope="session")
def processor(text: LosslessTokenizer) -> PromptProcessor:
    return PromptProcessor(
        text, Vocabulary(text.size, INFO.num_codes, text.bos, text.eos, text.vision_start, text.vision_end)
    )


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder: Path = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(0)
    with ShardWriter(folder, INFO, videos_per_file=16) as writer:
        for seed in range(40):
            frames = int(make_scene(seed).duration)
            writer.add(random.integers(0, INFO.num_codes, (frames, *INFO.grid)), np.arange(frames), seed)
    return Shards(folder)
