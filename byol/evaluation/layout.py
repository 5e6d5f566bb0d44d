"""Where the photos of a map lie: t-SNE if scikit-learn is installed, else PCA."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from byol.evaluation.similarity import principal_axes

MOST_BY_TSNE = 1_000  # photos, for a map that nobody should wait for


def find_tsne():
    """Import scikit-learn's t-SNE; None if it is not installed."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    return TSNE


def lay_out(features: Tensor, tsne=None) -> np.ndarray:
    """Give each row of features (N, D) a place: (N, 2), by t-SNE, or by PCA if `tsne` is None."""
    if tsne is None:
        return principal_axes(features, 2).cpu().numpy()
    narrow = principal_axes(features, min(50, *features.shape)).cpu().numpy()
    perplexity = min(30, (len(narrow) - 1) / 3)
    return tsne(perplexity=perplexity, init="pca", random_state=0).fit_transform(narrow)
