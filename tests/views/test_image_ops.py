"""Each operation against torchvision's, one image at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from byol.views import image_ops


def smooth(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth random images in 0..1, (count, 3, height, width)."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def rows_first(images: Tensor) -> Tensor:
    """(B, 3, H, W) to the operations' (B, H, 3, W), as a copy."""
    return images.transpose(1, 2).contiguous()


def rough(count: int, size: int) -> Tensor:
    """Smooth images with, in the corner, noise, greys, black, white and pure colours."""
    images = smooth(count, size, size)
    images[:, :, :8, :8] = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images[:, :, 8:12, :8] = torch.linspace(0, 1, 8)
    primaries = torch.tensor([[1, 0, 0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 1, 0, 1]]).float()
    images[:, :2, 12:14, :8] = primaries[:, None]
    images[:, 2, 12:14, :8] = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1]).float()
    return images


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """Ours (B, H, 3, W) is theirs (B, 3, H, W)."""
    torch.testing.assert_close(ours.transpose(1, 2), theirs, atol=tolerance, rtol=0)


def per_image(operation, images: Tensor, *parameters) -> Tensor:
    rows = zip(images, *parameters, strict=True)
    return torch.stack([operation(image, *row) for image, *row in rows])


@pytest.mark.parametrize("target", [24, 40, 64, 97])
@pytest.mark.parametrize("mirrored", [False, True])
def test_resize_is_torchvisions_resized_crop(target: int, mirrored: bool) -> None:
    source = 64
    boxes = [(0, 0, 64, 64), (3, 7, 50, 41), (30, 5, 9, 59), (63, 63, 1, 1), (0, 20, 33, 2)]
    images = smooth(len(boxes), source, source)
    theirs = torch.stack(
        [
            reference.resized_crop(
                image, *box, [target, target], InterpolationMode.BICUBIC, antialias=True
            )
            for image, box in zip(images, boxes, strict=True)
        ]
    )
    if mirrored:
        theirs = theirs.flip(3)
    box = torch.tensor(boxes, dtype=torch.float32)
    first, last = box[:, :2], box[:, :2] + box[:, 2:]
    start, step = first.clone(), (last - first) / target
    if mirrored:
        start[:, 1], step[:, 1] = last[:, 1], -step[:, 1]
    matrices = image_ops.resize_matrices(start, step, first, last, source, target)
    assert matrices.shape == (len(boxes), 2, target, source)
    close(image_ops.transform(rows_first(images), matrices[:, 0], matrices[:, 1]), theirs)


def test_resize_keeps_a_ramp_with_fractional_edges() -> None:
    """A photo of 90 pixels squeezed to 60: the crop 10.5..70.5 of it shows the ramp's same part."""
    source, target, start, extent = 60, 40, 7.0 + 1 / 3, 40.0
    ramp = (torch.arange(source) + 0.5) / source
    edges = torch.tensor([start]), torch.tensor([start + extent])
    step = torch.tensor([extent / target])
    matrix = image_ops.resize_matrices(
        edges[0], step, edges[0].floor(), edges[1].ceil(), source, target
    )
    expected = (start + step * (torch.arange(target) + 0.5)) / source
    middle = slice(3, -3)  # near the box's edges the missing taps bend a ramp
    torch.testing.assert_close((matrix[0] @ ramp)[middle], expected[middle], atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(1, target))
    outside = torch.ones(source, dtype=torch.bool)
    outside[7:48] = False
    assert not matrix[0][:, outside].any()


def test_same_size_resize_is_the_identity() -> None:
    zero, full = torch.zeros(1), torch.full((1,), 32.0)
    matrix = image_ops.resize_matrices(zero, torch.ones(1), zero, full, 32, 32)
    torch.testing.assert_close(matrix[0], torch.eye(32), atol=1e-6, rtol=0)


FACTORS = torch.tensor([0.0, 0.6, 0.93, 1.0, 1.27, 1.4])


@pytest.mark.parametrize(
    ("operation", "grey", "mean"),
    [
        (reference.adjust_brightness, 0.0, 0.0),
        (reference.adjust_contrast, 0.0, 1.0),
        (reference.adjust_saturation, 1.0, 0.0),
    ],
)
def test_blends_are_torchvisions(operation, grey: float, mean: float) -> None:
    images = rough(len(FACTORS), 32)
    theirs = per_image(operation, images, FACTORS.tolist())
    others = (1 - FACTORS) * grey, (1 - FACTORS) * mean
    close(image_ops.blend_(rows_first(images), FACTORS, *others), theirs)


def test_grayscale_is_torchvisions_and_neutral_rows_keep_their_bits() -> None:
    images = rough(2, 32)
    keep, to_grey = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    ours = image_ops.blend_(rows_first(images), keep, to_grey, torch.zeros(2))
    close(ours[:1], reference.rgb_to_grayscale(images[:1], 3))
    assert torch.equal(ours[0, :, 0], ours[0, :, 1])
    assert torch.equal(ours[0, :, 0], ours[0, :, 2])
    assert torch.equal(ours[1], rows_first(images)[1])


def test_hue_is_torchvisions() -> None:
    turns = torch.tensor([-0.5, -0.31, -0.1, 0.0, 0.04, 0.1, 0.25, 0.5])
    images = rough(len(turns), 32)
    theirs = per_image(reference.adjust_hue, images, turns.tolist())
    close(image_ops.shift_hue_(rows_first(images), turns), theirs)


def test_hue_keeps_the_bits_of_grey_pixels() -> None:
    images = rows_first(smooth(3, 16, 16)[:, :1].repeat(1, 3, 1, 1))
    ours = image_ops.shift_hue_(images.clone(), torch.tensor([-0.5, 0.1, 0.5]))
    assert torch.equal(ours, images)


@pytest.mark.parametrize(("size", "radius"), [(64, 3), (150, 7), (32, 1), (24, 0)])
def test_blur_is_torchvisions(size: int, radius: int) -> None:
    sigmas = torch.tensor([0.03, 0.1, 0.29, 0.57, 1.0, 1.34, 2.0])
    images = rough(len(sigmas), size)
    kernel = [2 * radius + 1] * 2
    theirs = per_image(lambda x, s: reference.gaussian_blur(x, kernel, [s, s]), images, sigmas)
    matrices = image_ops.blur_matrices(sigmas, radius, size)
    close(image_ops.transform(rows_first(images), matrices, matrices), theirs)


def test_blur_has_no_subnormal_weights() -> None:
    weights = image_ops.blur_matrices(torch.linspace(0.02, 2, 200), 7, 30)
    assert weights[weights != 0].min() > 1e-13


def test_a_mirroring_and_a_transposition_are_torchs_quarter_turns() -> None:
    images = rough(3, 32)
    which = torch.tensor([True, False, True])
    for mirrored, turns in ((images.flip(3), 1), (images.flip(2), 3)):
        ours = image_ops.transpose(rows_first(mirrored), which).transpose(1, 2)
        assert torch.equal(ours[which], torch.rot90(images, turns, (2, 3))[which])
        assert torch.equal(ours[1], mirrored[1])


def test_solarize_is_torchvisions_or_nothing() -> None:
    images = rough(2, 32)
    images[:, :, 0, :3] = torch.tensor([0.5, np.nextafter(np.float32(0.5), 0), 0.50001])
    ours = image_ops.solarize_(rows_first(images), torch.tensor([1.0, 3.0]))
    assert torch.equal(ours[0], rows_first(reference.solarize(images[:1], 0.5))[0])
    assert torch.equal(ours[1], rows_first(images)[1])
