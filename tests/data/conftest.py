"""A text tokenizer of the world's words, a processor of 2x2 codes, and tokenized videos of a few dozen of the
world's scenes, their codes random.
"""

from pathlib import Path

import numpy as np
import pytest

from ringvision.data.sources import WorldVideos
from ringvision.data.stream import PromptProcessor
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer, train_text_tokenizer
from ringvision.data.tokenized import TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.data.world import make_scene, questions
from ringvision.vocabulary import Vocabulary

NUM_CODES = 32


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sentences = [
        f"USER: {q.text} ASSISTANT: {q.answer}" for seed in range(60) for q in questions(make_scene(seed))
    ]
    path = tmp_path_factory.mktemp("text") / "text.model"
    train_text_tokenizer(sentences, path, 560)
    return path


@pytest.fixture(scope="session")
def text(text_model: Path) -> LosslessTokenizer:
    return LosslessTokenizer(text_model)


@pytest.fixture(scope="session")
def processor(text: LosslessTokenizer) -> PromptProcessor:
    return PromptProcessor(
        text, Vocabulary(text.size, NUM_CODES, text.bos, text.eos, text.vision_start, text.vision_end)
    )


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldVideos:
    folder: Path = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    with TokenizedWriter(folder, num_codes=NUM_CODES) as writer:
        for first in range(0, 40, 16):
            videos = []
            for seed in range(first, min(40, first + 16)):
                frames = int(make_scene(seed).duration)
                codes = random.integers(0, NUM_CODES, (frames, 2, 2))
                videos.append(TokenizedVideo(f"world:{seed}", "", codes, np.arange(frames), 1.0, 64, "0"))
            writer.add(videos)
    return WorldVideos(folder)
