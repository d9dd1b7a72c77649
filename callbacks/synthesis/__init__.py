"""The parts of the synthesis: mine, caption, filter, generate, judge, record."""

from callbacks.synthesis.captioner import BaseCaptioner, Captioner
from callbacks.synthesis.class_generator import ClassGenerator
from callbacks.synthesis.gan_generator import GANGenerator
from callbacks.synthesis.gate import Gate
from callbacks.synthesis.generator import DiffusersGenerator, Generator, Sample
from callbacks.synthesis.judge import Judge, ZeroShotJudge
from callbacks.synthesis.miner import LossMiner, Miner
from callbacks.synthesis.templates import Prompter, Templates
from callbacks.synthesis.text_filter import FilterResult, TextFilter
from callbacks.synthesis.translator import Translator

__all__ = [
    "BaseCaptioner",
    "Captioner",
    "ClassGenerator",
    "DiffusersGenerator",
    "FilterResult",
    "GANGenerator",
    "Gate",
    "Generator",
    "Judge",
    "LossMiner",
    "Miner",
    "Prompter",
    "Sample",
    "Templates",
    "TextFilter",
    "Translator",
    "ZeroShotJudge",
]
