import pytest
import torch

from lightning_modules import ConfigError, DebiasedModule
from lightning_modules.losses import cross_entropy
from tests.lightning_modules.toy import make_sample


def make_batch() -> dict[str, torch.Tensor]:
    samples = [make_sample(i, 3, 10, True) for i in range(10)]
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def test_synthetic_images_weigh_as_asked() -> None:
    model = DebiasedModule(num_classes=3, backbone="smallresnet", synthetic_weight=0.25).eval()
    batch = make_batch()
    assert batch["synthetic"].tolist() == [True] + [False] * 4 + [True] + [False] * 4
    losses = cross_entropy(model(batch["image"]), batch["label"])
    weight = torch.where(batch["synthetic"], 0.25, 1.0)
    torch.testing.assert_close(model.training_step(batch, 0), (weight * losses).mean())


def test_weight_one_is_plain_cross_entropy() -> None:
    model = DebiasedModule(num_classes=3, backbone="smallresnet").eval()
    batch = make_batch()
    assert model.sample_weights(batch) is None
    expected = cross_entropy(model(batch["image"]), batch["label"]).mean()
    torch.testing.assert_close(model.training_step(batch, 0), expected)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_wrong_weight_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"model\.synthetic_weight"):
        DebiasedModule(synthetic_weight=weight)
