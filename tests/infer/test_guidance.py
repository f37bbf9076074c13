"""Guided generation gives LWM's own tokens and those of whole forward passes, on any number of devices, and
only ids from its range.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import msgpack
import numpy as np
import pytest
from flax import nnx, serialization

from ringvision.infer.decode_batch import DecodeBatch
from ringvision.infer.engine import Engine
from ringvision.infer.model import Model, load_model
from ringvision.infer.sampler import Sampler
from ringvision.mesh import make_mesh
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.tree import flatten, unflatten
from ringvision.vocabulary import Vocabulary

LWM = Path(__file__).parents[1] / "fixtures" / "lwm_llama"
BLOCKS = (32, 8)
MESHES: list[dict[str, int]] = [
    {"context": 1},
    {"context": 4},
    {"context": 2, "data": 4},
    {"context": 2, "data": 2, "tensor": 2},
]
TEXT = 320
VISION = 80
WIDTH = 64
HEADS = 4


def _lwm(**axes: int) -> Model:
    """The fixture's model, its tensors put in place by hand."""
    read = {}
    with (LWM / "streaming_params").open("rb") as file:
        for key, value in msgpack.Unpacker(file, max_buffer_size=0):
            read["/".join(key)] = np.asarray(serialization.msgpack_restore(value))
    place = "transformer/h/scan_decoder/"
    layers = len(read[place + "attention_norm/kernel"])

    def heads(name: str, turned: bool) -> np.ndarray:
        kernel = read[f"{place}attention/{name}/kernel"].reshape(layers, WIDTH, HEADS, -1)
        return np.concatenate([kernel[..., 0::2], kernel[..., 1::2]], -1) if turned else kernel

    def vision_below_text(text: str, vision: str, axis: int) -> np.ndarray:
        return np.concatenate([read[text], read[vision]], axis)

    config = TransformerConfig(
        TEXT + VISION, WIDTH, layers, HEADS, HEADS, WIDTH // HEADS, 160, rope_theta=1e4, norm_eps=1e-6
    )
    tensors = {
        "embed.table": vision_below_text("transformer/wte/embedding", "transformer/vte/embedding", 0),
        "unembed.kernel": vision_below_text("lm_head/kernel", "vision_head/kernel", 1),
        "norm.scale": read["transformer/ln_f/kernel"],
        "layers.attention.query": heads("wq", turned=True),
        "layers.attention.key": heads("wk", turned=True),
        "layers.attention.value": heads("wv", turned=False),
        "layers.attention.output": read[place + "attention/wo/kernel"].reshape(
            layers, HEADS, WIDTH // HEADS, WIDTH
        ),
        "layers.attention_norm.scale": read[place + "attention_norm/kernel"],
        "layers.feed_forward_norm.scale": read[place + "ffn_norm/kernel"],
        "layers.feed_forward.gate": read[place + "feed_forward/w1/kernel"],
        "layers.feed_forward.up": read[place + "feed_forward/w3/kernel"],
        "layers.feed_forward.down": read[place + "feed_forward/w2/kernel"],
    }
    like = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))[1]
    return Model(
        config, Vocabulary(TEXT, 64, 1, 2, (1,), (2,), VISION), unflatten(tensors, like), _mesh(axes)
    )


def _pair(engine: Engine, prompts: Sequence[np.ndarray], ids: tuple[int, int], room: int) -> DecodeBatch:
    """A batch that has read one or two prompts, with free slots for so many more tokens."""
    slots = engine.slots_for(max(map(len, prompts)), generate=room)
    batch = DecodeBatch(engine, len(prompts), slots, ids=ids)
    batch.read(dict(enumerate(prompts)))
    return batch


def _drawn(
    batch: DecodeBatch, count: int, sampler: Sampler, scale: float | None = None, first: int = 0
) -> list[int]:
    """Draws and reads `count` ids. scale: of guidance by the second row, None without it."""
    without = {} if scale is None else {"without": 1, "scale": scale}
    batch.sample(0, sampler, first=first, **without)  # type: ignore[arg-type]
    found = []
    for _ in range(count):
        found.append(int(np.asarray(batch.tokens)[0]))
        batch.step()
    return found


def _mesh(axes: dict[str, int]) -> jax.sharding.Mesh:
    return make_mesh(**axes, devices=jax.devices()[: int(np.prod(list(axes.values())))])


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_lwms_own_guided_tokens(axes: dict[str, int]) -> None:
    """Recorded by LWM: two prompts beside two that ask for nothing, top_k 1 among all ids of the vision's
    table.
    """
    recorded = np.load(LWM / "io.npz")
    prompts, masks, sequences = (
        recorded[f"gen_vision_{name}"] for name in ("prompt_ids", "attention_mask", "sequences")
    )
    assert recorded["gen_vision_step_margins"].min() > 1e-3
    engine = Engine(_lwm(**axes), blocks=BLOCKS)
    ids = (TEXT, TEXT + VISION)
    pairs = len(prompts) // 2
    scale = float(recorded["gen_vision_cfg_scale"])
    for row in range(pairs):
        given, blank = (prompts[at][masks[at] == 1] for at in (row, row + pairs))
        assert len(given) != len(blank)
        expected = (sequences[row, prompts.shape[1] :] + TEXT).tolist()
        for sampler in (Sampler(), Sampler(temperature=1.0, top_k=1, seed=7)):
            batch = _pair(engine, [given, blank], ids, len(expected))
            assert _drawn(batch, len(expected), sampler, scale) == expected


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder, _mesh({"context": 1}))


