"""The Fréchet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017). For the
frames of a video and their reconstructions it is called rFID.

    originals = Gaussian(2048)
    reconstructions = Gaussian(2048)
    originals.add(features)          # batch by batch, likewise the reconstructions
    frechet_distance(originals, reconstructions)
"""

import numpy as np

from ringvision.errors import UserError


class Gaussian:
    """Mean and covariance of features that come in parts, by the pairwise update of Chan et al. 1979 in
    float64. Sums of squares are never subtracted from each other, which would lose digits. Memory: one matrix
    [D, D].

    width: D, the number of features. mean: float64 [D]. scatter: float64 [D, D], the sum of
    (x - mean)(x - mean)^T.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))

    def add(self, features: np.ndarray) -> None:
        """features float [n, D], of any precision."""
        wide = np.asarray(features, np.float64)
        mean = wide.mean(0)  # (D,)
        self._merge(len(wide), mean, (wide - mean).T @ (wide - mean))

    def include(self, other: "Gaussian") -> None:
        """Adds all that was added to `other`."""
        self._merge(other.count, other.mean, other.scatter)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        both = self.count + count
        if not count:
            return
        apart = mean - self.mean  # (D,)
        self.scatter += scatter
        self.scatter += np.outer(apart, apart * (self.count * count / both))
        self.mean += apart * (count / both)
        self.count = both

    @property
    def covariance(self) -> np.ndarray:
        """float64 [D, D], unbiased. UserError for features of fewer than two frames."""
        if self.count < 2:
            raise UserError(
                f"rFID of {self.count} frames is not defined; give videos of at least 2 frames in "
                "all, or a higher --fps"
            )
        return self.scatter / (self.count - 1)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), at least 0.

    C1 C2 is not symmetric, and a general matrix root such as scipy.linalg.sqrtm fails where the covariances
    are singular (fewer frames than features). But C1 C2 has the eigenvalues of C1^(1/2) C2 C1^(1/2), which is
    symmetric and positive semi-definite, so two symmetric eigendecompositions give the trace.
    """
    first = one.covariance
    second = other.covariance
    values, vectors = np.linalg.eigh(first)  # (D,), (D, D)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # (D, D); rounding makes some values < 0
    inner = root @ second @ root  # (D, D)
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    apart = one.mean - other.mean
    return max(0.0, float(apart @ apart + np.trace(first) + np.trace(second) - 2 * overlap))
