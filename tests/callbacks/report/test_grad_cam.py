import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from callbacks.report.grad_cam import find_layer, grad_cam, overlay
from callbacks.report.missing import NothingToShowError
from lightning_modules.networks import MLP, SmallResNet


class TwoMaps(nn.Module):
    """Map 0 is the red channel, map 1 the green one; class c scores the weighted means of both."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 1, bias=False)
        self.maps.weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[:, :, None, None]
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.tensor(weights)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.maps(image).mean(dim=(2, 3)))
        return scores


def test_by_hand() -> None:
    """Class 1 weighs red 2 and green -1; the gradient of a mean is 1 / 4, so the map is ReLU(2 R - G) / 4."""
    red, green = torch.tensor([[1.0, 0.0], [0.5, 3.0]]), torch.tensor([[0.0, 1.0], [0.5, 1.0]])
    image = torch.stack([red, green, torch.zeros(2, 2)])[None]
    network = TwoMaps([[0.0, 0.0], [2.0, -1.0]]).eval().requires_grad_(False)
    maps, predicted = grad_cam(network, image)
    assert predicted.tolist() == [1]
    expected = torch.relu(2 * red - green) / 4
    assert maps[0] == pytest.approx((expected / expected.max()).numpy())


def test_nothing_that_speaks_for_the_class_is_0_throughout() -> None:
    image = torch.stack([torch.ones(2, 2), torch.zeros(2, 2), torch.zeros(2, 2)])[None]
    maps, predicted = grad_cam(TwoMaps([[-1.0, 0.0], [-2.0, 0.0]]).eval(), image)
    assert predicted.tolist() == [0]
    assert maps.tolist() == [[[0, 0], [0, 0]]]


def test_the_last_block_of_residual_networks() -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 32, 32)
    resnet = torchvision.models.resnet18(num_classes=4).eval()
    assert find_layer(resnet, torch.zeros(1, 3, 64, 64)) is resnet.layer4
    small = SmallResNet(4).eval()
    assert find_layer(small, image) is small.blocks
    maps, _ = grad_cam(small, torch.rand(3, 3, 32, 32))
    assert maps.shape == (3, 32, 32)
    assert maps.min() >= 0
    assert maps.max() == 1


class WithHelper(nn.Module):
    """A second network takes part in the scores, but nothing is learnt through it, as in DisEnt."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.helper = SmallResNet(4), SmallResNet(4)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.network(image) + self.helper(image).detach()
        return scores


def test_a_part_that_nothing_is_learnt_through_is_passed_over() -> None:
    torch.manual_seed(0)
    module = WithHelper().eval().requires_grad_(False)
    assert find_layer(module, torch.zeros(1, 3, 32, 32)) is module.network.blocks
    assert grad_cam(module, torch.rand(1, 3, 32, 32))[0].max() == 1


@pytest.mark.parametrize(
    ("network", "side", "why"),
    [(MLP(2, image_size=8), 8, "keep the places"), (torchvision.models.vit_b_32(), 224, "transformer")],
)
def test_networks_without_a_map(network: nn.Module, side: int, why: str) -> None:
    with pytest.raises(NothingToShowError, match=why):
        find_layer(network.eval(), torch.zeros(1, 3, side, side))


def test_half_of_each_is_visible() -> None:
    image, heat = np.full((2, 2, 3), 200, np.uint8), np.array([[0, 1], [0, 1]], np.float32)
    shown = overlay(image, heat)
    assert shown.dtype == np.uint8
    blue, red = shown[0, 0].astype(int), shown[0, 1].astype(int)
    assert blue.min() >= 100 and red.min() >= 100  # noqa: PT018 - half of 200 everywhere
    assert red[0] > red[2] and blue[2] > red[2]  # noqa: PT018
