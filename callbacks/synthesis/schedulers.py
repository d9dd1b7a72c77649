"""Schedulers by name: which one a model can be drawn with in place of its own."""

import inspect
from typing import Any

from lightning_modules.errors import ConfigError

KEY = "synthesize.generator.scheduler"
# its noise is a function of the batch, not of the seed of an image
UNSEEDED = ("DPMSolverSDEScheduler",)
OF_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


def make_scheduler(name: str, current: Any) -> Any:
    """Build a scheduler by its class name from the configuration of the model's own.

    A flow model (Stable Diffusion 3, say) learns velocities: its scheduler can be replaced by those that know flows,
    which have to be told. Others would take its output for noise and draw without an error what is no image.

    Args:
        name: Class in diffusers.
        current: The scheduler that comes with the model.

    Raises:
        ConfigError: diffusers has no such scheduler, or it does not go with this model.
    """
    import diffusers

    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise ConfigError(
            f"{KEY}: diffusers has no scheduler {name!r}; DDIMScheduler, DPMSolverMultistepScheduler and "
            "EulerDiscreteScheduler go with most models"
        )
    own = type(current).__name__
    is_flow = own.startswith("FlowMatch") or bool(current.config.get("use_flow_sigmas"))
    fitting = _of_flows() if is_flow else [other.__name__ for other in current.compatibles]
    fitting = sorted({own, *fitting}.difference(UNSEEDED))
    if name not in fitting:
        what = f"{own} of a flow model" if is_flow else own
        raise ConfigError(
            f"{KEY}: {name} cannot take the place of this model's {what}: leave it out, or give one of "
            f"{', '.join(fitting)}"
        )
    kind: Any = found
    told: dict[str, Any] = {}
    if is_flow and name not in (own, *OF_FLOWS):
        shift = current.config.get("shift", current.config.get("flow_shift", 1.0))
        told = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    try:
        return kind.from_config(current.config, **told)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"{KEY}: {name} cannot be made for this model: {error}") from error


def _of_flows() -> list[str]:
    """Names of the schedulers that know flows."""
    import diffusers

    library: Any = diffusers
    general = library.DPMSolverMultistepScheduler().compatibles
    knowing = [kind.__name__ for kind in general if "use_flow_sigmas" in inspect.signature(kind.__init__).parameters]
    return [*OF_FLOWS, *knowing]
