from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from lightning_modules.class_sampling import draw_classes

SIZE = 8
LIBRARY: Any = diffusers


class Constant(nn.Module):
    """Predicts the same noise everywhere: 0.5 for class 0, 0.3 for class 1, 0.2 for none."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=SIZE, in_channels=3, num_class_embeds=3)
        self.noise = nn.Parameter(torch.tensor([0.5, 0.3, 0.2]))
        self.calls: list[int] = []

    def forward(self, image: Tensor, time: Tensor, classes: Tensor) -> Any:
        self.calls.append(len(image))
        return SimpleNamespace(sample=self.noise[classes][:, None, None, None].expand_as(image))


def seeded(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + number) for number in range(count)]


def make_unet() -> Any:
    torch.manual_seed(0)
    return LIBRARY.UNet2DModel(
        sample_size=SIZE, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, num_class_embeds=3,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(("weight", "noise"), [(0.0, (0.5, 0.3)), (1.0, (0.8, 0.4)), (3.0, (1.4, 0.6))])
def test_guidance_is_that_of_the_paper(weight: float, noise: tuple[float, float]) -> None:
    """One DDIM step to the end gives (x - sqrt(1 - a) e) / sqrt(a) with e = (1 + w) e_class - w e_none."""
    unet = Constant()
    scheduler = LIBRARY.DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    images = draw_classes(unet, scheduler, torch.tensor([0, 1]), seeded(2), 1, weight)
    scheduler.set_timesteps(1)
    alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[0])]
    start = torch.stack([torch.randn(3, SIZE, SIZE, generator=own) for own in seeded(2)])
    clean = (start - (1 - alpha).sqrt() * torch.tensor(noise)[:, None, None, None]) / alpha.sqrt()
    torch.testing.assert_close(images, (clean / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-5)
    assert unet.calls == [2 if weight == 0 else 4]


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"])
def test_an_image_belongs_to_its_generator_not_to_the_batch(name: str) -> None:
    unet, labels, make = make_unet(), torch.tensor([0, 1, 1]), getattr(LIBRARY, name)
    together = draw_classes(unet, make(), labels, seeded(3), 3, 1.0)
    assert together.shape == (3, 3, SIZE, SIZE)
    assert float(together.min()) >= 0
    assert float(together.max()) <= 1
    assert float(together.std()) > 0.05
    for number in range(3):
        alone = draw_classes(unet, make(), labels[number : number + 1], seeded(1, number), 3, 1.0)
        torch.testing.assert_close(alone[0], together[number], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[1], together[2], atol=0.05)


def test_values_that_are_no_numbers_are_not_hidden() -> None:
    unet = Constant()
    with torch.no_grad():
        unet.noise[0] = float("nan")
    images = draw_classes(unet, LIBRARY.DDIMScheduler(), torch.tensor([0, 1]), seeded(2), 2, 0.0)
    assert bool(images[0].isnan().all())
    assert bool(images[1].isfinite().all())


class Dark(nn.Module):
    """Knows that a class is nearly black and that all pictures together are dark, and predicts v without any error.

    The values of a pixel are normal: mean -1 and variance 0.01 for a class, -0.5 and 0.25 for all.
    """

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=SIZE, in_channels=3, num_class_embeds=3)
        self.unused = nn.Parameter(torch.zeros(()))  # tells in which precision the model is
        self.kept = scheduler.alphas_cumprod

    def forward(self, image: Tensor, time: Tensor, classes: Tensor) -> Any:
        kept, lost = self.kept[time].sqrt(), (1 - self.kept[time]).sqrt()
        mean = torch.tensor([-1.0, -1.0, -0.5])[classes][:, None, None, None]
        variance = torch.tensor([0.01, 0.01, 0.25])[classes][:, None, None, None]
        trusted = variance * kept / (variance * kept**2 + lost**2)
        picture = mean + trusted * (image - kept * mean)
        return SimpleNamespace(sample=(kept * image - picture) / lost)


@pytest.mark.parametrize("steps", [10, 50, 200])
def test_a_dark_ground_stays_dark_under_guidance(steps: int) -> None:
    scheduler = LIBRARY.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
    )
    images = draw_classes(Dark(scheduler), scheduler, torch.tensor([0, 1]), seeded(2), steps, 1.0)
    assert float(images.mean()) < 0.02
