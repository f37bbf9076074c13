"""The devices of the commands that are run here, a tiny model and a clip."""

from pathlib import Path

import jax
import pytest
from tiny_assistant import write_assistant, write_clip


@pytest.fixture(scope="module")
def devices() -> int:
    """jax has started, with the eight devices of the test process: no command here makes others."""
    return jax.device_count()


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_assistant(tmp_path_factory.mktemp("assistant"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")
