"""Each loss is its formula in float64, or torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from embedcache.errors import HeadError
from heads.perceptron.losses import Loss, correlation, pinball, predictions

HEADS, ROWS, CLASSES = 2, 40, 4


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(*shape: int) -> torch.Tensor:
    return drawn(*shape, seed=9).abs() + 0.1


def of_one_head(loss: Loss, scores_nO: torch.Tensor, values: torch.Tensor, w: torch.Tensor, classes: int = 2) -> float:
    """The loss of the first of two heads, the other one being at other scores."""
    both = torch.stack([scores_nO, scores_nO + 1]).float()
    truth = loss.truth(values, w, classes).expand(2, *[-1] * (values.ndim + 1))
    losses_H = loss(both, truth)
    assert losses_H.shape == (2,)
    return float(losses_H[0])


def test_weighted_cross_entropy_of_two_classes_is_that_of_torch():
    scores, codes, w = drawn(ROWS, 1), torch.arange(ROWS) % 2, weights(ROWS)
    theirs = F.binary_cross_entropy_with_logits(scores[:, 0], codes.double(), weight=w)
    assert of_one_head(Loss("binary"), scores, codes, w) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_cross_entropy_of_more_classes_is_that_of_torch(smoothing):
    scores, codes, w = drawn(ROWS, CLASSES), torch.arange(ROWS) % CLASSES, weights(ROWS)
    theirs = (w * F.cross_entropy(scores, codes, reduction="none", label_smoothing=smoothing)).mean()
    found = of_one_head(Loss("multiclass", label_smoothing=smoothing), scores, codes, w, CLASSES)
    assert found == pytest.approx(float(theirs), rel=1e-6)


def test_weighted_cross_entropy_of_labels_is_that_of_torch():
    scores, labels, w = drawn(ROWS, 3), (drawn(ROWS, 3, seed=2) > 0).long(), weights(ROWS, 3)
    theirs = F.binary_cross_entropy_with_logits(scores, labels.double(), weight=w)
    assert of_one_head(Loss("multilabel"), scores, labels, w) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_is_that_of_lin(gamma, smoothing):
    scores, codes, w = drawn(ROWS, CLASSES), torch.arange(ROWS) % CLASSES, weights(ROWS)
    p = scores.softmax(-1)
    shares = (1 - smoothing) * torch.eye(CLASSES)[codes] + smoothing / CLASSES
    formula = (w * -(shares * (1 - p) ** gamma * p.log()).sum(-1)).mean()
    loss = Loss("multiclass", focal_gamma=gamma, label_smoothing=smoothing)
    assert of_one_head(loss, scores, codes, w, CLASSES) == pytest.approx(float(formula), rel=1e-5)


def test_two_classes_lose_the_same_by_one_score_as_by_two():
    scores, codes, w = drawn(ROWS, 1), torch.arange(ROWS) % 2, weights(ROWS)
    one = Loss("binary", focal_gamma=2, label_smoothing=0.1)
    two = Loss("multiclass", focal_gamma=2, label_smoothing=0.1)
    as_two = torch.cat([torch.zeros_like(scores), scores], dim=1)
    assert of_one_head(one, scores, codes, w) == pytest.approx(of_one_head(two, as_two, codes, w), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_scores_without_any_doubt_have_finite_losses_and_slopes(gamma):
    scores = torch.tensor([[[200.0], [-200.0], [200.0]]], requires_grad=True)
    loss = Loss("binary", focal_gamma=gamma)
    value = loss(scores, loss.truth(torch.tensor([1, 0, 0]), torch.ones(3), 2)[None])
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize(("name", "theirs"), [("mse", F.mse_loss), ("huber", F.huber_loss)])
def test_losses_of_a_quantity_are_those_of_torch(name, theirs):
    scores, values, w = 3 * drawn(ROWS, 1), drawn(ROWS, seed=2), weights(ROWS)
    expected = (w * theirs(scores[:, 0], values, reduction="none")).mean()
    assert of_one_head(Loss("regression", name), scores, values, w) == pytest.approx(float(expected), rel=1e-6)


def test_pinball_loss_is_that_of_scikit_learn_and_least_at_the_quantile():
    from sklearn.metrics import mean_pinball_loss

    values, said, w = drawn(ROWS, seed=2), drawn(ROWS, 2), weights(ROWS)
    theirs = np.mean(
        [mean_pinball_loss(values, said[:, i], alpha=q, sample_weight=w) for i, q in enumerate((0.1, 0.8))]
    )
    loss = Loss("regression", "pinball", quantiles=(0.1, 0.8))
    found = of_one_head(loss, said, values, w / w.mean())
    assert found == pytest.approx(theirs, rel=1e-5)
    constants = torch.linspace(-3, 3, 601, dtype=torch.float64)
    at = [float(pinball(c.expand(ROWS, 1), values, torch.tensor([0.8]).double()).mean()) for c in constants]
    assert float(constants[int(np.argmin(at))]) == pytest.approx(float(values.quantile(0.8)), abs=0.1)


def test_correlation_loss_is_one_minus_pearson():
    values, truth = drawn(3, ROWS), drawn(3, ROWS, seed=2)
    expected = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(values, truth, strict=True)]
    np.testing.assert_allclose(correlation(values, truth, torch.ones(3, ROWS)), expected, atol=1e-9)
    w = weights(ROWS)
    cov = np.cov(values[0], truth[0], aweights=w, ddof=0)
    expected = 1 - cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])
    found = of_one_head(Loss("regression", "correlation"), values[0, :, None], truth[0], w)
    assert found == pytest.approx(expected, abs=1e-6)


def test_correlation_of_what_does_not_vary_has_a_loss_and_slopes_that_are_finite():
    scores = torch.zeros(1, 5, 1, requires_grad=True)
    loss = Loss("regression", "correlation")
    value = loss(scores, loss.truth(torch.arange(5.0), torch.ones(5), 0)[None])
    value.sum().backward()
    assert value.tolist() == [1]
    assert torch.isfinite(scores.grad).all()


def test_truth_vectors_may_be_mixed():
    """What mixup relies on: the loss of a mixed truth is the mixture of the losses."""
    loss = Loss("multiclass", focal_gamma=1, label_smoothing=0.1)
    scores, codes, w = drawn(1, ROWS, CLASSES).float(), torch.arange(ROWS) % CLASSES, weights(ROWS).float()
    one, other = loss.truth(codes, w, CLASSES), loss.truth(codes.flip(0), w.flip(0), CLASSES)
    mixed = loss(scores, (0.3 * one + 0.7 * other)[None])
    torch.testing.assert_close(mixed, 0.3 * loss(scores, one[None]) + 0.7 * loss(scores, other[None]))


def test_predictions_are_probabilities_or_rising_quantiles():
    scores = drawn(ROWS, 3)
    for kind, columns in (("binary", 2), ("multiclass", 3), ("multilabel", 3)):
        outputs = predictions(kind, scores[:, :1] if kind == "binary" else scores)
        assert outputs.shape == (ROWS, columns)
        assert ((outputs > 0) & (outputs < 1)).all()
        if kind != "multilabel":
            torch.testing.assert_close(outputs.sum(1), torch.ones(ROWS, dtype=torch.float64))
    assert (predictions("regression", scores).diff(dim=1) >= 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regression": "mae"}, "--loss mae: choose from mse, huber, pinball, correlation"),
        ({"focal_gamma": -1.0}, "--focal-gamma -1"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1"),
        ({"regression": "pinball", "quantiles": (0.5, 0.5)}, "--quantiles 0.5,0.5"),
        ({"regression": "pinball", "quantiles": (0.5, 1.5)}, "--quantiles 0.5,1.5"),
        ({"regression": "pinball"}, "belong together"),
        ({"regression": "mse", "quantiles": (0.5,)}, "belong together"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(HeadError, match=message):
        Loss("regression", **options)
