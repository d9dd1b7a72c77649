"""The baseline of every comparison."""

from .classifier import Classifier


class Vanilla(Classifier):
    """A classifier trained by plain cross-entropy, that is by empirical risk minimisation (ERM).

    Every training image counts alike, real or synthetic; ``data.balance`` makes it the resampling baseline.
    """
