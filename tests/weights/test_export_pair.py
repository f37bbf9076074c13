"""What may be wrong with a folder that is to become one file again. That the file is right is in
test_chameleon.py and test_emu3.py.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ringvision.errors import UserError
from ringvision.weights.exporting import export_weights
from ringvision.weights.importing import import_weights

FIXTURE = Path(__file__).parent.parent / "fixtures" / "emu3"


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("models") / "emu3"
    import_weights(FIXTURE, target)
    return target


@pytest.fixture
def folder(imported, tmp_path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(imported, tmp_path / "model"))


def refused(folder: Path, says: str) -> None:
    with pytest.raises(UserError, match=says):
        export_weights(folder, folder.parent / "theirs", "hf")
    assert not (folder.parent / "theirs").exists()


def test_a_tensor_is_missing_or_one_too_many(folder) -> None:
    weights = load_file(folder / "tokenizer" / "model.safetensors")
    weights["stranger"] = weights.pop("codebook")
    save_file(weights, folder / "tokenizer" / "model.safetensors")
    refused(folder, r"codebook is missing, expected \(64, 4\); stranger is \(64, 4\), expected none")


def test_its_tokenizer_is_not_there(folder) -> None:
    shutil.rmtree(folder / "tokenizer")
    refused(folder, "tokenizer holds no model.safetensors")


def test_its_config_says_another_type(folder) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["hugging_face"]["model_type"] = "llama"
    (folder / "config.json").write_text(json.dumps(settings))
    refused(folder, "type 'llama'; expected chameleon or emu3")


def test_types_stay_as_they_are_or_become_what_is_asked_for(folder, tmp_path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: array.astype(np.float16) for name, array in weights.items()}, folder / "model.safetensors"
    )
    export_weights(folder, tmp_path / "own", "hf")
    own = load_file(tmp_path / "own" / "model.safetensors")
    assert (
        own["text_model.model.norm.weight"].dtype == np.float16
        and own["vqmodel.quantize.embedding.weight"].dtype == np.float32
    )
    assert json.loads((tmp_path / "own" / "config.json").read_text())["dtype"] == "float16"
    export_weights(folder, tmp_path / "asked", "hf", dtype="float16")
    asked = {name: array.dtype for name, array in load_file(tmp_path / "asked" / "model.safetensors").items()}
    assert {kind for name, kind in asked.items() if not name.endswith("num_batches_tracked")} == {
        np.dtype(np.float16)
    }
    assert asked["vqmodel.encoder.time_res_stack.0.norm1.num_batches_tracked"] == np.int64


@pytest.mark.parametrize(
    ("said", "written"),
    [
        (
            {"rope_theta": 5e3},
            {
                "rope_theta": 5e3,
                "rope_scaling": None,
                "rope_parameters": {"rope_type": "default", "rope_theta": 5e3},
            },
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}},
            {"rope_theta": 5e3, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
        ({}, {}),
    ],
)
def test_its_config_is_for_transformers_4_and_5(folder, tmp_path, said, written) -> None:
    settings = json.loads((folder / "config.json").read_text())
    text = settings["hugging_face"]["text_config"]
    del text["rope_parameters"]
    text |= said
    (folder / "config.json").write_text(json.dumps(settings))
    export_weights(folder, tmp_path / "theirs", "hf")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["text_config"] == {**text, **written}
    with safe_open(tmp_path / "theirs" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_model_whose_head_is_its_embeddings(tmp_path) -> None:
    source = tmp_path / "source"
    weights = load_file(FIXTURE / "model.safetensors")
    del weights["text_model.lm_head.weight"]
    source.mkdir()
    save_file(weights, source / "model.safetensors")
    shutil.copyfile(FIXTURE / "config.json", source / "config.json")
    import_weights(source, tmp_path / "model")
    assert "unembed.kernel" not in load_file(tmp_path / "model" / "model.safetensors")
    export_weights(tmp_path / "model", tmp_path / "theirs", "hf")
    assert load_file(tmp_path / "theirs" / "model.safetensors").keys() == weights.keys()
