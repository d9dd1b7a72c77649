"""Heavy imports for the server that forks the tests' processes: whoever needs them finds them done."""

from diffusers import StableDiffusionPipeline
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPTextModel, VisionEncoderDecoderModel

import train

__all__ = [
    "AutoModelForImageTextToText",
    "AutoProcessor",
    "CLIPTextModel",
    "StableDiffusionPipeline",
    "VisionEncoderDecoderModel",
    "train",
]
