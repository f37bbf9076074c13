"""Weights of LPIPS, which take a second to write and are only read."""

from pathlib import Path

import pytest

from ringvision.evaluate.lpips import wanted

from .random_networks import write_weights


@pytest.fixture(scope="session")
def lpips_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "torchvision.safetensors", wanted())
