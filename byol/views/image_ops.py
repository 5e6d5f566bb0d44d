"""Image operations on a batch in which every image has its own parameters.

Images are float32 in 0..1 and lie as (B, H, 3, W): rows, channels, columns. In that order a
resize or a blur of a whole image is two plain matrix products, because the rows are one matrix
(H, 3*W) and the columns another (H*3, W), and neither needs a copy.

The definitions are torchvision's. Parameters are tensors on the images' device, one entry per
image, so nothing here waits for an accelerator. All matrix products follow the process-wide
float32 precision: with TF32 allowed they are exact to about 1e-3, a quarter of a grey level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale


def cubic(x: Tensor) -> Tensor:
    """Keys's cubic kernel with A = -0.5, as PIL and torch take it when antialiasing; x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def resize_matrices(
    start: Tensor, box_step: Tensor, first: Tensor, last: Tensor, stored_side: int, view_side: int
) -> Tensor:
    """Antialiased bicubic interpolation of one box per entry, as dense matrices.

    start: (...) the begin of the box, in pixels; on a mirrored axis, its end.
    box_step: (...) stored pixels per view pixel, negative on a mirrored axis; |box_step| <= the
        larger of 1 and stored_side / view_side.
    first, last: (...) the stored pixels first..last-1 belong to the box, others get no weight.
    Returns (..., view_side, stored_side), rows summing to 1.
    """
    reach = 2 * max(stored_side / view_side, 1.0)
    taps = math.ceil(2 * reach) + 1
    start, box_step, first, last = (t[..., None, None] for t in (start, box_step, first, last))
    middle = torch.arange(view_side, device=start.device, dtype=torch.float32)[:, None] + 0.5
    centre = start + box_step * middle  # (..., view_side, 1)
    stretch = box_step.abs().clamp(min=1)
    lowest = (centre - 0.5 - 2 * stretch).ceil()
    pixel = lowest + torch.arange(taps, device=start.device)  # (..., view_side, taps)
    weight = cubic((pixel + 0.5 - centre).abs() / stretch)
    weight = weight * ((pixel >= first) & (pixel < last))
    weight = weight / weight.sum(-1, keepdim=True)
    # A window reaches at most `taps` pixels beyond an edge; its weights are zero there.
    padded = weight.new_zeros(*weight.shape[:-1], stored_side + 2 * taps)
    padded.scatter_(-1, pixel.long() + taps, weight)
    return padded[..., taps : taps + stored_side]


def blur_matrices(sigma: Tensor, radius: int, size: int) -> Tensor:
    """Gaussian blur with reflected borders along one axis, as dense matrices.

    sigma: (B,) in pixels, above 0. radius < size; the kernel has 2 * radius + 1 taps.
    Returns (B, size, size), rows summing to 1.
    """
    offset = torch.arange(-radius, radius + 1, device=sigma.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernel = kernel * (kernel > 1e-12)  # subnormal weights would make a CPU's products slow
    kernel = kernel / kernel.sum(1, keepdim=True)
    spread = kernel.new_zeros(len(sigma), 2 * (size + radius) - 1)
    spread[:, size - 1 : size + 2 * radius] = kernel
    band = spread.unfold(1, size + 2 * radius, 1).flip(1)  # row i has its kernel at column i
    inside = band[:, :, radius : radius + size]
    if radius:
        inside[:, :, 1 : radius + 1] += band[:, :, :radius].flip(2)
        inside[:, :, size - 1 - radius : size - 1] += band[:, :, radius + size :].flip(2)
    return inside


def transform(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute rows @ image @ columns^T in every channel.

    images: (B, H, 3, W), rows: (B, h, H), columns: (B, w, W). Returns (B, h, 3, w).
    """
    count, height, channels, width = images.shape
    tall = torch.bmm(rows, images.reshape(count, height, channels * width))
    wide = torch.bmm(tall.view(count, -1, width), columns.mT)
    return wide.view(count, rows.shape[1], channels, columns.shape[1])


def transpose(images: Tensor, which: Tensor) -> Tensor:
    """Swap rows and columns of the images where `which` (B,) is true; others keep their bits.

    images: (B, S, 3, S). After a mirroring of the columns it is a quarter turn to the left, after
    one of the rows a quarter turn to the right.
    """
    return torch.where(which[:, None, None, None], images.transpose(1, 3), images).contiguous()


def grey(images: Tensor) -> Tensor:
    """Brightness as the eye weighs it. (B, H, 3, W) to (B, H, W)."""
    red, green, blue = images.unbind(2)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def blend_(images: Tensor, keep: Tensor, to_grey: Tensor, to_mean: Tensor) -> Tensor:
    """Set images = clip(keep * image + to_grey * grey + to_mean * mean of grey), in place.

    With a factor f, brightness is (f, 0, 0), contrast (f, 0, 1 - f), saturation (f, 1 - f, 0),
    grayscale (0, 1, 0); (1, 0, 0) leaves an image's bits as they are. The three are (B,).
    """
    other = grey(images)
    keep, to_grey, to_mean = (t[:, None, None] for t in (keep, to_grey, to_mean))
    mean = other.mean((1, 2), keepdim=True)
    other = other.mul_(to_grey).add_(mean * to_mean)
    return images.mul_(keep[..., None]).add_(other[:, :, None]).clamp_(0, 1)


def shift_hue_(images: Tensor, turn: Tensor) -> Tensor:
    """Rotate the hue by `turn` (B,), a fraction of the circle in -0.5..0.5, in place.

    HSV in closed form: with value v, chroma c and hue h (in turns), channel n of (5, 3, 1) is
    v - c * clip(min(k, 4 - k), 0, 1), k = (n + 6h) mod 6. Pixels without colour keep their bits.
    The hue is found by sorting the channels, as h = |sector + (second - third) / 6c|.
    """
    red, green, blue = images.unbind(2)
    high, third = torch.maximum(green, blue), torch.minimum(green, blue)
    value, second = torch.maximum(red, high), torch.minimum(red, high)
    blue_first = blue.gt(green).to(images.dtype)
    red_beaten = high.gt_(red)
    chroma = value - torch.minimum(second, third)
    lowest = value.sub_(chroma, alpha=2)
    chroma.mul_(6)
    # sector: red over all 0 or -1, green over red -1/3, blue over red 2/3
    hue = second.sub_(third).div_(chroma.clamp(min=1e-8)).sub_(blue_first)
    hue = hue.addcmul_(red_beaten, blue_first.mul_(2).sub_(1 / 3)).abs_()
    hue = hue.add_(turn[:, None, None] + 1)
    # min(k, 4 - k) = 2 - |k - 2|, so the channel is (v - 2c) + c * clip(|k - 2|, 1, 2)
    channel = torch.arange(5, -1, -2, device=images.device)[:, None] / 6
    torch.add(hue[:, :, None], channel, out=images)
    images.frac_().sub_(1 / 3).abs_().clamp_(1 / 6, 1 / 3)
    return images.mul_(chroma[:, :, None]).add_(lowest[:, :, None])


def solarize_(images: Tensor, lift: Tensor) -> Tensor:
    """Invert what is at or above 0.5, in place: min(x, lift - x), with lift (B,) = 1.

    With lift = 3 an image keeps its bits.
    """
    return torch.minimum(images, lift[:, None, None, None] - images, out=images)
