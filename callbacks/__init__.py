"""What happens around a fit."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callbacks.checkpoints import SafeCheckpointIO
    from callbacks.predictions import PredictionWriter
    from callbacks.stage import StageCallback
    from callbacks.synthesize import SynthesizeCallback

__all__ = ["PredictionWriter", "SafeCheckpointIO", "StageCallback", "SynthesizeCallback"]

_MODULES = {
    "PredictionWriter": "callbacks.predictions",
    "SafeCheckpointIO": "callbacks.checkpoints",
    "StageCallback": "callbacks.stage",
    "SynthesizeCallback": "callbacks.synthesize",
}


def __getattr__(name: str) -> Any:
    """Import a callback when it is asked for: tables and sweeps need none of them, nor the heavy libraries."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Name the callbacks that are not imported yet too."""
    return sorted({*globals(), *__all__})
