"""The encoder f: a torchvision ResNet without its classifier, from random weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from byol.errors import UserError

ARCHITECTURES = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
STEMS = ("imagenet", "cifar")
AVGPOOL = "avgpool"  # the representation: the output that is always there
STAGES = ("layer1", "layer2", "layer3", "layer4")


class Encoder(ResNet):
    """torchvision's ResNet up to the average pool. The names of its weights are torchvision's.

    stem "imagenet": 7x7 convolution of stride 2 and a max-pool (torchvision's own).
    stem "cifar": 3x3 convolution of stride 1 and no max-pool, for images of about 32 px.

    `forward(images)`: (N, 3, H, W) normalised -> representation (N, dim). dim is 512 (resnet18,
    resnet34) or 2048 (resnet50).
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

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images, {})[AVGPOOL]

    def outputs(self, images: Tensor, inner_blocks: dict[str, int]) -> dict[str, Tensor]:
        """Compute the representation, and the outputs of inner blocks on the way to it.

        `inner_blocks` maps the name of a block to the side of a grid: {"layer2.0": 4}. The map of
        the block is averaged to that grid and flattened channel by channel. Returns
        {"avgpool": (N, dim), "layer2.0": (N, C * 4 * 4), ...}; `widths` tells the widths.
        """
        inner = {}
        x = self.maxpool(self.bn1(self.conv1(images)))  # ReLU after it: the same, on fewer numbers
        x = self.relu(x)  # (N, 64, H/4, W/4); with the cifar stem (N, 64, H, W)
        for stage in STAGES:
            for depth, block in enumerate(getattr(self, stage)):
                x = block(x)
                name = f"{stage}.{depth}"
                if name in inner_blocks:
                    inner[name] = _pool(x, inner_blocks[name]).flatten(1)
        representation = self.avgpool(x).flatten(1)  # (N, dim)
        return {AVGPOOL: representation, **{name: inner[name] for name in inner_blocks}}

    def widths(self, inner_blocks: dict[str, int]) -> dict[str, int]:
        """Count the numbers that an image has in each of `outputs`."""
        channels = {name: _channels(self.get_submodule(name)) for name in inner_blocks}
        widths = {name: channels[name] * grid**2 for name, grid in inner_blocks.items()}
        return {AVGPOOL: self.dim, **widths}


def _pool(x: Tensor, grid: int) -> Tensor:
    """Average a map to a grid. A map that has that size already stays as it is: that saves time."""
    if tuple(x.shape[2:]) == (grid, grid):
        return x
    # the gradient of the other has no deterministic version, and MPS lacks it for uneven cells
    if x.is_mps or (x.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return _average_cells(x, grid)
    return F.adaptive_avg_pool2d(x, grid)


def _average_cells(x: Tensor, grid: int) -> Tensor:
    """Do what `F.adaptive_avg_pool2d` does, cell by cell: (N, C, H, W) -> (N, C, grid, grid)."""
    rows, columns = (
        [slice(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)]
        for side in x.shape[2:]
    )
    cells = [x[:, :, i, j].mean((2, 3)) for i in rows for j in columns]
    return torch.stack(cells, dim=2).unflatten(2, (grid, grid))


def _channels(block: nn.Module) -> int:
    return (block.bn3 if isinstance(block, Bottleneck) else block.bn2).num_features


def check_inner_blocks(inner_blocks: dict[str, int], arch: str, stem: str, side: int) -> None:
    """Raise `UserError` for a block that is not there, or whose map is smaller than its grid.

    `side` is that of the encoder's input, in pixels.
    """
    blocks = dict(zip(STAGES, ARCHITECTURES[arch][1], strict=True))
    names = [f"{stage}.{depth}" for stage in STAGES for depth in range(blocks[stage])]
    first_map = side if stem == "cifar" else -(-side // 4)
    for name, grid in inner_blocks.items():
        if name not in names:
            raise UserError(
                f"inner_blocks: {arch} has no block {name!r}; choose from {', '.join(names)}"
            )
        of_map = -(-first_map // 2 ** STAGES.index(name.split(".")[0]))
        if grid > of_map:
            raise UserError(
                f"inner_grids {grid} of {name}: its map is {of_map} x {of_map} at {side} pixels; "
                "give a smaller grid or larger images"
            )
