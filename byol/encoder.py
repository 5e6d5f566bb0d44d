"""The encoder f: a torchvision ResNet without its classifier, from random weights."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from byol.small_maps import use_patches

ARCHITECTURES = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
STEMS = ("imagenet", "cifar")


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
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.maxpool(x)  # (N, 64, H/4, W/4)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)  # (N, dim, H/32, W/32)
        return self.avgpool(x).flatten(1)  # (N, dim)
