"""Real images to others, through two generators that mean the same by a style."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from callbacks.synthesis.fitted import FittedGenerator
from callbacks.synthesis.generator import KEY, Sample, to_sample
from callbacks.synthesis.plan import Prompt
from lightning_modules.adapted_gan import SOURCE, AdaptedGAN
from lightning_modules.errors import ConfigError
from lightning_modules.gan_projection import mean_styles, project
from lightning_modules.gan_sampling import CONFIG, check_network, load_network, random_inputs, to_unit
from lightning_modules.pretrained import free_memory, load
from lightning_modules.stylegan2_networks import StyleGAN2Generator


class Translator(FittedGenerator):
    """Turns training images that were not mined into what the adapted generator makes of their styles, as A² does.

    The style of an image is looked for in the source generator, by gradient descent; the adapted generator draws from
    it (An et al., ACCV 2022). The noise of image i comes from its own CPU generator. The class stays.

    Args:
        folder: Both generators, as the stage of ``AdaptedGAN`` leaves them; null takes those of the stage that has just
            been fitted.
        steps: Steps of the search for a style; 1,000 in the reference code.
        lr: Greatest learning rate of the search.
        batch_size: Images a batch; changes the speed only, up to rounding.
    """

    learner = AdaptedGAN
    index = f"{SOURCE}{CONFIG}"
    draws_from = "images"

    def __init__(self, folder: Path | None = None, steps: int = 1000, lr: float = 0.1, batch_size: int = 64) -> None:
        super().__init__(folder, batch_size)
        if steps < 1 or lr <= 0:
            raise ConfigError(f"{KEY}: steps must be at least 1 and lr above 0, got {steps} and {lr}")
        self.steps = steps
        self.lr = lr
        self._data: Any = None
        self._networks: tuple[Any, Any] | None = None
        self._means: Tensor | None = None

    def look_into(self, folder: Path) -> None:
        """Look whether there are two generators, whole.

        Raises:
            OSError: A file is missing.
            ValueError: It is another kind of model.
        """
        for prefix in (SOURCE, ""):
            check_network(folder, prefix, (StyleGAN2Generator,))

    def learn_from(self, module: L.LightningModule, data: Any, folder: Path) -> None:
        """Remember where the images are, and have the fitted generators written if none are named."""
        self._data = data
        super().learn_from(module, data, folder)

    def describe(self) -> dict[str, Any]:
        """Return model and steps."""
        return {**super().describe(), "steps": self.steps}

    def load(self, device: torch.device) -> None:
        """Load both generators.

        Raises:
            ConfigError: See :func:`lightning_modules.pretrained.load`.
        """
        if self._networks is not None:
            return
        source = self._source()
        before, after = (
            load(source, lambda prefix=prefix: load_network(Path(source.location), prefix)).to(device)  # type: ignore[misc]
            for prefix in (SOURCE, "")
        )
        self._networks, self._means = (before, after), mean_styles(before)

    def release(self) -> None:
        """Drop the generators."""
        self._networks = self._means = None
        free_memory()

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        """Translate a batch."""
        if self._networks is None or self._means is None:
            raise RuntimeError("call load() before sample()")
        before, after = self._networks
        device, size = self._means.device, before.settings["size"]
        pictures = [self._data.source_image(prompt.source_index) for prompt in prompts]
        wanted = torch.stack([_pixels(picture, size) for picture in pictures]).to(device)
        _, noise = random_inputs(before, [torch.Generator("cpu").manual_seed(seed) for seed in seeds], device)
        start = self._means[[prompt.label for prompt in prompts]]
        styles = project(before, wanted, start, noise, self.steps, self.lr)
        with torch.inference_mode():
            images = to_unit(after.synthesise(after.spread_style(styles), noise)[0])
        return [to_sample(image, False) for image in images.permute(0, 2, 3, 1).cpu().numpy()]


def _pixels(picture: Image.Image, size: int) -> Tensor:
    """A picture as float [3, size, size] in [-1, 1]."""
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)
