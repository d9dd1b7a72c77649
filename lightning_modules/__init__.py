"""What is fitted: classifiers, their networks, losses and metrics."""

from .backbones import backbone_names, build_backbone
from .biased import BiasedModule
from .classifier import Batch, Classifier
from .debiased import DebiasedModule
from .errors import ConfigError, TrainingError
from .lff import LfF
from .losses import cross_entropy, generalized_cross_entropy
from .metrics import GroupMetrics, GroupTable

__all__ = [
    "Batch",
    "BiasedModule",
    "Classifier",
    "ConfigError",
    "DebiasedModule",
    "GroupMetrics",
    "GroupTable",
    "LfF",
    "TrainingError",
    "backbone_names",
    "build_backbone",
    "cross_entropy",
    "generalized_cross_entropy",
]
