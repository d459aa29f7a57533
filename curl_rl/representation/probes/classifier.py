"""Multinomial logistic regression on frozen features, without options to tune."""

import torch
from torch import Tensor
from torch.nn import functional as F


class Classifier:
    """A linear classifier of standardised features, fitted to the end.

    It minimises the sum of cross-entropies and half the squared weights, as scikit-learn's LogisticRegression does by
    default. Args: features (n, d), classes (n,) int64 from 0; pool, the features that mean and deviation are taken of.
    """

    def __init__(self, features: Tensor, classes: Tensor, count: int, *, pool: Tensor | None = None):
        pool = features if pool is None else pool
        self._mean = pool.mean(0).double()
        deviation = pool.std(0).double()
        self._scale = torch.where(deviation > 1e-9, deviation, torch.inf)
        x = self._standardised(features)
        self.weight = torch.zeros(count, x.shape[1], dtype=torch.float64, requires_grad=True)
        self.bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
        options = {"max_iter": 500, "tolerance_grad": 1e-7, "tolerance_change": 1e-12, "line_search_fn": "strong_wolfe"}
        solver = torch.optim.LBFGS([self.weight, self.bias], **options)

        def closure() -> Tensor:
            solver.zero_grad()
            entropy = F.cross_entropy(x @ self.weight.T + self.bias, classes, reduction="sum")
            loss = (entropy + self.weight.square().sum() / 2) / len(x)
            loss.backward()
            return loss

        with torch.enable_grad():
            solver.step(closure)

    def _standardised(self, features: Tensor) -> Tensor:
        return (features.double() - self._mean) / self._scale

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """Return logits (n, count) float64."""
        return self._standardised(features) @ self.weight.T + self.bias

    def accuracy(self, features: Tensor, classes: Tensor) -> float:
        """Return the share of features whose class is found."""
        return float((self(features).argmax(1) == classes).double().mean())


def few_of_each(classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw the numbers of so many of each known class, in order of class; all of a class that has fewer."""
    drawn = []
    for each in classes[classes >= 0].unique():
        members = (classes == each).nonzero()[:, 0]
        drawn.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(drawn)
