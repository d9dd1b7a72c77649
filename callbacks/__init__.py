"""What happens around a fit."""

from callbacks.predictions import PredictionWriter
from callbacks.stage import StageCallback
from callbacks.synthesize import SynthesizeCallback

__all__ = ["PredictionWriter", "StageCallback", "SynthesizeCallback"]
