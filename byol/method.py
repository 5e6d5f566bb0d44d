"""BYOL: Bootstrap Your Own Latent (arXiv 2006.07733, section 3 and algorithm 1).

Two views of each photo. The online network (encoder f, projector g, predictor q) predicts from one
view what the target network (encoder f', projector g') makes of the other view. The target gets no
gradient: after each optimizer step it moves a little towards the online network.

    loss = 2 - 2 cos(q(g(f(view1))), g'(f'(view2)))
         + 2 - 2 cos(q(g(f(view2))), g'(f'(view1)))
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol.encoder import Encoder
from byol.whitening import Whitening


class BYOL(nn.Module):
    """Online and target networks around an encoder.

    Both stay in training mode throughout: the target normalises with the statistics of its own
    batch, as the authors' code does.

    `inner_blocks` {name: grid} names blocks of the encoder (see `Encoder.outputs`). Each of them,
    as the representation itself, has a projector, a predictor and a loss of its own.

    `whitening` above 0 whitens the target's projections (see `Whitening`); 0 is the paper's way.
    """

    def __init__(
        self,
        encoder: Encoder,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        inner_blocks: dict[str, int] | None = None,
        whitening: float = 0.0,
    ):
        super().__init__()
        self.inner_blocks = inner_blocks or {}
        self.encoder = encoder
        widths = encoder.widths(self.inner_blocks)
        self.outputs = list(widths)  # "avgpool", then the inner blocks
        sizes = hidden_dim, projection_dim
        self.projectors = nn.ModuleList(mlp_head(width, *sizes) for width in widths.values())
        self.predictors = nn.ModuleList(mlp_head(projection_dim, *sizes) for _ in widths)
        self.target_encoder = frozen_copy(self.encoder)
        self.target_projectors = frozen_copy(self.projectors)
        self.whitening = Whitening(len(widths), projection_dim, whitening) if whitening else None

    def forward(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        """Two views (N, 3, H, W) -> (losses, spreads), each (P,): one for each of `outputs`.

        A loss is the mean over the batch, in 0..8. BatchNorm sees one view at a time.
        """
        results = [self.predict(view, targets) for view, targets in self.terms(view1, view2)]
        return sum(losses for losses, _ in results), results[0][1]

    def terms(self, view1: Tensor, view2: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Pair each view with what it has to predict: the target's projections of the other."""
        target1, target2 = self.target_projections(view1), self.target_projections(view2)
        if self.whitening:
            target1, target2 = self.whitening(target1, target2)
        return [(view1, target2), (view2, target1)]

    @torch.no_grad()
    def target_projections(self, view: Tensor) -> list[Tensor]:
        """g'(f'(view)) for each output: P tensors (N, projection_dim)."""
        features = self.target_encoder.outputs(view, self.inner_blocks)
        heads = zip(self.target_projectors, self.outputs, strict=True)
        return [projector(features[output]) for projector, output in heads]

    def predict(self, view: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict `targets` from `view`: (losses, spreads), each (P,); a loss is in 0..4."""
        features = self.encoder.outputs(view, self.inner_blocks)
        losses, spreads = [], []
        heads = zip(self.outputs, self.projectors, self.predictors, targets, strict=True)
        for output, projector, predictor, target in heads:
            projection = projector(features[output])  # (N, projection_dim)
            losses.append(regression_loss(predictor(projection), target).mean())
            spreads.append(spread(projection))
        return torch.stack(losses), torch.stack(spreads)

    def backward(
        self,
        view1: Tensor,
        view2: Tensor,
        weights: Tensor,
        amp: torch.dtype | None = None,
        scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of scale(losses @ weights); return what `forward` returns.

        Runs backward on each term before computing the next: same gradient, half the activation
        memory. `amp` is the type of mixed precision, None for float32; weights are (P,).
        """
        with torch.autocast(view1.device.type, amp, enabled=amp is not None):
            terms = self.terms(view1, view2)
        results = []
        for view, targets in terms:
            with torch.autocast(view.device.type, amp, enabled=amp is not None):
                losses, spreads = self.predict(view, targets)
            scale(losses @ weights).backward()
            results.append((losses.detach(), spreads))
        return sum(losses for losses, _ in results), results[0][1]

    def update_target(self, tau: float) -> None:
        """Move the target towards the online network. Call it after `optimizer.step()`."""
        ema_update(self.target_encoder, self.encoder, tau)
        ema_update(self.target_projectors, self.projectors, tau)
        if self.whitening:
            self.whitening.refresh()

    @property
    def statistics(self) -> list[Tensor]:
        """What several processes average after a step, beside gradients."""
        return [self.whitening.moments] if self.whitening else []


def mlp_head(in_dim: int, hidden_dim: int = 4096, out_dim: int = 256) -> nn.Sequential:
    """Build a projector or a predictor: (N, in_dim) -> (N, out_dim) (section 3.2, appendix C).

    The last layer has no bias, as in the authors' code.
    """
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim, bias=False),
    )


def regression_loss(prediction: Tensor, projection: Tensor) -> Tensor:
    """2 - 2 cos(prediction, projection): (N, D), (N, D) -> (N,), each in 0..4 (equation 2).

    Computes in float32, whatever the precision of the network.
    """
    return 2 - 2 * F.cosine_similarity(prediction.float(), projection.float(), dim=1)


def spread(projection: Tensor) -> Tensor:
    """Measure how widely the normalised projections (N, D) are spread: a scalar.

    The standard deviation over the batch of each coordinate, averaged and scaled by sqrt(D):
    about 1 for directions drawn evenly from the sphere, 0 if all photos share one direction.
    """
    z = F.normalize(projection.detach().float(), dim=1)
    return z.std(dim=0).mean() * z.shape[1] ** 0.5


def frozen_copy(module: nn.Module) -> nn.Module:
    """Copy a module with its weights. The copy takes no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target = tau * target + (1 - tau) * online (equation 1).

    Parameters only: the running statistics of the target's BatchNorm are its own.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1.0 - tau)
