"""What the tests of benchmarks and experiments share."""

import pytest
from torchvision.models.resnet import BasicBlock, Bottleneck

from byol.encoder import ARCHITECTURES


@pytest.fixture
def few_layers(monkeypatch):
    """A block in each stage of a ResNet: the tests are of what is around it."""
    monkeypatch.setitem(ARCHITECTURES, "resnet18", (BasicBlock, [1, 1, 1, 1]))
    monkeypatch.setitem(ARCHITECTURES, "resnet50", (Bottleneck, [1, 1, 1, 1]))
