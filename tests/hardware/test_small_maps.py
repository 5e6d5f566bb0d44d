"""Convolutions on small maps as products, against torch's own."""

import pytest
import torch
from torch import nn

from byol.hardware import small_maps
from byol.hardware.small_maps import PatchConv2d


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0)])
def test_patch_convolution_equals_convolution(side, kernel, stride, pad):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 10, kernel, stride, pad, bias=False)
    patch = nn.Conv2d(6, 10, kernel, stride, pad, bias=False)
    patch.load_state_dict(plain.state_dict())
    small_maps.use_patches(patch)
    assert type(patch) is PatchConv2d

    x = torch.randn(4, 6, side, side, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    expected, got = plain(x), patch(y)
    torch.testing.assert_close(got, expected)
    direction = torch.randn_like(expected)
    (expected * direction).sum().backward()
    (got * direction).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(patch.weight.grad, plain.weight.grad)


def test_convolutions_that_patches_cannot_serve_are_left_alone():
    layers = nn.Sequential(
        nn.Conv2d(4, 4, 3, bias=True),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, dilation=2, bias=False),
    )
    small_maps.use_patches(layers)
    assert all(type(layer) is nn.Conv2d for layer in layers)


def test_up_to_sets_the_largest_map_and_puts_it_back():
    before = small_maps.MAX_SIDE
    with small_maps.up_to(0):
        assert small_maps.MAX_SIDE == 0
    assert before == small_maps.MAX_SIDE
