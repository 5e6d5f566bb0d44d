"""Inner blocks of the encoder: what they give, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from byol.encoder import Encoder, _average_cells, check_inner_blocks
from byol.errors import UserError

BLOCKS = {"layer3.0": 2, "layer2.0": 4}


def torchvision_maps(encoder, images, names):
    """The maps that torchvision's own model has at these blocks."""
    model = torchvision.models.resnet18()
    model.load_state_dict(encoder.state_dict(), strict=False)
    model.train(encoder.training)
    nodes = {name: name for name in names}
    extractor = create_feature_extractor(model, train_return_nodes=nodes, eval_return_nodes=nodes)
    return extractor(images)


def test_at_32_px_the_inner_blocks_are_the_flattened_maps():
    """The second system's features: 256 * 2 * 2 = 1024 and 128 * 4 * 4 = 2048."""
    encoder = Encoder().eval()
    images = torch.randn(3, 3, 32, 32)
    outputs = encoder.outputs(images, BLOCKS)
    assert list(outputs) == ["avgpool", "layer3.0", "layer2.0"]
    assert encoder.widths(BLOCKS) == {"avgpool": 512, "layer3.0": 1024, "layer2.0": 2048}
    assert {k: v.shape[1] for k, v in outputs.items()} == encoder.widths(BLOCKS)
    torch.testing.assert_close(outputs["avgpool"], encoder(images))
    for name, maps in torchvision_maps(encoder, images, BLOCKS).items():
        torch.testing.assert_close(outputs[name], maps.flatten(1), atol=1e-5, rtol=1e-4)


def test_larger_maps_are_averaged_to_the_grid():
    """At 150 px the maps have 19 x 19 and 10 x 10 places; the heads stay as small as at 32 px."""
    encoder = Encoder().eval()
    images = torch.randn(1, 3, 150, 150)
    outputs = encoder.outputs(images, BLOCKS)
    maps = torchvision_maps(encoder, images, BLOCKS)
    assert maps["layer2.0"].shape[2:] == (19, 19)
    for name, grid in BLOCKS.items():
        expected = F.adaptive_avg_pool2d(maps[name], grid).flatten(1)
        torch.testing.assert_close(outputs[name], expected, atol=1e-5, rtol=1e-4)
        assert outputs[name].shape[1] == encoder.widths(BLOCKS)[name]
    # one cell of the grid by hand
    corner = maps["layer3.0"][:, 0, :5, :5].mean((1, 2))
    torch.testing.assert_close(outputs["layer3.0"][:, 0], corner, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("side", "grid"), [(19, 4), (10, 2), (8, 4), (7, 5), (5, 5), (9, 1)])
def test_cell_by_cell_is_adaptive_pooling(side, grid):
    """Also the gradient, for which --deterministic takes it on CUDA."""
    maps = torch.randn(2, 3, side, side + 1, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, grid, grid, dtype=torch.float64)
    results = []
    for pool in (_average_cells, F.adaptive_avg_pool2d):
        pooled = pool(maps, grid)
        results.append((pooled, *torch.autograd.grad((pooled * weights).sum(), maps)))
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("side", [32, 45])
def test_check_inner_blocks_knows_the_side_of_every_map(arch, stem, side):
    sides = {}
    with torch.device("meta"):  # shapes alone
        encoder = Encoder(arch, stem).eval()
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for number, block in getattr(encoder, stage).named_children():
                block.register_forward_hook(
                    lambda m, i, out, name=f"{stage}.{number}": sides.update({name: out.shape[-1]})
                )
        encoder(torch.empty(1, 3, side, side))
    assert len(sides) == (8 if arch == "resnet18" else 16)
    for name, largest in sides.items():
        check_inner_blocks({name: largest}, arch, stem, side)
        with pytest.raises(UserError, match=f"{name}: its map is {largest} x {largest}"):
            check_inner_blocks({name: largest + 1}, arch, stem, side)


@pytest.mark.parametrize("name", ["layer2.7", "layer5.0", "avgpool", "layer2", "layer1.00"])
def test_a_block_that_is_not_there(name):
    with pytest.raises(UserError, match="no block"):
        check_inner_blocks({name: 1}, "resnet18", "imagenet", 32)
