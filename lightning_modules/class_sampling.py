"""Images of a class out of a class-conditional diffusion model."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.inference_mode()
def draw_classes(
    unet: Any,
    scheduler: Any,
    labels: Tensor,
    generators: Sequence[torch.Generator],
    steps: int,
    weight: float,
) -> Tensor:
    """Draw one image a label, each from its own random numbers.

    With guidance, both predictions come from one pass over twice the batch.

    Args:
        unet: a diffusers ``UNet2DModel`` with one class embedding more than classes, the last for "no class".
        scheduler: any scheduler of diffusers; its state is set anew.
        labels: classes, int64 [B], on the device of the model.
        generators: random numbers of each image, on the CPU.
        steps: denoising steps.
        weight: the w of ``(1 + w) eps(x, y) - w eps(x)`` (Ho & Salimans, arXiv 2207.12598, equation 6), which is the
            guidance scale of diffusers less 1; 0 is no guidance and half the work.

    Returns:
        Images float32 [B, 3, H, W] in [0, 1]; values that are not numbers stay.
    """
    size, channels = unet.config.sample_size, unet.config.in_channels
    device, dtype = labels.device, next(unet.parameters()).dtype
    noise = torch.stack([torch.randn(channels, size, size, generator=own) for own in generators])
    scheduler.set_timesteps(steps, device=device)
    image = noise.to(device) * scheduler.init_noise_sigma
    nothing = torch.full_like(labels, unet.config.num_class_embeds - 1)
    classes = torch.cat((labels, nothing)) if weight else labels
    # DDIM clips the image that it predicts; unless the noise is made to fit, dark grounds brighten with every step
    wanted = {"generator": list(generators), "use_clipped_model_output": True}
    known = inspect.signature(scheduler.step).parameters
    options = {name: value for name, value in wanted.items() if name in known}
    for time in scheduler.timesteps:
        given = scheduler.scale_model_input(image, time).to(dtype)
        given = torch.cat((given, given)) if weight else given
        predicted = unet(given.contiguous(memory_format=torch.channels_last), time, classes).sample.float()
        if weight:
            with_class, without = predicted.chunk(2)
            predicted = torch.lerp(without, with_class, 1.0 + weight)
        image = scheduler.step(predicted, time, image, **options).prev_sample
    result: Tensor = (image.float() / 2 + 0.5).clamp(0, 1)
    return result
