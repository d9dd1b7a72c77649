"""What happens around a fit."""

from callbacks.predictions import PredictionWriter
from callbacks.stage import SafeCheckpointIO, StageCallback
from callbacks.synthesize import SynthesizeCallback

__all__ = ["PredictionWriter", "SafeCheckpointIO", "StageCallback", "SynthesizeCallback"]
