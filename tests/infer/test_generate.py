"""Prefill and decoding with a cache give what the whole forward pass gives, on any number of devices, and
compile once.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.infer import generate
from ringvision.infer.generate import Generator
from ringvision.infer.model import Model, load_model
from ringvision.infer.sampler import Sampler
from ringvision.mesh import make_mesh

BLOCKS = (32, 8)


def _model(folder: Path, devices: int, **axes: int) -> Model:
    return load_model(folder, make_mesh(**(axes or {"context": devices}), devices=jax.devices()[:devices]))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return _model(folder, 1)


@pytest.fixture(scope="module")
def generator(model: Model) -> Generator:
    return Generator(model, blocks=BLOCKS)


def _prompt(model: Model, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, length)


def _greedy(generator: Generator, prompt: np.ndarray, count: int) -> list[int]:
    session = generator.begin(generator.room_for(len(prompt), generate=count))
    generator.read(session, prompt)
    return list(generator.generate(session, Sampler(), count))


@pytest.fixture(scope="module")
def expected(model: Model) -> list[int]:
    """Greedy tokens after the prompt of 45, by the whole forward pass each time."""
    tokens = list(_prompt(model, 45))
    for _ in range(10):
        padded = np.array([[*tokens, *[0] * (64 - len(tokens))]])
        segments = (np.arange(64) < len(tokens)).astype(int)[None]
        tokens.append(int(np.argmax(np.asarray(model.logits(padded, None, segments))[0, len(tokens) - 1])))
    return [int(token) for token in tokens[45:]]


def test_the_cache_changes_nothing(generator: Generator, model: Model, expected: list[int]) -> None:
    assert _greedy(generator, _prompt(model, 45), 10) == expected


@pytest.mark.parametrize(
    ("devices", "axes"),
    [
        (8, {"context": 8}),
        (8, {"context": 2, "data": 2, "tensor": 2}),
        (4, {"context": 2, "ulysses": 2}),
        (2, {"tensor": 2}),
        (4, {"fsdp": 2, "context": 2}),
    ],
)
def test_the_ring_gives_the_same_tokens(
    folder: Path, expected: list[int], devices: int, axes: dict[str, int]
) -> None:
    spread = _model(folder, devices, **axes)
    assert _greedy(Generator(spread, blocks=BLOCKS), _prompt(spread, 45), 10) == expected


def test_reading_in_parts_and_rewinding(generator: Generator, model: Model, expected: list[int]) -> None:
    prompt = _prompt(model, 45)
    session = generator.begin(256)
    for part in (prompt[:30], _prompt(model, 7, seed=1)):
        generator.read(session, part)
    list(generator.generate(session, Sampler(), 5))
    generator.rewind(session, 30)
    assert session.length == 30
    generator.read(session, prompt[30:])
    assert list(generator.generate(session, Sampler(), 10)) == expected


def test_a_session_is_rewound_many_times_without_filling_up(generator: Generator, model: Model) -> None:
    session = generator.begin(100)
    generator.read(session, _prompt(model, 70))
    room = session.cache.room
    for seed in range(12):
        generator.read(session, _prompt(model, 50, seed))
        list(generator.generate(session, Sampler(), 20))
        generator.rewind(session, 70)
    assert session.cache.room >= room


def test_another_length_compiles_nothing(generator: Generator, model: Model) -> None:
    _greedy(generator, _prompt(model, 45), 3)
    compiled = generator._read._cache_size(), generator._step._cache_size()
    for length in (44, 75, 100, 9):
        _greedy(generator, _prompt(model, length), 6)
    assert (generator._read._cache_size(), generator._step._cache_size()) == compiled


def test_stopping(generator: Generator, model: Model, expected: list[int]) -> None:
    session = generator.begin(100)
    generator.read(session, _prompt(model, 45))
    stop = expected[4]
    assert list(generator.generate(session, Sampler(), 10, {stop})) == expected[: expected.index(stop) + 1]


def test_a_limit_keeps_generated_ids_below_it(model: Model) -> None:
    limited = Generator(model, limit=40, blocks=BLOCKS)
    assert max(_greedy(limited, _prompt(model, 45), 10)) < 40


def test_a_seed_decides_a_draw(generator: Generator, model: Model) -> None:
    def draw(seed: int) -> list[int]:
        session = generator.begin(100)
        generator.read(session, _prompt(model, 45))
        return list(generator.generate(session, Sampler(temperature=1.0, seed=seed), 8))

    assert draw(1) == draw(1) != draw(2)


def test_no_room_is_said_before_anything_is_read(
    generator: Generator, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "SHORTEST_CACHE", 64)
    session = generator.begin(1)
    with pytest.raises(UserError, match="begin one with more room"):
        generator.read(session, _prompt(model, 600))
    with pytest.raises(UserError, match="the model reads at most"):
        generator.read(session, _prompt(model, model.config.max_length + 1))
    with pytest.raises(UserError, match="nothing was read"):
        next(generator.generate(session, Sampler(), 1))
    assert session.length == 0


def test_a_plan_pads_little(generator: Generator) -> None:
    assert generator._plan(45) == [(32, 32), (8, 8), (8, 5)]
    assert generator._plan(20) == [(32, 20)]
    assert generator._plan(3) == [(8, 3)]
    assert generator._plan(0) == []
