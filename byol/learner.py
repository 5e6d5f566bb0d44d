"""The method: Bootstrap Your Own Latent (arXiv 2006.07733, section 3 and algorithm 1).

Two views of each image. The online network (encoder f, projector g, predictor q) predicts, from
one view, what the target network (encoder f', projector g') makes of the other view. The target
takes no gradient: after each optimizer step it moves a little towards the online network.

    loss = 2 - 2 cos(q(g(f(view1))), g'(f'(view2)))
         + 2 - 2 cos(q(g(f(view2))), g'(f'(view1)))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol.device import autocast
from byol.ema import ema_update, frozen_copy
from byol.encoder import Encoder
from byol.heads import mlp_head
from byol.per_view import normalise_views_apart


def regression_loss(prediction: Tensor, projection: Tensor) -> Tensor:
    """2 - 2 cos(prediction, projection): (N, D), (N, D) -> (N,), each in 0..4 (equation 2).

    In float32, whatever the precision of the network.
    """
    return 2 - 2 * F.cosine_similarity(prediction.float(), projection.float(), dim=1)


def spread(projection: Tensor) -> Tensor:
    """How widely the normalised projections (N, D) are spread: a scalar, 0 when collapsed.

    The standard deviation over the batch of each coordinate, averaged and scaled by sqrt(D):
    about 1 for directions drawn evenly from the sphere, 0 when all images share one direction.
    """
    z = F.normalize(projection.detach().float(), dim=1)
    return z.std(dim=0).mean() * z.shape[1] ** 0.5


class BYOL(nn.Module):
    """Online and target networks around an encoder. Both stay in training mode throughout:
    the target normalises with the statistics of its own batch, as the authors' code does.

    `taps` names inner blocks of the encoder (see `Encoder.outputs`). Each of them, as the
    representation itself, has a projector and a predictor of its own, and a loss.

    `one_pass` sends both views through the networks together, with BatchNorm that still normalises
    each on its own: the same sums, faster for small images on a CPU (see byol/per_view.py).
    """

    def __init__(
        self,
        encoder: Encoder,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        one_pass: bool = False,
        taps: dict[str, int] | None = None,
    ):
        super().__init__()
        self.one_pass = one_pass
        self.taps = taps or {}
        self.encoder = encoder
        widths = encoder.widths(self.taps)
        self.outputs = list(widths)  # "avgpool", then the taps
        sizes = hidden_dim, projection_dim
        self.projectors = nn.ModuleList(mlp_head(dim, *sizes) for dim in widths.values())
        self.predictors = nn.ModuleList(mlp_head(projection_dim, *sizes) for _ in widths)
        if one_pass:
            normalise_views_apart(self)
        self.target_encoder = frozen_copy(self.encoder)
        self.target_projectors = frozen_copy(self.projectors)

    def forward(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        """Two views (N, 3, H, W) -> (losses, spreads), each (P,): one for each of `outputs`.

        A loss is the mean over the batch, in 0..8. BatchNorm sees one view at a time.
        """
        results = [self.term(*term) for term in self.terms(view1, view2)]
        return sum(losses for losses, _ in results), results[0][1]

    def terms(self, view1: Tensor, view2: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """What `term` takes for each term of the loss: a view, and its targets from the other.

        The terms share no activations; in one pass both come together.
        """
        views = [torch.cat([view1, view2])] if self.one_pass else [view1, view2]
        with torch.no_grad():
            features = [self.target_encoder.outputs(view, self.taps) for view in views]
            targets = []  # of each output: (projections of view 1, projections of view 2)
            for projector, output in zip(self.target_projectors, self.outputs, strict=True):
                projections = torch.cat([projector(each[output]) for each in features])
                targets.append(projections.chunk(2))
        if self.one_pass:
            return [(views[0], [torch.cat([t2, t1]) for t1, t2 in targets])]
        return [(view1, [t2 for _, t2 in targets]), (view2, [t1 for t1, _ in targets])]

    def term(self, view: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
        """How well `view` predicts the other's `targets`: (losses, spreads), each (P,).

        The spreads are those of the first view in `view`.
        """
        count = len(view) // 2 if self.one_pass else len(view)  # images
        features = self.encoder.outputs(view, self.taps)
        losses, spreads = [], []
        for number, output in enumerate(self.outputs):
            projection = self.projectors[number](features[output])
            prediction = self.predictors[number](projection)  # (count or 2 count, projection_dim)
            losses.append(regression_loss(prediction, targets[number]).sum() / count)
            spreads.append(spread(projection[:count]))
        return torch.stack(losses), torch.stack(spreads)

    def backward(
        self,
        view1: Tensor,
        view2: Tensor,
        weights: Tensor,
        amp: torch.dtype | None,
        scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of scale(losses @ weights) to the parameters' gradients.

        Returns what `forward` returns.

        Each term is sent back before the next is computed: the gradients add up to those of their
        sum, and half of the activations have to be kept. `amp` is the type of mixed precision,
        None for float32; weights are (P,).
        """
        with autocast(view1.device, amp):
            terms = self.terms(view1, view2)
        results = []
        for term in terms:
            with autocast(view1.device, amp):
                losses, spreads = self.term(*term)
            scale(losses @ weights).backward()
            results.append((losses.detach(), spreads))
        return sum(losses for losses, _ in results), results[0][1]

    def update_target(self, tau: float) -> None:
        """Move the target towards the online network. Call it after `optimizer.step()`."""
        ema_update(self.target_encoder, self.encoder, tau)
        ema_update(self.target_projectors, self.projectors, tau)


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """For a trial step: at the end the buffers are what they were, and no gradient is left."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, kept in zip(model.buffers(), before, strict=True):
                buffer.copy_(kept)
        model.zero_grad(set_to_none=True)
