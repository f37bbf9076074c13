"""LWM's language models against what LWM itself computed from the same files."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from continuation import FIXTURES, greedy, imported, logits
from flax import nnx
from safetensors.numpy import load_file

from ringvision.errors import UserError
from ringvision.models.transformer import Transformer
from ringvision.vocabulary import Vocabulary
from ringvision.weights.exporting import export_weights
from ringvision.weights.importing import import_weights
from ringvision.weights.table import halves

BOTH = FIXTURES / "lwm_llama"
TEXT = FIXTURES / "lwm_llama_text"
TIED = FIXTURES / "lwm_tied"
ROWS = 320
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def both():
    return dict(np.load(BOTH / "io.npz"))


@pytest.fixture(scope="module")
def words():
    return dict(np.load(TEXT / "io.npz"))


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return imported(BOTH / "streaming_params", tmp_path_factory.mktemp("lwm") / "model")


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    return imported(TEXT / "streaming_params", tmp_path_factory.mktemp("lwm") / "model")


def ids(values: dict[str, np.ndarray], name: str = "") -> np.ndarray:
    """Their ids and masks in our one vocabulary."""
    return values[f"{name}input_ids"] + ROWS * values[f"{name}vision_masks"]


def compare(
    found: np.ndarray, values: dict[str, np.ndarray], name: str, where: np.ndarray | None = None
) -> None:
    where = np.ones(found.shape[:2], bool) if where is None else where == 1
    assert where.sum() >= 30
    np.testing.assert_allclose(
        found[where][:, :ROWS], values[f"{name}_text_logits"][where], atol=TOLERANCE, rtol=0
    )
    np.testing.assert_allclose(
        found[where][:, ROWS:], values[f"{name}_vision_logits"][where], atol=TOLERANCE, rtol=0
    )


def test_text_and_vision(seeing, both):
    compare(logits(seeing, ids(both)), both, "mixed")


def test_left_padding(seeing, both):
    mask = both["leftpad_attention_mask"]
    compare(logits(seeing, ids(both, "leftpad_"), both["leftpad_position_ids"], mask), both, "leftpad", mask)


@pytest.mark.parametrize("name", ["segments", "segments_arange"])
def test_packed_rows(seeing, both, name):
    positions = both["segments_position_ids"] if name == "segments" else None
    compare(logits(seeing, ids(both), positions, both["segments_segment_ids"] + 1), both, name)


def test_positions_with_gaps(seeing, both):
    compare(logits(seeing, ids(both), both["posgap_position_ids"]), both, "posgap")


@pytest.mark.parametrize("name", ["streaming_params_bf16", "streaming_train_state_bf16"])
def test_bfloat16_alone_and_within_a_train_state(tmp_path, both, name):
    model = imported(BOTH / name, tmp_path / "model")
    compare(
        logits(model, ids(both)),
        {k.removesuffix("_bf16_weights"): v for k, v in both.items() if k.endswith("_bf16_weights")},
        "mixed",
    )
    assert {array.dtype.name for array in load_file(tmp_path / "model/model.safetensors").values()} == {
        "bfloat16"
    }


@pytest.mark.parametrize("name", ["streaming_params_chunked"])
def test_chunked_arrays_are_the_same_weights(tmp_path, seeing, name):
    import_weights(BOTH / name, tmp_path / "model")
    same_weights(seeing.folder, tmp_path / "model")


@pytest.mark.parametrize(
    "name", ["streaming_params_scan_axis1", "streaming_params_unscanned", "flax_params.msgpack"]
)
def test_other_layouts_are_the_same_weights(tmp_path, reading, name):
    import_weights(TEXT / name, tmp_path / "model")
    same_weights(reading.folder, tmp_path / "model")


def same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


@pytest.mark.parametrize("said", ["all", "heads alone"])
def test_heads_that_are_the_tables(tmp_path, said):
    """Tied, layers on axis 1, arrays in more than ten pieces; whether tied and on which axis, the tensors say
    where no config does.
    """
    values = dict(np.load(TIED / "io.npz"))
    config = json.loads((TIED / "config.json").read_text())
    assert b"\xa210" in (TIED / "streaming_params").read_bytes()  # the eleventh piece
    if said != "all":
        config = {name: config[name] for name in ("num_attention_heads", "theta", "rms_norm_eps")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = imported(TIED / "streaming_params", tmp_path / "model", config=tmp_path / "config.json")
    assert model.config.tie_embeddings and model.config.head_dim == 4
    found = logits(model, values["input_ids"] + 96 * values["vision_masks"])
    expected = np.concatenate([values["mixed_text_logits"], values["mixed_vision_logits"]], axis=-1)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    export_weights(tmp_path / "model", tmp_path / "theirs", "lwm")
    import_weights(tmp_path / "theirs", tmp_path / "again")
    same_weights(tmp_path / "model", tmp_path / "again")


def loss_of(params, graphdef, targets, is_vision, weights, rows):
    """LWM's: of each row the weighted mean over its tokens, then the mean over rows; text and vision apart,
    each a softmax of its own.
    """
    model = nnx.merge(graphdef, params)
    found = model.logits(rows)

    def part(scores, wanted, weight):
        chosen = jnp.take_along_axis(
            jax.nn.log_softmax(scores), jnp.where(weight > 0, wanted, 0)[..., None], axis=-1
        )[..., 0]
        return -(chosen * weight).sum(1) / jnp.maximum(weight.sum(1), 1e-10)

    text = part(found[..., :ROWS], targets, weights * ~is_vision).mean()
    if found.shape[-1] == ROWS:
        return text, (text,)
    vision = part(found[..., ROWS:], targets, weights * is_vision).mean()
    return (text + vision) / 2, (text, vision)


def test_loss_and_gradients(seeing, both):
    rows = both["target_tokens"], both["target_vision_masks"], both["loss_masks"], ids(both)
    graded = jax.jit(jax.value_and_grad(loss_of, has_aux=True), static_argnums=1)
    (loss, (text, vision)), found = graded(seeing.params, seeing.graphdef, *rows)
    np.testing.assert_allclose(
        [loss, text, vision], [both[f"train_{name}loss"] for name in ("", "text_", "vision_")], rtol=1e-5
    )
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(found)))
    np.testing.assert_allclose(norm, both["train_grad_global_norm"], rtol=1e-4)
    model: Transformer = nnx.merge(seeing.graphdef, found)
    np.testing.assert_allclose(model.norm.scale[...], both["train_grad_ln_f"], atol=1e-4)
    query = model.layers.attention.query[...]
    np.testing.assert_allclose(query, halves(both["train_grad_wq"].reshape(query.shape)), atol=1e-4)
    assert np.abs(both["train_grad_wq"]).max() > 0.1


def test_loss_of_text(reading, words):
    none = np.zeros(words["target_tokens"].shape, bool)
    rows = words["target_tokens"], none, words["loss_masks"], words["input_ids"]
    loss, _ = jax.jit(loss_of, static_argnums=1)(reading.params, reading.graphdef, *rows)
    np.testing.assert_allclose(loss, words["train_loss"], rtol=1e-5)


def test_words_go_on_as_there(seeing, both):
    prompt = both["gen_text_prompt_ids"] + ROWS * both["gen_text_prompt_vision_masks"]
    found = greedy(seeing, prompt, both["gen_text_attention_mask"], 12, slice(0, ROWS))
    np.testing.assert_array_equal(found, both["gen_text_sequences"][:, 16:])


def test_guided_codes_go_on_as_there(seeing, both):
    scale = float(both["gen_vision_cfg_scale"])
    found = greedy(
        seeing,
        both["gen_vision_prompt_ids"],
        both["gen_vision_attention_mask"],
        12,
        slice(ROWS, ROWS + 80),
        scale,
    )
    np.testing.assert_array_equal(found - ROWS, both["gen_vision_sequences"][:, 10:])


def test_text_model(reading, words):
    np.testing.assert_allclose(logits(reading, words["input_ids"]), words["logits"], atol=TOLERANCE, rtol=0)
    mask = words["leftpad_attention_mask"]
    found = logits(reading, words["leftpad_input_ids"], words["leftpad_position_ids"], mask)
    np.testing.assert_allclose(found[mask == 1], words["leftpad_logits"][mask == 1], atol=TOLERANCE, rtol=0)
    found = logits(
        reading, words["input_ids"], words["segments_position_ids"], words["segments_segment_ids"] + 1
    )
    np.testing.assert_allclose(found, words["segments_logits"], atol=TOLERANCE, rtol=0)


def test_text_goes_on_as_there(reading, words):
    found = greedy(reading, words["gen_prompt_ids"], words["gen_attention_mask"], 16, slice(0, ROWS))
    wanted = words["gen_sequences"][:, 12:]
    live = np.cumsum(wanted == 2, axis=1) - (wanted == 2) == 0  # after eos there is padding
    np.testing.assert_array_equal(found[live], wanted[live])
    assert live.sum() >= 20


def test_vocabulary_and_config(seeing, reading):
    words = seeing.vocabulary
    config = seeing.config
    assert (words.text_size, words.num_codes, words.vision_size, words.eof, words.eov) == (
        320,
        64,
        80,
        384,
        385,
    )
    assert (config.rope_theta, config.norm_eps, config.max_length, config.num_layers) == (1e4, 1e-6, 64, 2)
    assert reading.vocabulary is None and reading.config.vocab_size == 320


def test_without_a_config_it_is_inferred_and_said(tmp_path):
    source = tmp_path / "params"
    source.write_bytes((BOTH / "streaming_params").read_bytes())
    lines: list[str] = []
    with pytest.raises(
        UserError, match="num_attention_heads is missing, and the 64 columns of wq are no heads of 128"
    ):
        import_weights(source, tmp_path / "model", dry_run=True)
    (tmp_path / "sizes.json").write_text(json.dumps({"num_attention_heads": 4}))
    assumed = import_weights(
        source, tmp_path / "none", dry_run=True, config=tmp_path / "sizes.json", say=lines.append
    )["assumed"]
    assert any("theta 5e+07" in line for line in lines) and any("theta 5e+07" in line for line in assumed)
    (tmp_path / "sizes.json").write_text(json.dumps({"num_attention_heads": 4, "theta": 1e4}))
    model = imported(source, tmp_path / "model", config=tmp_path / "sizes.json")
    assert model.config.head_dim == 16 and model.vocabulary.num_codes == 78


@pytest.mark.parametrize(("eof", "eov"), [(70, 71), (70, None), (64, 66), (60, 61)])
def test_where_a_config_puts_the_ends_of_frames(tmp_path, eof, eov):
    """Either eof and eov of the vocabulary are the config's, or it is refused: never other ids than the model
    was trained with.
    """
    config = json.loads((BOTH / "config.json").read_text()) | {"eof_token": eof, "eov_token": eov}
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = {"config": tmp_path / "config.json"}
    if eof < 64 or eov == 66:
        with pytest.raises(UserError, match=f"eof_token is {eof} and eov_token {eov}"):
            import_weights(BOTH / "streaming_params", tmp_path / "model", **options)
        return
    assumed = import_weights(BOTH / "streaming_params", tmp_path / "model", **options)["assumed"]
    words = Vocabulary.from_dict(json.loads((tmp_path / "model/config.json").read_text())["vocabulary"])
    assert (words.eof - ROWS, words.eov - ROWS, words.vision_size) == (70, 71, 80)
    assert any("70 codes where num_vision_codes is 64" in line for line in assumed)
