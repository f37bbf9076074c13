"""One tiny assistant and two clips for all tests of this folder."""

from pathlib import Path

import pytest
from tiny_assistant import write_assistant, write_clip


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_assistant(tmp_path_factory.mktemp("assistant"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("clips")
    return [write_clip(place / f"{seed}.mp4", seed) for seed in (3, 4)]
