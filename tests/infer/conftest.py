"""One tiny assistant and two clips for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from tiny_assistant import write_assistant, write_clip


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_assistant(tmp_path_factory.mktemp("assistant"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("clips")
    return [write_clip(place / f"{seed}.mp4", seed) for seed in (3, 4)]


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Grows with every program that is compiled."""
    seen: list[str] = []

    def note(event: str, duration: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)
