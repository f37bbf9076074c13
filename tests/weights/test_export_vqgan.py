"""Video tokenizers exported: what comes back is the same bit for bit, and is what LWM and diffusers wrote
themselves.
"""

import json
import pickle

import jax
import numpy as np
import pytest
from continuation import FIXTURES
from flax import nnx, traverse_util
from random_weights import random_weights
from safetensors.numpy import load_file

from ringvision.errors import UserError
from ringvision.model_folder import save_model
from ringvision.models.vqgan import VQGAN, VQGANConfig
from ringvision.weights.exporting import export_weights
from ringvision.weights.importing import import_weights

LWM, PICKLES, FLAX, AMUSED, ATTENDING = (
    FIXTURES / name
    for name in ("lwm_vqgan", "lwm_vqgan_pickles", "vqgan_jax", "amused_vq", "diffusers_attention")
)
THERE_AND_BACK = [
    (LWM / "vqgan_numpy.pkl", "lwm"),
    (PICKLES / "vqgan_dict_jaxarray.pkl", "lwm"),
    (LWM / "vqgan_numpy.pkl", "hf"),
    (FLAX / "flax_model.msgpack", "hf"),
    (AMUSED, "hf"),
    (ATTENDING, "hf"),
]


def described(folder) -> dict:
    return {
        name: value
        for name, value in json.loads((folder / "config.json").read_text()).items()
        if name not in ("name", "source")
    }


@pytest.mark.parametrize(
    ("source", "format"), THERE_AND_BACK, ids=lambda value: getattr(value, "name", value)
)
def test_exported_and_imported_again_it_is_the_same(tmp_path, source, format):
    import_weights(source, tmp_path / "ours")
    written = export_weights(tmp_path / "ours", tmp_path / "theirs", format)
    import_weights(tmp_path / "theirs", tmp_path / "again")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert one.keys() == other.keys() and written["tensors"] == len(one)
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])
    assert described(tmp_path / "ours") == described(tmp_path / "again")


def test_it_is_the_pickle_that_lwm_opens(tmp_path):
    import_weights(LWM / "vqgan_numpy.pkl", tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs", "lwm")
    there, here = (
        traverse_util.flatten_dict(pickle.loads(file.read_bytes()))
        for file in (LWM / "vqgan_numpy.pkl", tmp_path / "theirs/vqgan.pkl")
    )
    assert there.keys() == here.keys()
    for name, array in there.items():
        assert type(here[name]) is np.ndarray and here[name].dtype == array.dtype
        np.testing.assert_array_equal(here[name], array)
    asked = json.loads((LWM / "config.json").read_text())
    assert described(tmp_path / "theirs").items() <= asked.items()


@pytest.mark.parametrize("source", [AMUSED, ATTENDING], ids=lambda source: source.name)
def test_it_is_the_file_that_diffusers_wrote(tmp_path, source):
    import_weights(source, tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs", "hf")
    there, here = (
        load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (source, tmp_path / "theirs")
    )
    assert there.keys() == here.keys()
    for name, array in there.items():
        np.testing.assert_array_equal(here[name], array)
    asked, given = (
        json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "theirs")
    )
    missed = {name for name, value in asked.items() if given.get(name) != value}
    assert (
        missed <= {"_diffusers_version", "force_upcast", "scaling_factor", "vq_embed_dim", "norm_type"}
        and given["norm_type"] == "group"
    )


def test_halves(tmp_path):
    import_weights(PICKLES / "vqgan_frozendict_numpy.pkl", tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs", "lwm", dtype="bfloat16")
    tree = pickle.loads((tmp_path / "theirs/vqgan.pkl").read_bytes())
    assert {leaf.dtype.name for leaf in jax.tree.leaves(tree)} == {"bfloat16"}


@pytest.mark.parametrize(
    ("format", "changes", "word"),
    [
        ("lwm", {"mid_attention": True}, r"mid_attention=True \(only False\), which LWM's VQGAN"),
        ("lwm", {"pixel_range": (0, 1), "clip": False}, r"pixel_range=\(0.0, 1.0\) .*clip=False"),
        ("lwm", {"patch_size": 2}, "patch_size=2"),
        ("hf", {"patch_size": 2}, "patch_size=2 .* diffusers"),
        ("hf", {"entry_channels": 64}, "entry_channels=64"),
    ],
)
def test_a_network_that_the_other_program_does_not_have(tmp_path, format, changes, word):
    options = {
        "resolution": 16,
        "channels": 32,
        "channel_mults": (1, 2),
        "z_channels": 8,
        "embed_dim": 8,
        "codebook_size": 16,
    } | changes
    config = VQGANConfig(**options)
    params = random_weights(lambda: VQGAN(config, rngs=nnx.Rngs(0)), 0.02)
    ours = save_model(tmp_path / "ours", {"kind": "vqgan", "size": 16, "vqgan": config.to_dict()}, params)
    with pytest.raises(UserError, match=word):
        export_weights(ours, tmp_path / "theirs", format)
    assert not (tmp_path / "theirs").exists()
