"""Reading and generating in rows gives what the whole forward pass gives: in blocks, over a shared prefix, in
rows of different lengths that join and leave, on any mesh; and compiles few programs.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from greedy import greedy

from ringvision.errors import UserError
from ringvision.infer.decode_batch import DecodeBatch, row_count
from ringvision.infer.engine import Engine, Rows, shared_length
from ringvision.infer.model import Model, load_model
from ringvision.infer.sampler import Sampler
from ringvision.infer.scheduler import DecodeRequest, Scheduler
from ringvision.mesh import make_mesh

BLOCKS = (32, 8)
MESHES: list[dict[str, int]] = [
    {"context": 2},
    {"context": 4},
    {"context": 8},
    {"context": 2, "data": 2, "tensor": 2},
    {"context": 2, "ulysses": 2},
    {"tensor": 2},
    {"fsdp": 2, "context": 2},
]
LENGTHS = (45, 7, 20, 33)


def _model(folder: Path, **axes: int) -> Model:
    return load_model(folder, make_mesh(**axes, devices=jax.devices()[: int(np.prod(list(axes.values())))]))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return _model(folder, context=1)


@pytest.fixture(scope="module")
def engine(model: Model) -> Engine:
    return Engine(model, blocks=BLOCKS)


def _prompt(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 300, length).astype(np.int32)


PROMPTS = [_prompt(length, seed) for seed, length in enumerate(LENGTHS)]


def _whole(model: Model, tokens: np.ndarray) -> np.ndarray:
    """Logits after the last of the tokens, by a whole forward pass."""
    padded = np.zeros((1, 128), np.int32)
    padded[0, : len(tokens)] = tokens
    segments = (np.arange(128) < len(tokens)).astype(np.int32)[None]
    return np.asarray(model.logits(padded, None, segments))[0, len(tokens) - 1]


@pytest.fixture(scope="module")
def expected(model: Model) -> list[list[int]]:
    """Greedy tokens after each prompt, by the whole forward pass each time."""
    found = []
    for prompt in PROMPTS:
        tokens = list(prompt)
        for _ in range(10):
            tokens.append(int(np.argmax(_whole(model, np.array(tokens)))))
        found.append([int(token) for token in tokens[len(prompt) :]])
    return found


# ------------------------------------------------------------------------------------------------- a row


def test_the_cache_changes_nothing(engine: Engine, expected: list[list[int]]) -> None:
    assert greedy(engine, PROMPTS[0], 10) == expected[0]


def test_reading_in_parts_and_truncating(engine: Engine, expected: list[list[int]]) -> None:
    prompt = PROMPTS[0]
    batch = DecodeBatch(engine, 1, 256)
    for part in (prompt[:30], _prompt(7, seed=1)):
        batch.read({0: part})
    list(batch.decode(0, 5))
    batch.truncate(0, 30)
    assert batch.lengths[0] == 30
    batch.read({0: prompt[30:]})
    assert list(batch.decode(0, 10)) == expected[0]


def test_a_row_is_truncated_many_times_without_filling_up(engine: Engine) -> None:
    batch = DecodeBatch(engine, 1, 150)
    batch.read({0: _prompt(70)})
    free = batch.free([0])
    for seed in range(12):
        batch.read({0: _prompt(50, seed)})
        list(batch.decode(0, 20))
        batch.truncate(0, 70)
    assert batch.free([0]) == free
    assert batch.cache.length == 256


@pytest.mark.parametrize("axes", [{"context": 1}, {"context": 4}], ids=str)
def test_a_cache_grows_and_forgets_nothing(
    folder: Path, expected: list[list[int]], axes: dict[str, int]
) -> None:
    engine = Engine(_model(folder, **axes), blocks=BLOCKS)
    batch = DecodeBatch(engine, 1, 1, shortest=40)
    before = batch.cache.length
    batch.read({0: PROMPTS[0][:30]})
    for part in np.split(PROMPTS[0][30:], 3):
        batch.reserve(engine.slots_for(len(part), generate=40))
        batch.read({0: part})
    assert batch.cache.length > before
    assert list(batch.decode(0, 10)) == expected[0]


def test_another_length_compiles_nothing(engine: Engine, compilations: list[str]) -> None:
    greedy(engine, _prompt(45), 3)
    compilations.clear()
    for length in (44, 75, 100, 9):
        greedy(engine, _prompt(length), 6)
    assert compilations == []


def test_stopping(engine: Engine, expected: list[list[int]]) -> None:
    batch = DecodeBatch(engine, 1, 100)
    batch.read({0: PROMPTS[0]})
    stop = expected[0][4]
    assert list(batch.decode(0, 10, {stop})) == expected[0][: expected[0].index(stop) + 1]
    assert batch.lengths[0] == len(PROMPTS[0]) + expected[0].index(stop)  # the last is not read


def test_a_range_keeps_generated_ids_in_it(engine: Engine) -> None:
    assert max(greedy(engine, _prompt(45), 10, ids=(0, 40))) < 40
    assert all(40 <= token < 90 for token in greedy(engine, _prompt(45), 10, ids=(40, 90)))


def test_a_seed_decides_a_draw(engine: Engine) -> None:
    def draw(seed: int) -> list[int]:
        batch = DecodeBatch(engine, 1, 100)
        batch.read({0: _prompt(45)})
        batch.sample(0, Sampler(temperature=1.0, seed=seed))
        return list(batch.decode(0, 8))

    assert draw(1) == draw(1) != draw(2)


def test_what_does_not_fit_is_said_before_anything_is_read(engine: Engine, model: Model) -> None:
    batch = DecodeBatch(engine, 1, 1)
    with pytest.raises(UserError, match="600 more tokens do not fit the 256 free slots"):
        batch.read({0: _prompt(600)})
    with pytest.raises(UserError, match="the model reads at most"):
        batch.read({0: _prompt(model.config.max_length + 1)})
    with pytest.raises(UserError, match="nothing was read"):
        next(batch.decode(0, 1))
    assert batch.lengths[0] == 0


def test_a_plan_pads_little(engine: Engine) -> None:
    assert engine.plan(45) == [(32, 32), (8, 8), (8, 5)]
    assert engine.plan(20) == [(32, 20)]
    assert engine.plan(3) == [(8, 3)]
    assert engine.plan(0) == []
    assert engine.plan(20, (64, 32)) == [(32, 20)]


def test_cache_lengths_are_few(engine: Engine) -> None:
    lengths = {engine.cache_length(slots, 256) for slots in range(1, 16385)}
    assert min(lengths) == 256 and max(lengths) == 16384 and len(lengths) == 19
    assert all(
        slots <= engine.cache_length(slots, 1024) < max(1024, 1.34 * slots) + 1 for slots in range(1, 9000)
    )
    assert [row_count(engine, rows) for rows in (1, 2, 3, 6, 64)] == [1, 2, 4, 8, 64]


# --------------------------------------------------------------------------------------------- many rows


def _requests(**others: object) -> list[DecodeRequest]:
    return [DecodeRequest(prompt, max_tokens=10, **others) for prompt in PROMPTS]  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", [{"context": 1}, *MESHES], ids=str)
def test_rows_of_different_lengths_give_what_each_gives_alone(
    folder: Path, expected: list[list[int]], axes: dict[str, int]
) -> None:
    """All at once, and joining one after another while the others go on."""
    scheduler = Scheduler(Engine(_model(folder, **axes), blocks=BLOCKS))
    assert [list(stream) for stream in scheduler.submit(_requests())] == expected
    requests = _requests()
    (first,) = scheduler.submit(requests[:1])
    found = [[next(first) for _ in range(3)]]
    (second,) = scheduler.submit(requests[1:2])
    found.append([next(second) for _ in range(4)])
    others = scheduler.submit(requests[2:])
    assert scheduler.alive == 4
    assert found[0] + list(first) == expected[0]
    assert [found[1] + list(second), *map(list, others)] == expected[1:]
    assert scheduler.alive == 0


def test_rows_leave_and_others_take_their_places(engine: Engine, expected: list[list[int]]) -> None:
    scheduler = Scheduler(engine)
    streams = scheduler.submit([DecodeRequest(PROMPTS[row], max_tokens=row + 2) for row in range(4)])
    (running,) = scheduler._running
    assert list(streams[3])[:5] == expected[3][:5]
    assert [list(stream) for stream in streams[:3]] == [expected[row][: row + 2] for row in range(3)]
    streams = scheduler.submit(_requests())
    next(streams[0])
    streams[1].close()
    del streams[2]
    assert scheduler.alive == 2
    (other,) = scheduler.submit(_requests()[2:3])
    (running,) = scheduler._running
    assert running.batch.count == 4
    assert list(other) == expected[2]
    assert list(streams[0]) == expected[0][1:]
    assert list(streams[1]) == []


def test_a_batch_becomes_smaller_when_most_have_left(engine: Engine, expected: list[list[int]]) -> None:
    scheduler = Scheduler(engine)
    last = scheduler.submit([DecodeRequest(PROMPTS[0], max_tokens=2)] * 3 + _requests()[3:])[3]
    (running,) = scheduler._running
    assert running.batch.count == 4
    assert list(last) == expected[3]
    assert running.batch.count == 1


def test_rows_draw_by_their_own_samplers(engine: Engine) -> None:
    samplers = [Sampler(temperature=2.0, seed=seed, top_k=20 * seed) for seed in (0, 1, 2)] + [Sampler()]
    requests = [DecodeRequest(PROMPTS[0], sampler, 12) for sampler in samplers]
    scheduler = Scheduler(engine)
    alone = [list(scheduler.submit([request])[0]) for request in requests]
    assert [list(stream) for stream in scheduler.submit(requests)] == alone
    assert len({tuple(tokens) for tokens in alone}) == 4


def test_a_pair_of_guidance_among_other_rows(engine: Engine) -> None:
    pair = DecodeRequest(PROMPTS[0], max_tokens=8, without=PROMPTS[1], scale=2.0)
    plain = DecodeRequest(PROMPTS[2], max_tokens=8)
    scheduler = Scheduler(engine)
    alone = [list(scheduler.submit([request])[0]) for request in (pair, plain)]
    assert [list(stream) for stream in scheduler.submit([pair, plain])] == alone
    assert alone[0] != list(scheduler.submit([DecodeRequest(PROMPTS[0], max_tokens=8)])[0])


def test_what_cannot_be_a_request(engine: Engine, model: Model) -> None:
    scheduler = Scheduler(engine)
    long = _prompt(model.config.max_length + 1)
    for request, said in (
        (DecodeRequest(PROMPTS[0][:0]), "give at least one token"),
        (DecodeRequest(PROMPTS[0], max_tokens=0), "give at least one token"),
        (DecodeRequest(long), "the model reads at most"),
    ):
        with pytest.raises(UserError, match=said):
            scheduler.submit([DecodeRequest(PROMPTS[0]), request])
    assert scheduler.alive == 0


def test_an_interrupted_step_takes_its_batch_and_no_other(
    engine: Engine, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(engine)
    first, second = scheduler.submit(_requests()[:2])
    (other,) = scheduler.submit([DecodeRequest(PROMPTS[2], max_tokens=10, ids=(0, 300))])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(DecodeBatch, "step", interrupted)
        next(first)
        with pytest.raises(KeyboardInterrupt):
            next(first)
    next(second)  # was drawn before
    with pytest.raises(RuntimeError, match="interrupted"):
        next(second)
    assert scheduler.alive == 1
    assert len(list(other)) == 10
    assert list(scheduler.submit(_requests()[:1])[0]) == expected[0]


# ------------------------------------------------------------------------------------------------ prefixes


@pytest.mark.parametrize("axes", [{"context": 1}, *MESHES], ids=str)
def test_a_shared_prefix_gives_the_logits_of_the_whole(
    folder: Path, model: Model, axes: dict[str, int]
) -> None:
    """Of all of it and of its first 40 tokens, in blocks and token by token."""
    engine = Engine(_model(folder, **axes), blocks=BLOCKS)
    prefix = engine.prefill(_prompt(61, seed=9))
    for part in (prefix, prefix.first(40)):
        batch = DecodeBatch(engine, 4, 128, prefix=part)
        batch.read(dict(enumerate(PROMPTS)))
        rows = [np.concatenate([part.tokens, prompt]) for prompt in PROMPTS]
        for token in (None, 5):
            if token is not None:
                batch.step(token)
                rows = [np.append(row, token) for row in rows]
            for row, tokens in enumerate(rows):
                np.testing.assert_allclose(np.asarray(batch.logits)[row], _whole(model, tokens), atol=1e-4)
    assert shared_length(prefix.tokens, _prompt(61, seed=9)) == 61


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_type_of_cache_is_the_same_on_a_ring(folder: Path, dtype: str) -> None:
    """A prefix that rows share, rows that grow: one device and eight draw the same tokens."""
    found = []
    for devices in (1, 8):
        engine = Engine(_model(folder, context=devices), blocks=BLOCKS, cache_dtype=dtype)
        prefix = engine.prefill(_prompt(61, seed=9))
        assert prefix.cache.dtype == np.dtype(dtype)
        assert prefix.cache.k.dtype.itemsize == np.dtype(dtype).itemsize
        longer = engine.prefill(np.concatenate([prefix.tokens, PROMPTS[0]]), after=prefix)
        scheduler = Scheduler(engine)
        requests = [
            DecodeRequest(prompt, max_tokens=8, prefix=each)
            for prompt in PROMPTS[:2]
            for each in (prefix, longer)
        ]
        found.append([list(stream) for stream in scheduler.submit(requests)])
    assert found[0] == found[1]


def test_a_cache_of_no_such_type(model: Model) -> None:
    with pytest.raises(UserError, match="cache_dtype='int4' was given; expected float32"):
        Engine(model, cache_dtype="int4")


def test_a_long_cache_reserves_little_that_is_not_used(model: Model) -> None:
    """An hour of video, 68,400 tokens, and any other length from 16,384 on: at most a sixteenth."""
    engine = Engine(model)
    slots = engine.slots_for(68_400, blocks=engine.blocks)
    assert engine.cache_length(slots, 256) < 1.02 * 68_400
    assert all(engine.cache_length(slots, 256) <= 1.0625 * slots + 1 for slots in range(16_384, 200_000, 777))


def test_blocks_of_a_prompt_wait_for_each_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block takes memory of its own as soon as it is handed to the devices."""
    rows = Rows(engine, 1, 256)
    waited = []
    call = Rows._call

    def calling(self: Rows, *args: object, **inputs: object) -> object:
        waited.append(self._last_logits().is_ready())
        return call(self, *args, **inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(Rows, "_call", calling)
    rows.read({0: _prompt(150)})
    assert waited == [True] * len(engine.plan(150))


def test_log_probabilities_of_what_was_drawn(engine: Engine, model: Model) -> None:
    """Of a greedy row and of a sampled one in the same batch, among the ids that may be generated."""
    ids = (0, 300)
    requests = [
        DecodeRequest(PROMPTS[0], sampler, 6, ids=ids, log_probabilities=asked)
        for sampler, asked in (
            (Sampler(), True),
            (Sampler(temperature=2.0, top_k=9), True),
            (Sampler(), False),
        )
    ]
    streams = Scheduler(engine).submit(requests)
    for stream in streams[:2]:
        row = PROMPTS[0]
        for token in stream:
            logits = _whole(model, row)[slice(*ids)].astype(np.float64)
            expected = logits[token] - np.log(np.exp(logits).sum())
            np.testing.assert_allclose(stream.log_probabilities[-1], expected, atol=1e-3)
            row = np.append(row, token)
        assert len(stream.log_probabilities) == 6
    assert len(list(streams[2])) == 6
    assert streams[2].log_probabilities == []


def test_a_prefix_goes_on_from_another(engine: Engine, model: Model) -> None:
    tokens = _prompt(100, seed=5)
    first = engine.prefill(np.concatenate([tokens[:50], PROMPTS[1]]))
    keys = np.asarray(first.cache.k)
    longer = engine.prefill(tokens, after=first)
    np.testing.assert_array_equal(first.cache.k, keys)
    batch = DecodeBatch(engine, 1, 64, prefix=longer)
    batch.read({0: PROMPTS[1]})
    np.testing.assert_allclose(
        np.asarray(batch.logits)[0], _whole(model, np.concatenate([tokens, PROMPTS[1]])), atol=1e-4
    )


def test_reading_a_prefix_tells_how_far_it_is(engine: Engine) -> None:
    seen: list[tuple[int, int]] = []
    engine.prefill(_prompt(300), progress=lambda done, of: seen.append((done, of)))
    assert seen == [(128, 300), (256, 300), (300, 300)]


def test_joining_and_leaving_over_a_prefix_that_threads_share(engine: Engine) -> None:
    """Eight threads go on from two prefixes at once; each gets what it gets alone."""
    prefixes = [engine.prefill(_prompt(61, seed)) for seed in (9, 10)]
    requests = [
        DecodeRequest(prompt, max_tokens=4 + row, prefix=prefix)
        for prefix in prefixes
        for row, prompt in enumerate(PROMPTS)
    ]
    scheduler = Scheduler(engine)
    alone = [list(scheduler.submit([request])[0]) for request in requests]
    start = threading.Barrier(8)

    def ask(request: DecodeRequest) -> list[int]:
        start.wait()
        return list(scheduler.submit([request])[0])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, requests)) == alone
    assert scheduler.alive == 0


def test_scores_are_log_probabilities_and_are_forgotten(engine: Engine, model: Model) -> None:
    prefix = engine.prefill(_prompt(40, seed=3))
    batch = DecodeBatch(engine, 2, 64, prefix=prefix)
    batch.read({0: PROMPTS[1], 1: PROMPTS[2][:5]})
    question = _prompt(4, seed=6)
    answer = _prompt(3, seed=7)
    free = batch.free([0, 1])
    scores = batch.score(question, answer)
    for row, own in enumerate((PROMPTS[1], PROMPTS[2][:5])):
        tokens = np.concatenate([prefix.tokens, own, question])
        total = 0.0
        for token in answer:
            logits = _whole(model, tokens).astype(np.float64)
            total += logits[token] - np.log(np.exp(logits).sum())
            tokens = np.append(tokens, token)
        np.testing.assert_allclose(scores[row], total, atol=1e-3)
    assert batch.free([0, 1]) == free
    np.testing.assert_allclose(batch.score(question, answer), scores, atol=1e-5)
