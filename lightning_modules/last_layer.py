"""Fitting a linear last layer to features, with equally many samples of every group."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def best_c(
    features: Floats,
    labels: Integers,
    groups: Integers,
    c_values: Sequence[float],
    num_classes: int,
    random: np.random.Generator,
) -> tuple[float, float]:
    """Choose the penalty by the worst group of one half of the samples, after a fit to the other half.

    As in the reference code of DFR the fit is to equally many samples of every group, whose features are standardised
    by themselves; ours is that every group is halved, the odd sample being fitted to.

    Args:
        features: [N, D].
        labels: class numbers [N].
        groups: group numbers [N].
        c_values: inverse strengths of the L1 penalty.
        num_classes: number of classes C.
        random: what the halves are drawn from.

    Returns:
        The first of the best inverse strengths, and the accuracy that the worst group then has, in [0, 1].
    """
    shuffled = random.permutation(len(groups))
    first = np.zeros(len(groups), dtype=bool)
    for group in np.unique(groups):
        members = shuffled[groups[shuffled] == group]
        first[members[: (len(members) + 1) // 2]] = True
    rows = np.flatnonzero(first)
    rows = rows[balanced(groups[rows], random)]
    # A group of one sample is not judged; where there are only such, the fit judges itself.
    judged = rows if first.all() else np.flatnonzero(~first)
    mean = features[rows].mean(axis=0)
    scale = standard_deviation(features[rows].var(axis=0), mean)
    fitted, unseen = (features[rows] - mean) / scale, (features[judged] - mean) / scale
    worst: list[float] = []
    for c in c_values:
        coefficients, intercepts = logistic_regression(fitted, labels[rows], c, num_classes)
        right = (unseen @ coefficients.T + intercepts).argmax(axis=1) == labels[judged]
        worst.append(min(right[groups[judged] == group].mean() for group in np.unique(groups[judged])))
    best = int(np.argmax(worst))
    return float(c_values[best]), float(worst[best])


def averaged_fit(
    features: Floats,
    labels: Integers,
    groups: Integers,
    c: float,
    num_classes: int,
    refits: int,
    random: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Mean of several logistic regressions, each on another subset with equally many samples of every group.

    Args:
        features: standardised [N, D].
        labels: class numbers [N].
        groups: group numbers [N].
        c: inverse strength of the L1 penalty.
        num_classes: number of classes C.
        refits: number of regressions.
        random: what the subsets are drawn from.

    Returns:
        Coefficients [C, D] and intercepts [C].
    """
    subsets = [balanced(groups, random) for _ in range(refits)]
    fits = [logistic_regression(features[rows], labels[rows], c, num_classes) for rows in subsets]
    coefficients, intercepts = zip(*fits, strict=True)
    return np.mean(coefficients, axis=0), np.mean(intercepts, axis=0)


def balanced(groups: Integers, random: np.random.Generator) -> Integers:
    """Rows of as many samples of every group as the smallest group has, drawn without replacement.

    Args:
        groups: group numbers [N].
        random: what they are drawn from.
    """
    present, counts = np.unique(groups, return_counts=True)
    drawn = [random.choice(np.flatnonzero(groups == group), counts.min(), replace=False) for group in present]
    return np.concatenate(drawn)


def logistic_regression(features: Floats, labels: Integers, c: float, num_classes: int) -> tuple[Floats, Floats]:
    """Logistic regression with an L1 penalty by liblinear, which penalises the intercept too.

    This is the solver of DFR's reference code. Of more than two classes it tells each from the rest. Two get scores of
    opposite sign, whose softmax is the probability of the one regression.

    Args:
        features: [N, D].
        labels: class numbers [N].
        c: inverse strength of the penalty.
        num_classes: number of classes C.

    Returns:
        Coefficients [C, D] and intercepts [C].
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", max_iter=10_000, random_state=0)
    fits: list[tuple[Floats, float]] = []
    for label in [1] if num_classes == 2 else range(num_classes):
        model.fit(features, labels == label)
        fits.append((model.coef_[0], model.intercept_[0]))
    if num_classes == 2:
        ((coefficients, intercept),) = fits
        fits = [(-coefficients / 2, -intercept / 2), (coefficients / 2, intercept / 2)]
    return np.stack([fit[0] for fit in fits]), np.array([fit[1] for fit in fits])


def fold(coefficients: Floats, intercepts: Floats, mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Weight [C, D] and bias [C] of a layer that gives raw features the scores of standardised ones.

    Args:
        coefficients: of standardised features [C, D].
        intercepts: [C].
        mean: of the features [D].
        scale: by which they were divided [D].
    """
    weight = coefficients / scale
    return weight, intercepts - weight @ mean


def standard_deviation(variance: Floats, mean: Floats) -> Floats:
    """Standard deviations [D] to divide by; 1 for what is constant up to rounding, as a unit that never fires."""
    return np.asarray(np.sqrt(np.where(variance <= 1e-12 * mean**2, 1.0, variance)))