def _whole(model: Model, tokens: list[int]) -> np.ndarray:
    """Logits after the last of `tokens`, by a whole forward pass."""
    padded = np.zeros((1, 64), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(
        model.logits(padded, None, (np.arange(64) < len(tokens)).astype(int)[None]), np.float64
    )[0, len(tokens) - 1]


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_drawing_and_pushing_by_whole_forward_passes(model: Model, scale: float) -> None:
    """11 tokens against 3; two are pushed after the fourth draw."""
    random = np.random.default_rng(0)
    ids = (model.config.vocab_size - 30, model.config.vocab_size - 2)
    given = random.integers(1, 100, 11)
    blank = random.integers(1, 100, 3)
    batch = _pair(Engine(model, blocks=BLOCKS), [given, blank], ids, 16)
    found = _drawn(batch, 4, Sampler(), scale)
    for token in (5, 6):
        batch.step(token)
    found += _drawn(batch, 4, Sampler(), scale, first=4)

    rows = [given.tolist(), blank.tolist()]
    expected = []
    for index in range(8):
        with_prompt, without = (_whole(model, row)[slice(*ids)] for row in rows)
        expected.append(ids[0] + int(np.argmax(without + scale * (with_prompt - without))))
        for row in rows:
            row += [expected[-1], *((5, 6) if index == 3 else ())]
    assert found == expected
    assert batch.lengths[:2].tolist() == [21, 13]


def test_without_a_second_prompt_nothing_is_guided(model: Model) -> None:
    """A scale of 1 is the prompt alone, at half the work; 0 is the other prompt alone."""
    random = np.random.default_rng(1)
    ids = (0, model.config.vocab_size)
    given = random.integers(1, 100, 11)
    blank = random.integers(1, 100, 5)
    engine = Engine(model, blocks=BLOCKS)

    def drawn(*prompts: np.ndarray, scale: float | None = None) -> list[int]:
        return _drawn(_pair(engine, prompts, ids, 8), 8, Sampler(), scale)

    assert drawn(given, blank, scale=1.0) == drawn(given)
    assert drawn(given, blank, scale=0.0) == drawn(blank) != drawn(given)
    assert _pair(engine, [given], ids, 8).count == 1


@pytest.mark.parametrize("axes", MESHES[1:], ids=str)
def test_draws_depend_on_the_seed_and_not_on_the_mesh(
    folder: Path, model: Model, axes: dict[str, int]
) -> None:
    ids = (model.config.vocab_size - 30, model.config.vocab_size - 2)
    given = np.arange(5, 50)
    blank = np.arange(3, 6)

    def drawn(model: Model, seed: int, **settings: Any) -> list[int]:
        batch = _pair(Engine(model, blocks=BLOCKS), [given, blank], ids, 24)
        return _drawn(batch, 24, Sampler(temperature=3.0, seed=seed, **settings), 2.0)

    alone = drawn(model, 0)
    assert drawn(load_model(folder, _mesh(axes)), 0) == alone != drawn(model, 1)
    assert all(ids[0] <= token < ids[1] for token in alone)
    assert len(set(alone)) > 8


def test_top_k_and_top_p_are_of_the_guided_logits(model: Model) -> None:
    """Each id is among the likeliest by whole forward passes: three of them, and the fewest that reach a
    third; others are drawn too.
    """
    ids = (model.config.vocab_size - 30, model.config.vocab_size - 2)
    scale = 2.0
    given = np.arange(5, 16)
    blank = np.arange(3, 6)
    engine = Engine(model, blocks=BLOCKS)

    def drawn(**settings: Any) -> list[tuple[int, np.ndarray]]:
        """Every id by its rank, and the probabilities from the largest to the smallest."""
        sampler = Sampler(temperature=3.0, seed=2, **settings)
        rows = [given.tolist(), blank.tolist()]
        found = []
        for token in _drawn(_pair(engine, [given, blank], ids, 24), 24, sampler, scale):
            with_prompt, without = (_whole(model, row)[slice(*ids)] for row in rows)
            wanted = (without + scale * (with_prompt - without)) / 3.0
            shares = np.exp(wanted - wanted.max())
            found.append(
                (int(np.argsort(np.argsort(-wanted))[token - ids[0]]), np.sort(shares / shares.sum())[::-1])
            )
            for row in rows:
                row.append(token)
        return found

    ranks = {rank for rank, _ in drawn(top_k=3)}
    assert ranks <= {0, 1, 2}
    assert 2 in ranks
    nucleus = drawn(top_p=1 / 3)
    assert all(shares[:rank].sum() < 1 / 3 for rank, shares in nucleus)
    assert len({rank for rank, _ in nucleus}) > 2
    assert max(rank for rank, _ in drawn()) > 5


def test_prompts_and_answers_of_other_lengths_compile_nothing(model: Model, compilations: list[str]) -> None:
    engine = Engine(model, blocks=BLOCKS)

    def draw(given: int, blank: int, room: int) -> None:
        batch = _pair(engine, [np.arange(1, given), np.arange(1, blank)], (0, 30), room)
        _drawn(batch, 3, Sampler(temperature=1.0), 2.0)

    draw(45, 3, 100)
    compilations.clear()
    draw(39, 9, 70)
    draw(71, 4, 3)
    assert compilations == []


def test_a_long_prompt_tells_how_far_it_is(model: Model) -> None:
    seen: list[tuple[int, int]] = []
    batch = DecodeBatch(Engine(model, blocks=BLOCKS), 1, 80, ids=(0, 30))
    batch.read({0: np.arange(1, 70)}, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(32, 69), (64, 69), (69, 69)]


def test_the_fixture_is_read_whole() -> None:
    assert (
        sum(array.size for array in flatten(_lwm(context=1).params).values()) * 4
        > 0.95 * (LWM / "streaming_params").stat().st_size
    )
