import pytest
import torch
from torch import nn

from lightning_modules import ConfigError, build_backbone
from lightning_modules.backbones import OWN, split_head
from lightning_modules.networks import MLP, BagNet18, ResNet20, SimpleConv

WIDTHS = {"mlp": 16, "resnet20": 64, "smallresnet": 128, "simpleconv": 128, "bagnet18": 512}


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_every_network_of_our_own_is_tested() -> None:
    assert OWN.keys() == WIDTHS.keys()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("training", [False, True])
def test_gives_scores_whose_last_layer_sees_as_many_features(name: str, training: bool) -> None:
    network = build_backbone(name, 7).train(training).to(memory_format=torch.channels_last)
    image = torch.randn(4, 3, 28, 28)
    scores = network(image)
    assert scores.shape == (4, 7)
    encoder, width = split_head(network, 7)
    assert encoder(image).shape == (4, width)
    assert width == WIDTHS[name]


@pytest.mark.parametrize("name", OWN)
def test_layout_in_memory_does_not_matter(name: str) -> None:
    network = build_backbone(name, 3).eval()
    image = torch.randn(2, 3, 28, 28)
    expected = network(image)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(image.to(memory_format=torch.channels_last)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", OWN)
def test_arguments_that_it_does_not_know_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"backbone_args wide mean nothing to '{name}'"):
        build_backbone(name, 2, wide=3)


# MLP


def test_mlp_has_the_weights_of_its_layers() -> None:
    assert weights(MLP(10)) == (2352 * 100 + 100) + (100 * 100 + 100) + (100 * 16 + 16) + (16 * 10 + 10)
    assert weights(MLP(2, hidden=[5], image_size=4)) == (48 * 5 + 5) + (5 * 2 + 2)


def test_mlp_divides_by_255() -> None:
    divided, plain = MLP(3, [8], 4), MLP(3, [8], 4, divide_by_255=False)
    plain.load_state_dict(divided.state_dict())
    image = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(divided(255 * image), plain(image))


# ResNet-20


def test_resnet20_has_the_weights_of_its_paper() -> None:
    """0.27 million; shortcuts have none, so it is the sum over 19 convolutions with batch norm and the last layer."""
    convolutions = [(3, 16), *[(16, 16)] * 6, (16, 32), *[(32, 32)] * 5, (32, 64), *[(64, 64)] * 5]
    assert len(convolutions) == 19
    assert weights(ResNet20(10)) == sum(9 * a * b + 2 * b for a, b in convolutions) + 650


def test_resnet20_halves_the_side_twice_and_pads_its_shortcuts() -> None:
    blocks = ResNet20(10).eval().blocks
    for name, weight in blocks.named_parameters():
        if "body" in name:
            nn.init.zeros_(weight)
    x = torch.rand(1, 16, 8, 8)
    y = blocks(x)
    assert y.shape == (1, 64, 2, 2)
    # 16 channels stand in the middle of 32, which stand in the middle of 64.
    assert torch.equal(y[:, 24:40], x[:, :, ::4, ::4])
    assert not y[:, :24].any()
    assert not y[:, 40:].any()


# SimpleConv


def test_simpleconv_has_the_weights_of_its_layers() -> None:
    widths = [(3, 16), (16, 32), (32, 64), (64, 128)]
    for kernel_size in (1, 7):
        expected = sum(kernel_size**2 * a * b + b + 2 * b for a, b in widths) + 128 * 10 + 10
        assert weights(SimpleConv(10, kernel_size=kernel_size)) == expected


def test_simpleconv_keeps_the_side() -> None:
    assert SimpleConv(10, channels=[4, 6]).layers(torch.rand(2, 3, 28, 28)).shape == (2, 6, 28, 28)


def test_a_kernel_of_one_pixel_steps_over_pixels_as_a_strided_convolution() -> None:
    model, image = SimpleConv(10, channels=[4], kernel_size=1, stride=4).eval(), torch.rand(2, 3, 30, 28)
    conv = model.layers[0]
    assert isinstance(conv, nn.Conv2d)
    strided = nn.functional.conv2d(image, conv.weight, conv.bias, stride=4)
    expected = model.head(model.layers[1:](strided).mean(dim=(2, 3)))
    torch.testing.assert_close(model(image), expected)


def test_simpleconv_with_kernel_1_sees_no_shapes() -> None:
    image = torch.rand(2, 3, 8, 8)
    mixed = image.flatten(2)[:, :, torch.randperm(64)].view_as(image)
    blind, seeing = SimpleConv(10, kernel_size=1).eval(), SimpleConv(10).eval()
    torch.testing.assert_close(blind(mixed), blind(image))
    assert not torch.allclose(seeing(mixed), seeing(image), atol=1e-4)


# BagNet-18


FIELDS = {(1, 0, 0, 0): 5, (1, 1, 0, 0): 9, (1, 1, 1, 0): 17, (1, 1, 1, 1): 33, (2, 0, 0, 0): 9}


@pytest.mark.parametrize(("kernel3", "field"), FIELDS.items())
def test_bagnet_sees_patches_of_the_stated_side(kernel3: tuple[int, ...], field: int) -> None:
    network = BagNet18(3, kernel3).eval()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    features = network.blocks(network.stem(image))
    features[0, :, 1, 1].sum().backward()
    assert image.grad is not None
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    columns = image.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == field


def test_bagnet_has_the_layers_of_a_resnet18() -> None:
    network = BagNet18(10)
    sides = [layer.kernel_size[0] for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    # Two of the stem, two of each of 8 blocks, and the shortcut of each group's first block.
    assert len(sides) == 2 + 2 * 8 + 4
    assert sum(side == 3 for side in sides) == 2
    assert network.blocks(network.stem(torch.rand(2, 3, 64, 64))).shape[:2] == (2, 512)


def test_shortcuts_of_bagnet_lose_the_last_rows_and_columns() -> None:
    block = BagNet18(4, (2, 0, 0, 0)).eval().blocks[1]
    for weight in block.parameters():
        nn.init.zeros_(weight)
    x = torch.rand(1, 64, 7, 7)
    assert torch.equal(block(x), x[:, :, :-2, :-2])


@pytest.mark.parametrize("side", [28, 29, 30, 31, 32, 33])
def test_bagnet_takes_images_of_every_side(side: int) -> None:
    assert BagNet18(4)(torch.rand(2, 3, side, side + 3)).shape == (2, 4)


def test_bagnet_needs_a_number_for_each_group() -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone_args\.kernel3 must be 4 numbers, but is \[1, 0, 0\]"):
        BagNet18(4, (1, 0, 0))
