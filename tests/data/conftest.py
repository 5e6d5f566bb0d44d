"""Shared by the tests of the data."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of packed photos of the test's own, which is not there yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BYOL_CACHE", str(folder))
    return folder
