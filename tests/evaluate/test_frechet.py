import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.evaluate.frechet import Gaussian, frechet_distance


def of(features):
    gaussian = Gaussian(features.shape[1])
    gaussian.add(features)
    return gaussian


def known(mean, covariance):
    """A Gaussian of just this mean and covariance."""
    gaussian = Gaussian(len(mean))
    gaussian.count = 2
    gaussian.mean = np.asarray(mean, float)
    gaussian.scatter = np.asarray(covariance, float)
    return gaussian


def test_parts_give_what_the_whole_gives():
    features = np.random.default_rng(0).normal(1e4, 1, (50, 5))  # far from 0: sums of squares would lose this
    parts = Gaussian(5)
    first = Gaussian(5)
    second = Gaussian(5)
    for start in range(0, 30, 7):
        first.add(features[start : min(start + 7, 30)])
    second.add(features[30:])
    for part in (first, second, Gaussian(5)):
        parts.include(part)
    assert parts.count == 50
    np.testing.assert_allclose(parts.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(parts.covariance, np.cov(features.T), rtol=1e-9, atol=1e-9)


def test_the_closed_form_for_gaussians_that_commute():
    """Same eigenvectors, deviations s and t: |m1 - m2|^2 + sum of (s - t)^2."""
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    s = np.array([1.0, 2, 3, 0.5, 0.1, 7])
    t = np.array([2.0, 2, 1, 0.1, 3, 7])
    one = known(np.zeros(6), rotation * s**2 @ rotation.T)
    other = known(np.arange(6), rotation * t**2 @ rotation.T)
    assert frechet_distance(one, other) == pytest.approx(55 + ((s - t) ** 2).sum(), rel=1e-10)


def test_the_closed_form_in_two_dimensions():
    """tr (C1 C2)^(1/2) of 2x2 matrices is sqrt(tr(C1 C2) + 2 sqrt(det(C1 C2))), whether or not they
    commute.
    """
    c1 = np.array([[2.0, 0.5], [0.5, 1.0]])
    c2 = np.array([[1.0, -0.8], [-0.8, 3.0]])
    product = c1 @ c2
    expected = 5 + 3 + 4 - 2 * np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    assert not np.allclose(product, product.T)
    assert frechet_distance(known([0, 0], c1), known([1, 2], c2)) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(known([1, 2], c2), known([0, 0], c1)) == pytest.approx(expected, rel=1e-12)


def test_fewer_frames_than_features_do_not_break_it():
    features = np.random.default_rng(2).normal(size=(10, 40))
    assert frechet_distance(of(features), of(features)) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(of(features), of(features + 0.5)) == pytest.approx(40 * 0.25, rel=1e-5)
    assert frechet_distance(of(features), of(2 * features)) == pytest.approx(
        np.trace(np.cov(features.T)) + (features.mean(0) ** 2).sum(), rel=1e-5
    )


def test_one_frame_has_no_spread():
    with pytest.raises(UserError, match="at least 2 frames"):
        frechet_distance(of(np.zeros((1, 3))), of(np.zeros((4, 3))))
