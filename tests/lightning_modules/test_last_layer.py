import numpy as np
import pytest

from lightning_modules.last_layer import (
    averaged_fit,
    balanced,
    best_c,
    fold,
    logistic_regression,
    standard_deviation,
)


def make_features(count: int, classes: int, width: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return random.normal(size=(count, width)) + 0.8 * np.eye(classes, width)[labels], labels


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


@pytest.mark.parametrize("c", [3.0, 0.03])
@pytest.mark.parametrize("classes", [2, 3])
def test_fits_are_the_minimum_of_the_penalised_loss(c: float, classes: int) -> None:
    """At the minimum of ||w||_1 + |b| + C sum(loss) the loss's slope is -sign(w), and at most 1 where w is 0."""
    features, labels = make_features(200, classes)
    coefficients, intercepts = logistic_regression(features, labels, c, classes)
    assert coefficients.shape == (classes, 5)
    assert intercepts.shape == (classes,)
    zeros = 0
    for label in [1] if classes == 2 else range(3):
        # Two classes share one regression between two rows.
        factor = 2 if classes == 2 else 1
        weights = factor * np.append(coefficients[label], intercepts[label])
        inputs = np.column_stack([features, np.ones(200)])
        slope = c * inputs.T @ (sigmoid(inputs @ weights) - (labels == label))
        zeros += int((weights == 0).sum())
        np.testing.assert_allclose(slope[weights != 0], -np.sign(weights[weights != 0]), atol=0.02)
        assert np.abs(slope[weights == 0]).max(initial=0) <= 1.02
    assert (zeros > 2) == (c < 1)


def test_two_classes_have_opposite_scores() -> None:
    features, labels = make_features(60, 2)
    coefficients, intercepts = logistic_regression(features, labels, 1.0, 2)
    scores = features @ coefficients.T + intercepts
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1])
    assert (scores.argmax(axis=1) == labels).mean() > 0.6


def test_balanced_takes_the_size_of_the_smallest_group_anew_each_time() -> None:
    groups = np.repeat([4, 0, 7], [10, 3, 5])
    random = np.random.default_rng(0)
    draws = [balanced(groups, random) for _ in range(50)]
    for rows in draws:
        assert len(set(rows.tolist())) == len(rows) == 9
        assert np.bincount(groups[rows]).tolist() == [3, 0, 0, 0, 3, 0, 0, 3]
    assert set(np.concatenate(draws).tolist()) == set(range(18))


def test_mean_of_fits_to_all_samples_is_the_fit() -> None:
    features, labels = make_features(90, 3)
    one = logistic_regression(features, labels, 0.3, 3)
    mean = averaged_fit(features, labels, labels, 0.3, 3, 4, np.random.default_rng(0))
    for ours, theirs in zip(mean, one, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_refits_average_over_subsets() -> None:
    """With a group of one sample every subset has one sample a group; their average is not one of the fits."""
    features, labels = np.array([[-1.0], [1.0], [2.0], [3.0]]), np.array([0, 1, 1, 1])
    single = [logistic_regression(features[[0, row]], labels[[0, row]], 10.0, 2)[0][1, 0] for row in (1, 2, 3)]
    mean = averaged_fit(features, labels, labels, 10.0, 2, 300, np.random.default_rng(0))[0][1, 0]
    assert mean == pytest.approx(np.mean(single), rel=0.1)
    assert min(single) < mean < max(single)


def test_the_penalty_is_chosen_by_the_worst_group() -> None:
    """One feature tells the class, another the bias; only with little penalty is the first one used enough."""
    random = np.random.default_rng(0)
    labels, biases = np.divmod(np.arange(400) % 4, 2)
    features = np.stack([labels + 0.1 * random.normal(size=400), biases + 0.1 * random.normal(size=400)], axis=1)
    groups = 2 * labels + biases
    # So strong a penalty leaves nothing but ties, which count as class 0: the worst group is wrong throughout.
    assert best_c(features, labels, groups, [1e-6], 2, np.random.default_rng(0)) == (1e-6, 0.0)
    assert best_c(features, labels, groups, [1e-6, 1.0, 2.0], 2, np.random.default_rng(0)) == (1.0, 1.0)


def test_the_scale_of_features_does_not_matter() -> None:
    features, labels = make_features(200, 2)
    groups = labels * 2 + np.arange(200) % 4 // 2
    values = [1.0, 0.1, 0.02, 0.01]
    chosen = [
        best_c(features * s + m, labels, groups, values, 2, np.random.default_rng(3)) for s, m in ((1, 0), (9, 5))
    ]
    assert chosen[0] == pytest.approx(chosen[1])


def test_groups_of_one_sample_are_fitted_and_not_judged() -> None:
    features, labels = np.array([[0.0], [0.1], [1.0], [1.1], [9.0]]), np.array([0, 0, 1, 1, 1])
    _, worst = best_c(features, labels, np.array([0, 0, 1, 1, 2]), [10.0], 2, np.random.default_rng(0))
    assert worst in (0.0, 1.0)
    assert best_c(features[1:3], labels[1:3], np.array([0, 1]), [10.0], 2, np.random.default_rng(0)) == (10.0, 1.0)


def test_folded_layer_gives_the_scores_of_standardised_features() -> None:
    features, labels = make_features(50, 3)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    coefficients, intercepts = logistic_regression((features - mean) / scale, labels, 1.0, 3)
    weight, bias = fold(coefficients, intercepts, mean, scale)
    np.testing.assert_allclose(
        features @ weight.T + bias, (features - mean) / scale @ coefficients.T + intercepts, atol=1e-9
    )


def test_constant_features_are_divided_by_one() -> None:
    features = np.array([[0.0, 0.1, 3.0], [0.0, 0.1, 5.0], [0.0, 0.1, 7.0]]) + np.array([0, 1e3, 0])
    mean = features.mean(axis=0)
    variance = (features**2).mean(axis=0) - mean**2
    np.testing.assert_allclose(standard_deviation(variance, mean), [1.0, 1.0, np.sqrt(8 / 3)])
