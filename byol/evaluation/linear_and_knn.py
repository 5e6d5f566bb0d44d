"""Linear evaluation (paper section 4.1) and nearest neighbours, on features computed once."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol.errors import UserError
from byol.evaluation.features import Standardise, count_pairs

STRENGTHS = [10.0**exponent for exponent in range(4, -3, -1)]  # strongest first
FOLDS = 5
MOST_IMAGES_TO_CHOOSE = 5_000


def fit_linear(
    features: Tensor, labels: Tensor, classes: int, strength: float | None = None
) -> tuple[nn.Linear, float]:
    """Fit logistic regression to features (N, width) and labels (N,): (the head, its L2 strength).

    Minimises the sum of the cross-entropies + strength / 2 * |W|^2 by L-BFGS from zero weights, so
    the same input gives the same head. The strength is the one of `STRENGTHS` with the least
    cross-entropy in `FOLDS`-fold cross-validation on these images alone, or on
    `MOST_IMAGES_TO_CHOOSE` of them if there are more. (In this form the best strength moves by a
    decade at most with the count of images.) Raises `UserError` for a class with fewer than two
    images. A strength that is given is taken, and nothing is chosen or raised.
    """
    if len(features) < features.shape[1]:  # the weights lie in the span of the images: work there
        basis = torch.linalg.qr(features.T).Q  # (width, N)
        inner, strength = fit_linear(features @ basis, labels, classes, strength)
        head = _zero_head(features.shape[1], classes, features.device)
        with torch.no_grad():
            head.weight.copy_(inner.weight @ basis.T)
            head.bias.copy_(inner.bias)
        return head, strength
    strength = choose_strength(features, labels, classes) if strength is None else strength
    head = _zero_head(features.shape[1], classes, features.device)
    _minimise(head, features, labels, strength)
    return head, strength


def choose_strength(features: Tensor, labels: Tensor, classes: int) -> float:
    """Choose the L2 strength by cross-validation, as `fit_linear` describes."""
    counts = torch.bincount(labels, minlength=classes)
    folds = min(FOLDS, int(counts.min()))
    if folds < 2:
        raise UserError(
            f"a linear evaluation needs two labelled images of each class, and of one there are "
            f"{int(counts.min())}; give more --labels"
        )
    fold = _folds(labels, folds)
    heads = [_zero_head(features.shape[1], classes, features.device) for _ in range(folds)]
    losses = []
    for strength in STRENGTHS:  # each starts from the one before
        losses.append(0.0)
        for left_out, head in enumerate(heads):
            train, test = (fold >= 0) & (fold != left_out), fold == left_out
            _minimise(head, features[train], labels[train], strength)
            with torch.no_grad():
                scores = head(features[test])
            losses[-1] += F.cross_entropy(scores, labels[test], reduction="sum").item()
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break  # past the best: what is weaker still fits slower and worse
    return STRENGTHS[losses.index(min(losses))]


def scores_by_folds(features: Tensor, labels: Tensor, classes: int, strength: float) -> Tensor:
    """Score each image by a head that did not learn from it: (N, classes).

    features, labels, strength: as for and from `fit_linear`. Images that no fold has drawn (if
    there are more than `MOST_IMAGES_TO_CHOOSE`) are scored by a head of all those that are drawn.
    """
    fold = _folds(labels, min(FOLDS, int(torch.bincount(labels, minlength=classes).min())))
    scores = torch.empty(len(features), classes, device=features.device)
    for number in fold.unique().tolist():
        head = _zero_head(features.shape[1], classes, features.device)
        learned = (fold >= 0) & (fold != number)
        _minimise(head, features[learned], labels[learned], strength)
        with torch.no_grad():
            scores[fold == number] = head(features[fold == number])
    return scores


def _zero_head(width: int, classes: int, device: torch.device) -> nn.Linear:
    head = nn.Linear(width, classes, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _minimise(head: nn.Linear, x: Tensor, y: Tensor, strength: float, steps: int = 300) -> None:
    """Descend until a step changes the loss by less than 1e-9, or for `steps`."""
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=steps, tolerance_grad=1e-6, tolerance_change=1e-9,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = strength / 2 * head.weight.square().sum()
        loss = F.cross_entropy(head(x), y) + penalty / len(x)
        loss.backward()
        return loss

    optimizer.step(objective)


def _folds(labels: Tensor, folds: int) -> Tensor:
    """Give each image a fold (N,), each class spread evenly; -1 for those that are not drawn."""
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
    by_class = order[np.argsort(labels.cpu().numpy()[order], kind="stable")]  # shuffled in a class
    drawn = by_class
    if len(by_class) > MOST_IMAGES_TO_CHOOSE:
        drawn = by_class[np.linspace(0, len(by_class) - 1, MOST_IMAGES_TO_CHOOSE).astype(np.int64)]
    fold = np.full(len(labels), -1)
    fold[drawn] = np.arange(len(drawn)) % folds
    return torch.from_numpy(fold).to(labels.device)


@torch.no_grad()
def knn_classes(
    bank: Tensor,
    bank_labels: Tensor,
    features: Tensor,
    classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> Tensor:
    """Find what the neighbours in `bank` (M, width) take `features` (N, width) for: int64 (N,).

    The k most similar by cosine vote with exp(cosine / temperature) (arXiv 1805.01978, 3.4);
    k is at most M.
    """
    bank = F.normalize(bank, dim=1)
    found = []
    for at in range(0, len(features), 128):
        similarity = F.normalize(features[at : at + 128], dim=1) @ bank.T
        near, where = similarity.topk(min(k, len(bank)), dim=1)
        scores = torch.zeros(len(near), classes, device=bank.device)
        scores.scatter_add_(1, bank_labels[where], (near / temperature).exp())
        found.append(scores.argmax(1))
    return torch.cat(found)


def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, features: Tensor, labels: Tensor, classes: int, **settings
) -> float:
    """Compute the share of `features` that their neighbours get right (see `knn_classes`)."""
    found = knn_classes(bank, bank_labels, features, classes, **settings)
    return int((found == labels).sum()) / len(features)


class FeatureBank:
    """Holds the features of many images, out of which each evaluation takes those it needs."""

    def __init__(self, values: Tensor, rows: np.ndarray, labels: np.ndarray, widths: dict):
        """values: (len(rows), width), blocks of `widths` side by side. labels: of all images."""
        self.values, self.widths = values, list(widths.values())
        self.place = np.full(len(labels), -1)
        self.place[rows] = np.arange(len(rows))
        self.labels = torch.from_numpy(labels).to(values.device)

    def judge(
        self, representation: str, train_rows: np.ndarray, test_rows: np.ndarray, classes: int
    ) -> tuple[float, float, float]:
        """Judge a representation: accuracy by linear evaluation, its L2 strength, accuracy by kNN.

        `representation`: "avgpool", or "combined": its blocks standardised for the linear head, and
        each of length 1 for the neighbours.
        """
        linear, strength, knn = self.confusions(representation, train_rows, test_rows, classes)
        hits = [sum(row[at] for at, row in enumerate(table)) for table in (linear, knn)]
        return hits[0] / len(test_rows), strength, hits[1] / len(test_rows)

    def confusions(
        self, representation: str, train_rows: np.ndarray, test_rows: np.ndarray, classes: int
    ) -> tuple[list[list[int]], float, list[list[int]]]:
        """Judge as `judge` does: the confusion matrices in place of the accuracies."""
        linear, strength = self.linear(representation, train_rows, test_rows, classes)
        (x, y), (held, truth) = (self._take(representation, r) for r in (train_rows, test_rows))
        widths = self._widths(representation)
        neighbours, asked = (
            torch.cat([F.normalize(block, dim=1) for block in each.split(widths, dim=1)], dim=1)
            for each in (x, held)
        )
        knn = knn_classes(neighbours, y, asked, classes)
        return linear, strength, count_pairs(truth, knn, classes)

    def linear(
        self, representation: str, train_rows: np.ndarray, test_rows: np.ndarray, classes: int
    ) -> tuple[list[list[int]], float]:
        """Judge a representation by linear evaluation: confusion matrix and L2 strength."""
        (x, y), (held, truth) = (self._take(representation, r) for r in (train_rows, test_rows))
        standardise = Standardise(x, self._widths(representation))
        head, strength = fit_linear(standardise(x), y, classes)
        with torch.no_grad():
            found = standardise.fold(head)(held).argmax(1)
        return count_pairs(truth, found, classes), strength

    def _widths(self, representation: str) -> list[int]:
        return self.widths[:1] if representation == "avgpool" else self.widths

    def _take(self, representation: str, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Take features (N, width) and labels (N,) of images."""
        at, of_all = (torch.from_numpy(r).to(self.values.device) for r in (self.place[rows], rows))
        return self.values[at, : sum(self._widths(representation))], self.labels[of_all]
