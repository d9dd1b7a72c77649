"""Are generated images copies? Their nearest real images, beside how near real images are to one another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors


@dataclass(frozen=True)
class Neighbours:
    """The nearest real image of each generated one.

    Attributes:
        index: Position of the nearest real image, int64 [M].
        distance: Euclidean distance to it, float64 [M].
        scale: Distance of each real image to the nearest other real image, float64 [N].
    """

    index: NDArray[np.int64]
    distance: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def percentile(self) -> NDArray[np.float64]:
        """Share of the real images that have a nearer real neighbour, 0..1 [M]; near 0 is suspicious."""
        return np.searchsorted(np.sort(self.scale), self.distance, side="left") / len(self.scale)

    @property
    def unit(self) -> float:
        """Median distance between real neighbours; 1 where it is 0, as more than half of the images have a twin."""
        return float(np.median(self.scale)) or 1.0

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Distance in units of the median distance between real neighbours, float64 [M]."""
        return self.distance / self.unit


def find_neighbours(generated: NDArray[np.float32], real: NDArray[np.float32]) -> Neighbours:
    """Find the nearest real image of each generated one.

    Args:
        generated: Features [M, D].
        real: Features [N, D] of at least two images.
    """
    index = NearestNeighbors(algorithm="brute").fit(real.astype(np.float64))
    distance, nearest = index.kneighbors(generated.astype(np.float64), n_neighbors=1)
    scale, _ = index.kneighbors(n_neighbors=1)  # without points, none is its own neighbour
    return Neighbours(nearest[:, 0], distance[:, 0], scale[:, 0])
