"""The Fréchet distance between two sets of features, taken as Gaussians (Heusel et al. 2017); of a
tokenizer's frames it is the rFID.

originals, again = Gaussian(2048), Gaussian(2048); originals.add(features), batch by batch;
frechet_distance(originals, again)
"""

import numpy as np

from ringvision.errors import UserError


class Gaussian:
    """Mean and covariance of features that come in parts, in float64 by the pairwise update of Chan et al.
    1979; no sum of squares is ever subtracted from another. Memory: one matrix [D, D].
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))  # the sum of (x - mean)(x - mean)^T

    def add(self, features: np.ndarray) -> None:
        """features [n, D], any float."""
        wide = np.asarray(features, np.float64)
        mean = wide.mean(0)
        self._merge(len(wide), mean, (wide - mean).T @ (wide - mean))

    def include(self, other: "Gaussian") -> None:
        """As if what `other` was given had been given here."""
        self._merge(other.count, other.mean, other.scatter)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        both = self.count + count
        if not count:
            return
        apart = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(apart, apart * (self.count * count / both))
        self.mean += apart * (count / both)
        self.count = both

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], unbiased. UserError for fewer than two features."""
        if self.count < 2:
            raise UserError(
                f"rFID of {self.count} frames is not defined; give videos of at least 2 frames in "
                "all, or a higher --fps"
            )
        return self.scatter / (self.count - 1)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), at least 0.

    C1 C2 is not symmetric, and its root by a general algorithm fails where the covariances are singular
    (fewer frames than features). It has the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric and
    positive: two symmetric eigendecompositions give the trace.
    """
    first = one.covariance
    second = other.covariance
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = root @ second @ root
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    apart = one.mean - other.mean
    return max(0.0, float(apart @ apart + np.trace(first) + np.trace(second) - 2 * overlap))
