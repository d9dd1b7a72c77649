"""The layers and networks of FastGAN and StyleGAN2."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from lightning_modules.fastgan_networks import FastGANDiscriminator, FastGANGenerator, crop_quarter
from lightning_modules.gan_projection import mean_styles, project, pyramid, pyramid_error, rate_at
from lightning_modules.gan_sampling import draw, load_network, random_inputs, save_network, settle_statistics
from lightning_modules.stylegan2_layers import EqualConv, EqualLinear, ModulatedConv, batch_deviation, blur
from lightning_modules.stylegan2_networks import StyleGAN2Discriminator, StyleGAN2Generator, normalise

STYLE: dict[str, Any] = {"latent": 8, "style": 8, "mapping_layers": 1, "width": 2, "max_channels": 8}


def fast(size: int = 16) -> FastGANGenerator:
    torch.manual_seed(0)
    return FastGANGenerator(size, 3, latent=8, width=2)


def styled(size: int = 16) -> StyleGAN2Generator:
    torch.manual_seed(0)
    return StyleGAN2Generator(size, 3, **STYLE)


@pytest.mark.parametrize("size", [8, 32, 128])
def test_shapes(size: int) -> None:
    image, label = torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 0])
    for generator in (fast(size), styled(size)):
        latent, noise = random_inputs(generator, [torch.Generator().manual_seed(n) for n in range(4)], image.device)
        assert generator(latent, label, noise).shape == image.shape
        assert generator(latent, label).shape == image.shape
    scores, features = FastGANDiscriminator(size, 3, width=2)(image, label)
    assert scores.shape == (4, 2 if size < 64 else 50)
    discriminator = FastGANDiscriminator(size, 3, width=2)
    assert float(discriminator.reconstruction_error(image, discriminator(image, label)[1], 2).detach()) > 0
    assert features[0].shape[-1] == 2 * features[1].shape[-1]
    other = StyleGAN2Discriminator(size, 3, width=2, max_channels=8, patches=True)
    assert other(image, label).shape == (4, 1)
    assert other.score_patches(other.look(image)).shape == (4, 64)


@pytest.mark.parametrize("make", [fast, styled])
def test_every_weight_and_the_class_count(make: Any) -> None:
    generator = make()
    latent, label = torch.randn(6, 8), torch.tensor([0, 1, 2] * 2)
    generator(latent, label).square().sum().backward()
    assert [name for name, own in generator.named_parameters() if own.grad is None or not own.grad.any()] == []
    generator.eval()
    inputs = random_inputs(generator, [torch.Generator().manual_seed(0)] * 1, latent.device)
    first, second = (generator(inputs[0], torch.tensor([label]), inputs[1]) for label in (0, 1))
    assert float((first - second).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("make", [FastGANDiscriminator, StyleGAN2Discriminator])
def test_every_class_has_a_score_of_its_own(make: Any) -> None:
    torch.manual_seed(0)
    discriminator = make(16, 3, width=2).eval()
    image = torch.randn(1, 3, 16, 16).expand(3, -1, -1, -1)
    found = discriminator(image, torch.arange(3))
    scores = found if isinstance(found, torch.Tensor) else found[0]
    assert len({round(own, 5) for own in scores[:, 0].tolist()}) == 3


def test_modulation_is_scaling_the_weights_image_by_image() -> None:
    torch.manual_seed(0)
    layer, features, style = ModulatedConv(4, 6, 3, style=5), torch.randn(2, 4, 8, 8), torch.randn(2, 5)
    scales = layer.to_scale(style)
    for number in range(2):
        weight = layer.weight * layer.scale * scales[number][None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = F.conv2d(features[number : number + 1], weight, padding=1)
        torch.testing.assert_close(layer(features, style)[number : number + 1], expected, rtol=1e-4, atol=1e-5)


def test_equalised_layers_keep_the_variance() -> None:
    torch.manual_seed(0)
    rows = EqualLinear(400, 300, rate=0.01)(torch.randn(200, 400))
    assert float(rows.detach().std()) == pytest.approx(1, abs=0.05)
    image = EqualConv(64, 64, 3, active=False)(torch.randn(4, 64, 16, 16))[:, :, 2:-2, 2:-2]
    assert float(image.detach().std()) == pytest.approx(1, abs=0.05)
    assert EqualLinear(4, 2, bias=1.0, rate=0.5)(torch.zeros(1, 4)).tolist() == [[1.0, 1.0]]


def test_blurring_keeps_what_is_even() -> None:
    torch.testing.assert_close(blur(torch.full((1, 2, 5, 5), 3.0)), torch.full((1, 2, 5, 5), 3.0))
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 16
    assert blur(dot)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_the_deviation_of_a_batch() -> None:
    features = torch.zeros(4, 2, 3, 3)
    features[0] = 4
    channel = batch_deviation(features)[:, 2]
    # 4, 0, 0, 0 has the variance 3
    torch.testing.assert_close(channel, torch.full((4, 3, 3), math.sqrt(3)))
    assert float(batch_deviation(torch.ones(3, 2, 3, 3))[:, 2].max()) < 1e-3


def test_quarters_make_the_whole() -> None:
    image = torch.randn(1, 2, 6, 6)
    top, bottom = (torch.cat([crop_quarter(image, number + side) for side in (0, 1)], dim=3) for number in (0, 2))
    assert torch.equal(torch.cat((top, bottom), dim=2), image)


def test_normalised_latents_have_the_mean_square_one() -> None:
    torch.testing.assert_close(normalise(torch.randn(3, 7)).square().mean(dim=1), torch.ones(3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [fast, styled])
def test_a_saved_generator_draws_the_same_and_each_image_by_itself(make: Any, tmp_path: Any) -> None:
    network = make()
    settle_statistics(network, batches=2, batch_size=8)
    save_network(network, tmp_path)
    again = load_network(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    labels = torch.tensor([0, 1, 2, 1])
    together = draw(network, labels, [torch.Generator().manual_seed(seed) for seed in (5, 6, 7, 6)])
    for number, seed in enumerate((5, 6, 7)):
        (alone,) = draw(again, labels[number : number + 1], [torch.Generator().manual_seed(seed)])
        torch.testing.assert_close(alone, together[number], rtol=1e-4, atol=1e-4)
    assert torch.allclose(together[1], together[3], atol=1e-5)
    assert float((together[0] - together[1]).abs().max()) > 0.01
    (tmp_path / "config.json").write_text('{"network": "Other"}')
    with pytest.raises(ValueError, match="no generator of a GAN"):
        load_network(tmp_path)


def test_settled_statistics_are_those_of_the_networks_own_images() -> None:
    network = fast()
    for _ in range(3):  # statistics of other weights
        network(torch.randn(8, 8) * 10, torch.zeros(8).long())
    settle_statistics(network, batches=8, batch_size=32)
    assert not network.training
    generators = [torch.Generator().manual_seed(number) for number in range(64)]
    latents, noise = random_inputs(network, generators, torch.device("cpu"))
    labels = torch.arange(64) % 3
    settled = network(latents, labels, noise)
    of_batch = network.train()(latents, labels, noise)
    assert float((settled - of_batch).detach().abs().mean()) < 0.1 * float(of_batch.detach().std())


def test_the_rate_of_the_search_rises_and_falls() -> None:
    assert rate_at(0.025) == pytest.approx(0.5)
    assert rate_at(0.5) == 1.0
    assert rate_at(0.875) == pytest.approx(0.5)
    assert 0 < rate_at(0.0) < 0.05


def test_pyramids() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    levels = pyramid(image)
    assert [level.shape[-1] for level in levels] == [8, 4]
    assert float(levels[1][0, 0, 0, 0]) == (0 + 1 + 8 + 9) / 4
    assert pyramid_error(levels, [level + 1 for level in levels]).tolist() == [2.0]


def test_projection_finds_the_style_that_was_drawn_from() -> None:
    torch.manual_seed(0)
    network = styled().requires_grad_(False).eval()
    label = torch.tensor([0, 1, 2])
    generators = [torch.Generator().manual_seed(number) for number in range(3)]
    latents, noise = random_inputs(network, generators, label.device)
    image = network.synthesise(network.spread_style(network.styles(latents, label)), noise)[0]
    start = mean_styles(network)[label]
    before = pyramid_error(pyramid(network.synthesise(network.spread_style(start), noise)[0]), pyramid(image))
    found = project(network, image, start, noise, steps=150)
    after = pyramid_error(pyramid(network.synthesise(network.spread_style(found), noise)[0]), pyramid(image))
    assert bool((after < 0.2 * before).all())
    # each image is looked for by itself
    alone = project(network, image[1:2], start[1:2], [own[1:2] for own in noise], steps=150)
    torch.testing.assert_close(alone, found[1:2], rtol=1e-2, atol=1e-2)
