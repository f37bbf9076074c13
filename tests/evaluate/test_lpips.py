import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringvision.errors import UserError
from ringvision.evaluate.lpips import Lpips, wanted

from .random_networks import EXPECTED, pictures, write_weights


def test_distances_are_those_of_another_implementation(tmp_path, lpips_weights):
    frames, others = pictures()
    own_names = write_weights(tmp_path / "lpips.safetensors", wanted(), 1)
    for name, path in enumerate((lpips_weights, own_names)):
        distances = Lpips(path)(frames, others)
        np.testing.assert_allclose(distances, EXPECTED["lpips"], rtol=1e-4)
        assert ("net.slice5.28.bias" in load_file(path)) == (name == 1)
    assert abs(np.diff(EXPECTED["lpips"])[0]) > 1e-3 * EXPECTED["lpips"][0]


def test_equal_pictures_are_at_no_distance(lpips_weights):
    frames, others = pictures()
    network = Lpips(lpips_weights)
    assert (network(frames, frames) == 0).all()
    five = np.concatenate([frames, frames, frames[:1]])  # more than one batch, the last not full
    again = np.concatenate([others, frames, others[:1]])
    distances = network(five, again)
    assert distances.shape == (5,)
    np.testing.assert_allclose(distances[[0, 1, 4]], EXPECTED["lpips"][[0, 1, 0]], rtol=1e-4)
    assert (distances[2:4] == 0).all()


def test_a_head_of_another_network_is_refused(tmp_path, lpips_weights):
    path = tmp_path / "lpips.safetensors"
    tensors = load_file(lpips_weights) | {"lin1.model.1.weight": np.zeros((1, 192, 1, 1), np.float32)}
    del tensors["features.28.bias"]
    save_file(tensors, str(path))
    with pytest.raises(
        UserError,
        match=r"features.28.bias is missing; lin1.model.1.weight has shape \[1, 192, 1, 1\], "
        r"expected \[1, 128, 1, 1\]",
    ):
        Lpips(path)
