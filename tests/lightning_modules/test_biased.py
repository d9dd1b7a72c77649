import pytest
import torch

from lightning_modules import BiasedModule, ConfigError, generalized_cross_entropy


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_is_the_generalised_one(weighted: bool) -> None:
    model = BiasedModule(num_classes=3, backbone="smallresnet", q=0.4, weighted_gce=weighted)
    logits = torch.randn(5, 3)
    label = torch.tensor([0, 1, 2, 0, 1])
    expected = generalized_cross_entropy(logits, label, 0.4, weighted)
    assert torch.equal(model.per_sample_loss(logits, label), expected)


def test_default_is_the_papers_q() -> None:
    assert BiasedModule().hparams["q"] == 0.7


def test_q_outside_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="q "):
        BiasedModule(q=1.2)
