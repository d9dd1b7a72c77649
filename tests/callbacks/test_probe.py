from pathlib import Path

import numpy as np
import pytest
import torch

from callbacks.probe import separability, source_auroc
from lightning_modules import Classifier
from tests.datamodules.toy import NAMES, Pictures
from tests.generators import write_synthetic


@pytest.mark.parametrize(("shift", "least", "greatest"), [(0.0, 0.3, 0.65), (1.0, 0.7, 0.95), (9.0, 0.999, 1.0)])
def test_shifted_features_are_told_apart(shift: float, least: float, greatest: float) -> None:
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(80, 5)).astype(np.float32) for _ in range(2))
    second[:, 0] += shift
    value = separability(first, second)
    assert value is not None
    assert least <= value <= greatest


def test_too_few_images_say_nothing() -> None:
    few, many = np.zeros((9, 2), np.float32), np.ones((50, 2), np.float32)
    assert separability(few, many) is None
    assert separability(many, few) is None


def test_a_classifier_tells_noise_from_plain_pictures(tmp_path: Path) -> None:
    """The real pictures of the toy set are noise of many colours, the synthetic ones are drawings."""
    write_synthetic(tmp_path, [0, 1, 2] * 10, NAMES, size=16)
    data = Pictures(with_val=True, test=(20, 20, 20))
    data.synthetic_dir = tmp_path
    data.setup("fit")
    torch.manual_seed(0)
    module = Classifier(num_classes=3, backbone="smallresnet")
    module.configure_model()
    module.train()
    value = source_auroc(module, data, torch.device("cpu"))
    assert module.training
    assert value is not None
    assert value > 0.9
