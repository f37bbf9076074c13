"""Recognising: whatever a config or the shapes of tensors say, the answer is a family, or an error for the
user.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from continuation import FIXTURES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringvision.errors import UserError
from ringvision.weights.families import recognise
from ringvision.weights.readers.stored import TensorSpec
from ringvision.weights.table import problems
from ringvision.weights.tensors import open_tensors

SOURCES = {
    "lwm": FIXTURES / "lwm_llama/streaming_params",
    "lwm, a layer apart": FIXTURES / "lwm_llama_text/streaming_params_unscanned",
    "llama": FIXTURES / "hf_llama/llama3",
    "qwen2": FIXTURES / "hf_variants/qwen2_yarn",
    "lwm-vqgan": FIXTURES / "lwm_vqgan/vqgan_numpy.pkl",
    "vqgan-jax": FIXTURES / "vqgan_jax/flax_model.msgpack",
    "diffusers": FIXTURES / "diffusers_attention",
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.just(2**40),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-2, 9), max_size=3),
)
QUICK = settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@dataclass
class Stored:
    """Tensors of which nothing but names and shapes is known."""

    specs: dict[str, TensorSpec]
    form: str = "safetensors"
    metadata: dict[str, Any] = field(default_factory=dict)

    def read(self, name: str, rows: tuple[int, int]) -> np.ndarray:
        return np.zeros((rows[1] - rows[0], *self.specs[name].shape[1:]), np.float32)


@pytest.fixture(scope="module", params=SOURCES)
def known(request):
    source = SOURCES[request.param]
    with open_tensors(source) as tensors:
        specs = dict(tensors.specs)
    folder = source if source.is_dir() else source.parent
    return specs, json.loads((folder / "config.json").read_text())


def answer(specs: dict[str, TensorSpec], config: dict[str, Any]) -> list[str]:
    """What is wrong with the tensors; anything but a UserError is a failure."""
    try:
        family = recognise(Stored(specs), config)
        pieces = [piece for folder in family.folders for piece in folder.table.pieces(folder.shapes)]
    except UserError as error:
        return [str(error)]
    return problems(pieces, specs, family.ignorable)


def test_as_they_are_nothing_is_wrong(known):
    assert answer(*known) == []


@QUICK
@given(data=st.data())
def test_any_config(known, data):
    specs, config = known
    names = data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3))
    answer(specs, config | {name: data.draw(st.one_of(JUNK, st.just(config))) for name in names})


@QUICK
@given(data=st.data())
def test_any_shapes(known, data):
    specs, config = known
    changed = dict(specs)
    for name in data.draw(st.lists(st.sampled_from(sorted(specs)), min_size=1, max_size=4)):
        shape = data.draw(st.one_of(st.none(), st.lists(st.integers(0, 70), max_size=5)))
        if shape is None:
            changed.pop(name, None)
        else:
            changed[name] = TensorSpec(
                tuple(shape), data.draw(st.sampled_from(["float32", "bfloat16", "int8", "bool"]))
            )
    if changed != specs:
        assert answer(changed, config) or len(changed) == len(specs)
        answer(changed, {})


@pytest.mark.parametrize(
    ("config", "begins"),
    [
        ({}, "1 tensors"),
        ({"model_type": "gpt2"}, "a 'gpt2': 1 tensors"),
        ({"_class_name": "UNet"}, "a 'UNet'"),
    ],
)
def test_what_no_family_knows_is_called_as_its_config_does(config, begins):
    with pytest.raises(UserError, match="of no family known here") as error:
        recognise(Stored({"transformer.wte.weight": TensorSpec((2, 3), "float32")}), config)
    assert str(error.value).startswith(begins)
