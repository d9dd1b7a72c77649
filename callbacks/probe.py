"""Whether real and synthetic images can be told apart by what a classifier sees in them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.synthesis.distributed import on_rank_zero
from datamodules import DebiasDataModule
from datamodules.dataset import Batch
from lightning_modules import Classifier
from lightning_modules.scoring import evaluated

COUNT = 100
FOLDS = 5


class _Features(nn.Module):
    def __init__(self, module: Classifier) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        return self.module.features(image)


def source_auroc(module: Classifier, data: DebiasDataModule, device: torch.device) -> float | None:
    """How well a linear probe tells synthetic from real images by the features of a classifier. Collective.

    From Fake to Real (arXiv 2308.04553) warns that a model trained on both may take the source of an image for a
    shortcut. The probe is a logistic regression on standardised features of at most 100 real validation images and as
    many synthetic images of every group, evaluated by cross-validation. Where the prompts name no bias attribute, a
    group is a class; the sources then differ in their bias too, and the value says how well both can be told.

    Args:
        module: The fitted classifier.
        data: The data module, with a finished set of synthetic images.
        device: Where to compute.

    Returns:
        Area under the ROC curve in [0, 1]: 0.5 if they cannot be told apart, 1 if always. None where there are too few
        images.
    """

    def probe() -> float | None:
        module.to(device)
        real, synthetic = (_features(module, loader, device) for loader in data.probe_dataloaders(COUNT))
        return separability(real, synthetic)

    return on_rank_zero(probe)


def separability(first: NDArray[np.float32], second: NDArray[np.float32]) -> float | None:
    """Area under the ROC curve of a linear probe between features [N, D] and [M, D]; None for fewer than 10 of one."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(first), len(second)) < 2 * FOLDS:
        return None
    features = np.concatenate((first, second))
    source = np.repeat((0, 1), (len(first), len(second)))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    score = cross_val_predict(probe, features, source, cv=folds, method="decision_function")
    return float(roc_auc_score(source, score))


def _features(module: Classifier, loader: DataLoader[Batch], device: torch.device) -> NDArray[np.float32]:
    features = _Features(module).train(module.training)  # which is restored afterwards
    values, _ = evaluated(features, loader, device, lambda found, _: found)
    return values.flatten(1).numpy()
