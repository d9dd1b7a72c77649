from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from callbacks.synthesis.schedulers import OF_FLOWS, make_scheduler
from lightning_modules.errors import ConfigError

LIBRARY: Any = import_module("diffusers")
KNOWING = ["DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
           "UniPCMultistepScheduler"]  # fmt: skip


def spread(scheduler: Any, steps: int = 50) -> float:
    """Standard deviation of what is drawn with the exact velocity of data with mean 0 and standard deviation 0.5."""
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(steps)
    for time in scheduler.timesteps:
        noise = float(time) / 1000
        velocity = (noise - (1 - noise) * 0.25) / ((1 - noise) ** 2 * 0.25 + noise**2) * image
        image = scheduler.step(velocity, time, image).prev_sample
    return float(image.std())


@pytest.mark.parametrize("name", [*OF_FLOWS, *KNOWING])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flows_are_drawn_by_what_knows_them(name: str, shift: float) -> None:
    own = LIBRARY.FlowMatchEulerDiscreteScheduler(shift=shift)
    replaced = make_scheduler(name, own)
    assert type(replaced).__name__ == name
    # as near as the model's own, which is of first order: read as noise, the velocity gives 0.8 to 1.1
    assert abs(spread(replaced) - 0.5) <= abs(spread(own) - 0.5) + 1e-3
    again = make_scheduler("DPMSolverMultistepScheduler", replaced)  # of a model that was saved with it
    assert spread(again) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("DDIMScheduler", "FlowMatchEulerDiscreteScheduler"),
        ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"),
        ("FlowMatchEulerDiscreteScheduler", "PNDMScheduler"),
        ("LCMScheduler", "PNDMScheduler"),
        pytest.param(
            "DPMSolverSDEScheduler",
            "PNDMScheduler",
            marks=pytest.mark.skipif(
                find_spec("torchsde") is None, reason="diffusers has it where torchsde is installed"
            ),
        ),
    ],
)
def test_what_does_not_go_with_a_model_is_refused(name: str, own: str) -> None:
    with pytest.raises(ConfigError, match=rf"synthesize\.generator\.scheduler: {name} .*{own}.*DPMSolverMultistep"):
        make_scheduler(name, getattr(LIBRARY, own)())
