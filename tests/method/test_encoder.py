"""The encoder is torchvision's, under torchvision's names."""

import pytest
import torch
import torchvision
from torch import nn

from byol.encoder import Encoder


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
def test_weights_load_into_torchvision_missing_only_the_classifier(arch):
    encoder = Encoder(arch)
    model = getattr(torchvision.models, arch)()
    missing, unexpected = model.load_state_dict(encoder.state_dict(), strict=False)
    assert sorted(missing) == ["fc.bias", "fc.weight"]
    assert unexpected == []

    model.fc = nn.Identity()
    model.eval()
    encoder.eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(images), model(images), atol=1e-4, rtol=1e-4)
    assert encoder(images).shape == (2, encoder.dim)


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
def test_training_it_is_training_torchvisions_to_the_bit(amp):
    """Features, gradients and running statistics; ReLU here comes after the pool."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # of either sign, as after training
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    encoder = Encoder()
    encoder.load_state_dict({k: v for k, v in model.state_dict().items() if "fc" not in k})
    model.fc = nn.Identity()
    images = torch.randn(4, 3, 32, 32)
    features = []
    for network in (model, encoder):
        network.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            features.append(network(images))
        features[-1].float().square().sum().backward()
    assert torch.equal(*features)
    for (name, a), b in zip(model.named_parameters(), encoder.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(model.named_buffers(), encoder.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_cifar_stem_keeps_the_resolution():
    encoder = Encoder("resnet18", "cifar")
    x = torch.randn(2, 3, 32, 32)
    assert encoder.maxpool(encoder.conv1(x)).shape == (2, 64, 32, 32)
    assert encoder(x).shape == (2, 512)
