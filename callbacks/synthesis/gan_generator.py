"""Classes to images, through the generator of a GAN."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from callbacks.synthesis.fitted import FittedGenerator
from callbacks.synthesis.generator import Sample, to_sample
from callbacks.synthesis.plan import Prompt
from lightning_modules.gan import GAN
from lightning_modules.gan_sampling import CONFIG, check_network, draw, load_network
from lightning_modules.pretrained import free_memory, load


class GANGenerator(FittedGenerator):
    """Draws a class with the generator of a GAN, as AmpliBias does (Ko et al., CIKM 2023).

    The caption of a prompt plays no part. Image i is drawn from a latent and noise of its own CPU generator.

    Args:
        folder: A generator, as the stage of a GAN leaves it; null takes that of the stage that has just been fitted.
        batch_size: Images a batch; changes the speed only, up to rounding.
    """

    learner = GAN
    index = CONFIG
    draws_from = "classes"

    def __init__(self, folder: Path | None = None, batch_size: int = 64) -> None:
        super().__init__(folder, batch_size)
        self._network: Any = None

    def look_into(self, folder: Path) -> None:
        """Look whether there is a generator, whole.

        Raises:
            OSError: A file is missing.
            ValueError: It is another kind of model.
        """
        check_network(folder)

    def load(self, device: torch.device) -> None:
        """Load the generator.

        Raises:
            ConfigError: See :func:`lightning_modules.pretrained.load`.
        """
        if self._network is None:
            source = self._source()
            self._network = load(source, lambda: load_network(Path(source.location))).to(device)

    def release(self) -> None:
        """Drop the generator."""
        self._network = None
        free_memory()

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        """Draw a batch."""
        if self._network is None:
            raise RuntimeError("call load() before sample()")
        device = next(self._network.parameters()).device
        labels = torch.tensor([prompt.label for prompt in prompts], device=device)
        images = draw(self._network, labels, [torch.Generator("cpu").manual_seed(seed) for seed in seeds])
        return [to_sample(image, False) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
