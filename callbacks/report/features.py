"""What the last layer of a classifier sees, and how it lies in the plane."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch.utilities import move_data_to_device
from numpy.typing import NDArray

from callbacks.report.missing import NothingToShowError
from callbacks.report.settings import Projection
from datamodules.dataset import Batch
from lightning_modules import Classifier

TITLES: dict[Projection, str] = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}


@dataclass(frozen=True)
class Described:
    """Some images as numbers.

    Attributes:
        features: float32 [N, D].
        label: Class, int64 [N].
        bias: Bias attribute, int64 [N], -1 where unknown.
    """

    features: NDArray[np.float32]
    label: NDArray[np.int64]
    bias: NDArray[np.int64]


def describe(module: Classifier | None, loader: Iterable[Batch], device: torch.device) -> Described:
    """Compute the features of some images.

    Args:
        module: A classifier in evaluation mode on the device; None takes the pixels, averaged to 16 x 16.
        loader: Batches of them.
        device: Where to compute.
    """
    features, label, bias = [], [], []
    with torch.inference_mode():
        for batch in loader:
            image = move_data_to_device(batch["image"], device)
            pixels = torch.nn.functional.adaptive_avg_pool2d(image, 16)
            features.append((pixels if module is None else module.features(image)).flatten(1).float().cpu())
            label.append(batch["label"])
            bias.append(batch["bias"])
    return Described(torch.cat(features).numpy(), torch.cat(label).numpy(), torch.cat(bias).numpy())


def project(features: NDArray[np.float32], how: Projection) -> NDArray[np.float32]:
    """Lay features [N, D] out in the plane [N, 2]; the same features always give the same picture.

    Raises:
        NothingToShowError: UMAP is not installed.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(features)
    reduced = PCA(min(50, *scaled.shape), random_state=0).fit_transform(scaled)
    if how == "pca":
        return np.asarray(reduced[:, :2], dtype=np.float32)
    if how == "tsne":
        perplexity = min(30.0, (len(reduced) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=0)
        return np.asarray(tsne.fit_transform(reduced), dtype=np.float32)
    try:
        from umap import UMAP
    except ImportError as error:
        raise NothingToShowError('UMAP is not installed: pip install -e ".[umap]".') from error
    umap = UMAP(n_neighbors=min(15, len(reduced) - 1), random_state=0, n_jobs=1)
    threads = torch.get_num_threads()
    try:
        return np.asarray(umap.fit_transform(reduced), dtype=np.float32)
    finally:
        torch.set_num_threads(threads)  # numba has set OpenMP's, which are torch's too, to all cores
