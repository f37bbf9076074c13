import numpy as np
import pytest
from safetensors.numpy import save_file

from ringvision.errors import UserError
from ringvision.evaluate import inception
from ringvision.evaluate.inception import Inception, average_pool, enlarge, wanted

from .random_networks import EXPECTED, pictures, write_weights


def test_features_are_those_of_another_implementation(tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "BATCH", 3)  # two pictures and one of padding
    frames, _ = pictures()
    features = Inception(write_weights(tmp_path / "inception.safetensors", wanted()))(frames)
    assert features.shape == (2, 2048)
    expected = EXPECTED["inception"]
    tolerance = 1e-4 * expected.mean()
    assert np.abs(expected[0] - expected[1]).mean() > 100 * tolerance  # the two pictures do differ
    assert np.abs(features[:, ::4] - expected).max() < 10 * tolerance
    assert np.abs(features[:, ::4] - expected).mean() < tolerance


def test_pictures_are_enlarged_as_tensorflow_1_did():
    row = np.array([0, 100, 200, 40], np.uint8)
    frames = np.broadcast_to(row[None, :, None, None], (1, 4, 5, 3))
    rows = np.asarray(enlarge(frames))[0, :, 7, 1] * 128 + 128
    expected = np.interp(np.arange(299) * 4 / 299, np.arange(4), row)  # held at the last pixel beyond it
    np.testing.assert_allclose(rows, expected, atol=1e-3)
    np.testing.assert_allclose(
        np.asarray(enlarge(frames.swapaxes(1, 2)))[0, 7, :, 1] * 128 + 128, expected, atol=1e-3
    )


def test_the_average_at_an_edge_is_of_what_is_there():
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    pooled = np.asarray(average_pool(x))[0, :, :, 0]
    assert pooled[0, 0] == x[0, :2, :2].mean()
    assert pooled[1, 3] == x[0, :, 2:].mean()
    assert pooled[1, 1] == x[0, :, :3].mean()


def test_weights_that_do_not_fit_are_all_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 5, 5), np.float32)}, str(path))
    with pytest.raises(UserError) as error:
        Inception(path)
    assert "Conv2d_1a_3x3.bn.weight is missing" in str(error.value)
    assert "and 466 more" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(wanted()) == 94 * 5


def test_pickles_are_not_read(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"\x80\x02cos\nsystem\n")
    with pytest.raises(UserError, match="pickles such as .pth are not read.*save_file"):
        Inception(path)
    with pytest.raises(UserError, match="is not a file"):
        Inception(tmp_path / "none.safetensors")
