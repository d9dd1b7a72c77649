"""What is fitted: classifiers, their networks, losses and metrics."""

from .adapted_gan import AdaptedGAN
from .backbones import backbone_names, build_backbone
from .biased import BiasedModule
from .captioning import CaptionModel
from .classifier import Batch, Classifier
from .debiased import DebiasedModule
from .dfr import DFR
from .diffusion import ClassDiffusion
from .disent import DisEnt
from .errors import ConfigError, TrainingError
from .fastgan import FastGAN
from .group_dro import GroupDRO
from .jtt import JTT
from .lff import LfF
from .losses import cross_entropy, generalized_cross_entropy
from .metrics import GroupMetrics, GroupTable
from .rebias import ReBias
from .selecmix import SelecMix, SelecMixLfF
from .staged import StagedModule
from .stylegan2 import StyleGAN2
from .text_to_image import TextToImage
from .vanilla import Vanilla

__all__ = [
    "DFR",
    "JTT",
    "AdaptedGAN",
    "Batch",
    "BiasedModule",
    "CaptionModel",
    "ClassDiffusion",
    "Classifier",
    "ConfigError",
    "DebiasedModule",
    "DisEnt",
    "FastGAN",
    "GroupDRO",
    "GroupMetrics",
    "GroupTable",
    "LfF",
    "ReBias",
    "SelecMix",
    "SelecMixLfF",
    "StagedModule",
    "StyleGAN2",
    "TextToImage",
    "TrainingError",
    "Vanilla",
    "backbone_names",
    "build_backbone",
    "cross_entropy",
    "generalized_cross_entropy",
]
