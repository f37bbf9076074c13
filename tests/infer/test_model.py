"""A model folder becomes logits, the same on any mesh; a folder that is wrong says everything that is wrong
with it.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from ringvision import model_folder
from ringvision.errors import UserError
from ringvision.infer.model import Model, load_model
from ringvision.mesh import RULES, TRAINING, Rules, make_mesh


@pytest.fixture(scope="module")
def alone(folder: Path) -> Model:
    return load_model(folder, make_mesh(context=1, devices=jax.devices()[:1]))


def _tokens(model: Model, batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, model.config.vocab_size, (batch, length))


@pytest.mark.parametrize(
    ("axes", "devices"),
    [
        ({"context": 2}, 2),
        ({"context": 8}, 8),
        ({"context": 4, "data": 2}, 8),
        ({"context": 2, "ulysses": 2}, 4),
        ({"tensor": 2}, 2),
        ({"fsdp": 2, "tensor": 2, "context": 2}, 8),
    ],
)
@pytest.mark.parametrize("length", [1, 13])
def test_logits_do_not_depend_on_the_mesh(
    folder: Path, alone: Model, axes: dict[str, int], devices: int, length: int
) -> None:
    spread = load_model(folder, make_mesh(**axes, devices=jax.devices()[:devices]))
    tokens = _tokens(alone, 3, length)
    expected = alone.logits(tokens)
    found = spread.logits(tokens)
    assert found.shape == (3, length, alone.config.vocab_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-4)


def test_weights_are_spread_over_tensor_and_fsdp_and_whole_on_a_ring(folder: Path) -> None:
    def share(rules: Rules = RULES, **axes: int) -> float:
        """How much of the model the first device holds."""
        leaves = jax.tree.leaves(load_model(folder, make_mesh(**axes), rules=rules).params)
        held = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
        return held / sum(leaf.size for leaf in leaves)

    assert share(context=8) == 1
    assert share(tensor=2, context=4) == pytest.approx(1 / 2, abs=0.02)
    assert share(fsdp=2, tensor=2, context=2) == pytest.approx(1 / 4, abs=0.02)
    assert share(TRAINING, context=8) == pytest.approx(1 / 8, abs=0.02)


def test_a_ring_that_shares_the_weights_gives_the_same_logits(folder: Path, alone: Model) -> None:
    mesh = make_mesh(context=4, devices=jax.devices()[:4])
    tokens = _tokens(alone, 2, 13)
    found = load_model(folder, mesh, rules=TRAINING).logits(tokens)
    np.testing.assert_allclose(np.asarray(found), np.asarray(alone.logits(tokens)), atol=1e-4)


def test_positions_and_segments_default_to_one_document_a_row(folder: Path) -> None:
    model = load_model(folder, make_mesh(context=2, devices=jax.devices()[:2]))
    tokens = _tokens(model, 1, 9)
    given = model.logits(tokens, np.arange(9)[None], np.ones((1, 9), int))
    np.testing.assert_array_equal(np.asarray(model.logits(tokens)), np.asarray(given))
    two = model.logits(tokens, np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4]]), np.array([[1] * 4 + [2] * 5]))
    np.testing.assert_allclose(np.asarray(two[:, 4:]), np.asarray(model.logits(tokens[:, 4:])), atol=1e-5)


def test_all_devices_by_default(folder: Path) -> None:
    model = load_model(folder)
    assert model.mesh.shape["context"] == len(jax.devices())
    assert len(model.hash) == 64
    assert model.hash == load_model(folder).hash


def test_wrong_tokens_are_refused(alone: Model) -> None:
    with pytest.raises(UserError, match="another vocabulary"):
        alone.logits([[alone.config.vocab_size]])
    with pytest.raises(UserError, match="integers"):
        alone.logits([[0.5]])
    with pytest.raises(UserError, match="positions of shape"):
        alone.logits([[1, 2]], positions=[[0]])


def _copy(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place)
    return place


def test_a_model_in_several_files_is_the_same_model(folder: Path, alone: Model, tmp_path: Path) -> None:
    several = _copy(folder, tmp_path / "several")
    model_folder.save_model(
        several, model_folder.read_config(folder), model_folder.load_model(folder), max_file=50_000
    )
    files = model_folder.weight_files(several)
    assert len(files) > 2
    loaded = load_model(several, alone.mesh)
    tokens = _tokens(alone, 1, 7)
    np.testing.assert_array_equal(np.asarray(loaded.logits(tokens)), np.asarray(alone.logits(tokens)))
    before = loaded.hash
    content = bytearray(files[-1].read_bytes())
    content[-1] ^= 1
    files[-1].write_bytes(content)
    assert load_model(several, alone.mesh).hash != before


def test_weights_stay_as_narrow_as_one_asks(folder: Path, alone: Model, tmp_path: Path) -> None:
    half = _copy(folder, tmp_path / "half")
    arrays = {name: array.astype("bfloat16") for name, array in model_folder.load_model(folder).items()}
    model_folder.save_model(half, model_folder.read_config(folder), arrays)
    tokens = _tokens(alone, 1, 7)
    for place, dtype, expected in (
        (half, None, "float32"),
        (half, "stored", "bfloat16"),
        (folder, "bfloat16", "bfloat16"),
    ):
        model = load_model(place, alone.mesh, dtype=dtype)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(model.params)} == {expected}
        spread = np.abs(np.asarray(model.logits(tokens)) - np.asarray(alone.logits(tokens))).max()
        assert spread < 0.1 * np.abs(np.asarray(alone.logits(tokens))).max()
    with pytest.raises(UserError, match="dtype='int8'"):
        load_model(folder, dtype="int8")


def test_every_wrong_tensor_is_named_in_one_line(folder: Path, tmp_path: Path) -> None:
    broken = _copy(folder, tmp_path / "broken")
    arrays = model_folder.load_model(broken)
    del arrays["norm.scale"]
    arrays["embed.table"] = arrays["embed.table"][:, :5]
    model_folder.save_model(broken, model_folder.read_config(broken), arrays)
    with pytest.raises(UserError, match="norm.scale") as raised:
        load_model(broken)
    assert "embed.table" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "vqgan"}, "kind"),
        ({"transformer": None}, "transformer"),
        ({"transformer": {"vocab_size": 3}}, "missing"),
        (
            {
                "vocabulary": {
                    "text_size": 9,
                    "num_codes": 9,
                    "bos": 1,
                    "eos": 2,
                    "vision_start": [3],
                    "vision_end": [4],
                }
            },
            "the vocabulary has 20 ids",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    broken = _copy(folder, tmp_path / "broken")
    config = broken / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(UserError, match=said):
        load_model(broken)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        load_model(tmp_path / "nowhere")


def test_stamps_of_the_vocabulary_are_rows_of_the_transformer(folder: Path, tmp_path: Path) -> None:
    broken = _copy(folder, tmp_path / "broken")
    settings = json.loads((broken / "config.json").read_text())
    settings["transformer"] |= {"vocab_size": 200, "code_offset": 9}
    settings["vocabulary"] = {
        "text_size": 9, "num_codes": 126, "bos": 1, "eos": 2, "vision_start": [3], "vision_end": [4],
        "stamps": 63,
    }  # fmt: skip
    (broken / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="the vocabulary has 63 stamps, the transformer 0 stamp_rows"):
        load_model(broken)


def test_tokens_that_are_no_ids(folder: Path) -> None:
    model = load_model(folder)
    with pytest.raises(UserError, match=f"expected 0 to {model.config.vocab_size - 1}"):
        model.logits([[model.config.vocab_size]])
