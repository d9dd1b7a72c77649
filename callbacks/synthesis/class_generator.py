"""Classes to images, through a class-conditional diffusion model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L  # noqa: N812
import torch

from callbacks.synthesis.fitted import FittedGenerator
from callbacks.synthesis.generator import KEY, Sample, to_sample
from callbacks.synthesis.plan import Prompt
from callbacks.synthesis.schedulers import make_scheduler
from lightning_modules.class_sampling import draw_classes
from lightning_modules.diffusion import ClassDiffusion
from lightning_modules.errors import ConfigError
from lightning_modules.pretrained import free_memory, load, pick_dtype


class ClassGenerator(FittedGenerator):
    """Draws a class with a ``ClassDiffusion`` model, as Diffusing DeBias does (arXiv 2502.09564, section 3).

    The caption of a prompt plays no part. Image i starts from noise of its own CPU generator.

    Args:
        folder: A model, that is ``unet`` and ``scheduler`` as the stage of such a model leaves them; null takes that of
            the stage that has just been fitted.
        steps: Denoising steps.
        weight: Classifier-free guidance as papers on class-conditional models have it, the w of
            (1 + w) eps(x, y) - w eps(x): 0 is none.
        scale: The same as diffusers has it, 1 + w, where 1 is none; in place of ``weight``.
        scheduler: Class name of a diffusers scheduler; null for DDIMScheduler.
        dtype: Precision of the network; ``auto`` is bfloat16 on a GPU and float32 on a CPU.
        batch_size: Images a batch; changes the speed only, up to rounding.
    """

    learner = ClassDiffusion
    index = "unet/config.json"
    draws_from = "classes"

    def __init__(
        self,
        folder: Path | None = None,
        steps: int = 50,
        weight: float = 1.0,
        scale: float | None = None,
        scheduler: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        batch_size: int = 8,
    ) -> None:
        super().__init__(folder, batch_size)
        if steps < 1:
            raise ConfigError(f"{KEY}.steps must be at least 1, got {steps}")
        self.steps = steps
        self.weight = weight if scale is None else scale - 1.0
        self.scheduler = scheduler or "DDIMScheduler"
        self.dtype = dtype
        if self.weight < 0:
            raise ConfigError(f"{KEY}: there is no less guidance than none, which is weight 0 or scale 1")
        self._unet: Any = None
        self._noise: Any = None

    def describe(self) -> dict[str, Any]:
        """Return model, steps and guidance, the latter as diffusers has it."""
        return {**super().describe(), "steps": self.steps, "guidance": 1.0 + self.weight}

    def check(self, module: L.LightningModule | None, data: Any) -> None:
        """Look, too, whether scheduler and steps go with what the model has learnt.

        Raises:
            ConfigError: They do not; see :meth:`FittedGenerator.check`.
        """
        super().check(module, data)
        trained = self._trained() if self.folder is not None else cast(ClassDiffusion, module).noise_schedule
        make_scheduler(self.scheduler, trained)
        if self.steps > (most := trained.config.num_train_timesteps):
            raise ConfigError(f"{KEY}.steps: {self.steps} are more than the {most} that the model has learnt")

    def _trained(self) -> Any:
        """Read the noise schedule of training."""
        import diffusers

        source, kind = self._source(), cast(Any, diffusers.DDPMScheduler)
        place = {"subfolder": "scheduler", "local_files_only": True}
        return load(source, lambda: kind.from_pretrained(source.location, **place))

    def load(self, device: torch.device) -> None:
        """Load the model.

        Raises:
            ConfigError: See :func:`lightning_modules.pretrained.load`; unknown scheduler.
        """
        if self._unet is not None:
            return
        import diffusers

        source = self._source()
        unet: Any = diffusers.UNet2DModel
        options = {"subfolder": "unet", "use_safetensors": True, "local_files_only": True}
        self._unet = load(source, lambda: unet.from_pretrained(source.location, **options))
        self._noise = make_scheduler(self.scheduler, self._trained())
        self._unet = self._unet.eval().to(device, memory_format=torch.channels_last)

    def release(self) -> None:
        """Drop the model."""
        self._unet = self._noise = None
        free_memory()

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        """Draw a batch."""
        if self._unet is None:
            raise RuntimeError("call load() before sample()")
        device = next(self._unet.parameters()).device
        labels = torch.tensor([prompt.label for prompt in prompts], device=device)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        dtype = pick_dtype(self.dtype, device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            images = draw_classes(self._unet, self._noise, labels, generators, self.steps, self.weight)
        return [to_sample(image, False) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
