"""A folder of drawings with checkpoints of narrow encoders, and an empty folder to work in."""

from __future__ import annotations

from pathlib import Path

import pytest
from narrow_encoder import narrow, write_encoder


@pytest.fixture(scope="session")
def world(photos, cache, tmp_path_factory) -> Path:
    """A folder of `photos`, and one checkpoint for each kind of losses, of narrow encoders."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "photos").symlink_to(photos)
    colours = {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOL_CACHE", str(cache))
        narrow(patch)
        for seed, losses in enumerate(("classic", "multi")):
            about = {"losses": losses, "labels": 0, "seed": seed, **colours}
            write_encoder(folder / f"{losses}.pt", folder / "photos", **about)
    return folder
