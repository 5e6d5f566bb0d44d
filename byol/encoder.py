"""The encoder f: a torchvision ResNet without its classifier, from random weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from byol.errors import UserError
from byol.small_maps import use_patches

ARCHITECTURES = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
STEMS = ("imagenet", "cifar")
AVGPOOL = "avgpool"  # the output that is always there
STAGES = ("layer1", "layer2", "layer3", "layer4")


class Encoder(ResNet):
    """torchvision's ResNet up to the average pool; the names of its weights are torchvision's.

    stem "imagenet": 7x7 convolution of stride 2 and a max-pool (torchvision's own).
    stem "cifar": 3x3 convolution of stride 1 and no max-pool, for images of about 32 px.

    `forward(images)`: (N, 3, H, W) normalised -> representation (N, dim), where dim is 512
    (resnet18, resnet34) or 2048 (resnet50).
    """

    def __init__(self, arch: str = "resnet18", stem: str = "imagenet"):
        block, layers = ARCHITECTURES[arch]
        super().__init__(block, layers)
        self.dim = self.fc.in_features
        del self.fc  # the state dict then lacks fc.weight and fc.bias, and nothing else
        if stem == "cifar":
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()
        use_patches(self)  # the same weights and sums, faster on the CPU at small sizes

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images, {})[AVGPOOL]

    def outputs(self, images: Tensor, taps: dict[str, int]) -> dict[str, Tensor]:
        """The representation, and the output of inner blocks on the way to it.

        `taps` maps a block's name to the side of the grid that its map is averaged to:
        {"layer2.0": 4}. Returns {"avgpool": (N, dim), "layer2.0": (N, C * 4 * 4), ...} with the
        widths that `widths` tells; a map is flattened channel by channel.
        """
        inner = {}
        x = self.maxpool(self.bn1(self.conv1(images)))  # ReLU after it: the same, on fewer numbers
        x = self.relu(x)  # (N, 64, H/4, W/4); with the cifar stem (N, 64, H, W)
        for stage in STAGES:
            for number, block in enumerate(getattr(self, stage)):
                x = block(x)
                name = f"{stage}.{number}"
                if name in taps:
                    inner[name] = _pool(x, taps[name]).flatten(1)
        representation = self.avgpool(x).flatten(1)  # (N, dim)
        return {AVGPOOL: representation, **{name: inner[name] for name in taps}}

    def widths(self, taps: dict[str, int]) -> dict[str, int]:
        """How many numbers an image has in each of `outputs`."""
        channels = {name: _channels(self.get_submodule(name)) for name in taps}
        return {AVGPOOL: self.dim, **{name: channels[name] * taps[name] ** 2 for name in taps}}


def _pool(x: Tensor, grid: int) -> Tensor:
    """Averaged to a grid; as it is where it has that size already, which saves time."""
    if tuple(x.shape[2:]) == (grid, grid):
        return x
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return _average_cells(x, grid)  # the gradient of the other has no deterministic version
    return F.adaptive_avg_pool2d(x, grid)


def _average_cells(x: Tensor, grid: int) -> Tensor:
    """`F.adaptive_avg_pool2d`, cell by cell: (N, C, H, W) -> (N, C, grid, grid)."""
    rows, columns = (
        [slice(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)]
        for side in x.shape[2:]
    )
    cells = [x[:, :, i, j].mean((2, 3)) for i in rows for j in columns]
    return torch.stack(cells, dim=2).unflatten(2, (grid, grid))


def _channels(block: nn.Module) -> int:
    return (block.bn3 if isinstance(block, Bottleneck) else block.bn2).num_features


def check_taps(taps: dict[str, int], arch: str, stem: str, image_size: int) -> None:
    """Raises `UserError` for a block that is not there or whose map is smaller than its grid."""
    blocks = dict(zip(STAGES, ARCHITECTURES[arch][1], strict=True))
    names = [f"{stage}.{number}" for stage in STAGES for number in range(blocks[stage])]
    side = image_size if stem == "cifar" else -(-image_size // 4)
    for name, grid in taps.items():
        if name not in names:
            raise UserError(f"taps: {arch} has no block {name!r}; choose from {', '.join(names)}")
        of_map = -(-side // 2 ** STAGES.index(name.split(".")[0]))
        if grid > of_map:
            raise UserError(
                f"tap_grid {grid} of {name}: its map is {of_map} x {of_map} at image size "
                f"{image_size}; give a smaller grid or larger images"
            )
