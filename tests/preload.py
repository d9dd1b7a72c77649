"""Heavy imports, done once, by the tests themselves and by the server that forks their processes.

What they have made stays to the end: collections of garbage, of which every chain makes several, need not look through
its millions of objects, which took a quarter of a small chain's time.
"""

import atexit
import gc

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

gc.collect()
gc.freeze()
atexit.register(gc.unfreeze)  # what the libraries look for at the end
