"""The random views: what is drawn, and that the chain is torchvision's for the same draws."""

import dataclasses
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from byol.hardware.batches import Batch
from byol.views.augment import Augment, TwoViews, central_view
from byol.views.draws import CONTRAST, HUE, SATURATION, Draws, draw, uniforms
from byol.views.recipes import CROP_AND_FLIP, RECIPES, View, adjust_recipe, in_grey
from byol.views.render import chunks, plan_views, render
from data.decode import decode
from data.shape import stored_shape

MEAN, STD = (0.5, 0.4, 0.45), (0.25, 0.2, 0.22)
MANY = 20_000
EVERYTHING = View(
    jitter=0.8, hue=0.5, grayscale=0.3, blur=0.5, solarize=0.4, vertical_flip=0.4, quarter_turn=0.7
)


def smooth(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth random uint8 images (count, 3, height, width)."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def squares(count: int, side: int) -> np.ndarray:
    return np.full((count, 2), side)


def many(view: View, view_index: int = 0, seed: int = 0, step: int = 0, size=(300, 400)) -> Draws:
    return draw(view, view_index, seed, step, np.arange(MANY), np.tile(size, (MANY, 1)))


def torchvision_chain(image: Tensor, draws: Draws, row: int, size: int) -> Tensor:
    """One image of a square store at its original size, (3, S, S), through torchvision."""
    x = image.float() / 255
    box = draws.crop[row].tolist()
    bicubic = InterpolationMode.BICUBIC
    x = reference.resized_crop(x, *box, [size, size], bicubic, antialias=True).clamp(0, 1)
    if draws.flip[row]:
        x = reference.hflip(x)
    if draws.vertical_flip[row]:
        x = reference.vflip(x)
    x = torch.rot90(x, int(draws.quarter_turns[row]), (1, 2))
    adjustments = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )
    for kind in draws.order[row] if draws.jitter[row] else ():
        x = adjustments[kind](x, float(draws.factors[row, kind]))
    if draws.grayscale[row]:
        x = reference.rgb_to_grayscale(x, 3)
    if draws.sigma[row] > 0:
        sigma = draws.sigma[row] * size / 224
        x = reference.gaussian_blur(x, [size // 10 // 2 * 2 + 1] * 2, [sigma, sigma])
    if draws.solarize[row]:
        x = reference.solarize(x, 0.5)
    return reference.normalize(x.clamp(0, 1), MEAN, STD)


def assert_is_torchvisions(images: Tensor, draws: Draws, size: int) -> None:
    """The chain's views are within 1e-3 of the 0..1 range."""
    ours = render(images, draws, size, MEAN, STD)
    theirs = [torchvision_chain(image, draws, row, size) for row, image in enumerate(images)]
    difference = (ours - torch.stack(theirs)).abs() * torch.tensor(STD)[:, None, None]
    assert difference.max() < 1e-3


@pytest.mark.parametrize(("store", "size"), [(72, 64), (40, 64), (128, 48)])
@pytest.mark.parametrize(
    "view",
    [
        EVERYTHING,
        *RECIPES["photos"],
        RECIPES["cartoons"][0],
        RECIPES["any_way_up"][0],
        RECIPES["keep_colour"][1],
        in_grey(RECIPES["photos"][1]),
    ],
)
def test_chain_is_torchvisions(view: View, store: int, size: int) -> None:
    count = 24
    draws = draw(view, 0, 1, 2, np.arange(count), squares(count, store))
    assert_is_torchvisions(smooth(count, store, store), draws, size)


def test_chain_is_torchvisions_in_every_order() -> None:
    every = many(dataclasses.replace(EVERYTHING, jitter=1.0), size=(48, 48))
    _, rows = np.unique(every.order, axis=0, return_index=True)
    assert len(rows) == 24
    draws = Draws(*(getattr(every, field.name)[rows] for field in dataclasses.fields(Draws)))
    assert_is_torchvisions(smooth(24, 48, 48), draws, 40)


def test_chain_is_torchvisions_on_photos(real_photos) -> None:
    with zipfile.ZipFile(real_photos) as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")][:6]
        files = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    pixels = [np.asarray(photo.resize((180, 180), Image.Resampling.BICUBIC)) for photo in files]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    for view in RECIPES["photos"]:
        draws = draw(view, 0, 0, 0, np.arange(len(names)), squares(len(names), 180))
        assert_is_torchvisions(images, draws, 150)


def test_view_without_operations_is_the_normalised_image() -> None:
    images = smooth(9, 32, 32)
    view = View(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
    out = Augment(view, 0, 32, MEAN, STD, 0)(images, squares(9, 32), np.arange(9), 0)
    assert out.shape == (9, 3, 32, 32)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = reference.normalize(images / 255, MEAN, STD)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_an_operation_leaves_the_other_images_bits() -> None:
    """Every second image draws an operation; its neighbours in the chunk do not change at all."""
    images, never = smooth(16, 40, 40), np.zeros(16, bool)
    odd = np.arange(16) % 2 == 1
    plain = draw(View(flip=0.0), 0, 0, 0, np.arange(16), squares(16, 40))
    untouched = render(images, plain, 40, MEAN, STD)
    factors = np.tile([1.3, 0.7, 1.2, 0.2], (16, 1))
    for change in (
        {"jitter": odd, "factors": factors},
        {"grayscale": odd},
        {"sigma": odd * 2.0},
        {"solarize": odd},
        {"vertical_flip": odd},
        {"quarter_turns": odd * 1},
    ):
        draws = dataclasses.replace(plain, **{"jitter": never, **change})
        out = render(images, draws, 40, MEAN, STD, chunk=16)
        assert torch.equal(out[~odd], untouched[~odd])
        assert ((out - untouched)[odd].abs().amax((1, 2, 3)) > 1e-3).all()


def test_the_eight_positions_are_exact_and_alike() -> None:
    """A view that shows the whole photo at its size, in each position: not one bit is mixed."""
    images, none = smooth(1, 32, 32).repeat(8, 1, 1, 1), np.zeros(8, bool)
    draws = dataclasses.replace(
        draw(View(crop_scale=(1, 1), crop_ratio=(1, 1)), 0, 0, 0, np.arange(8), squares(8, 32)),
        flip=np.arange(8) >= 4,
        vertical_flip=none,
        quarter_turns=np.arange(8) % 4,
    )
    out = render(images, draws, 32, (0, 0, 0), (1, 1, 1))
    upright = render(images[:1], dataclasses.replace(
        draws, **{field.name: getattr(draws, field.name)[:1] for field in dataclasses.fields(draws)}
    ), 32, (0, 0, 0), (1, 1, 1))[0]  # fmt: skip
    for row, view in enumerate(out):
        expected = torch.rot90(upright.flip(2) if row >= 4 else upright, row % 4, (1, 2))
        assert torch.equal(view, expected)
    assert len({view.numpy().tobytes() for view in out}) == 8
    for view in RECIPES["any_way_up"]:
        positions = many(view)
        turned = positions.quarter_turns + 2 * positions.vertical_flip  # upside down is half a turn
        place = turned % 4 + 4 * (positions.flip ^ positions.vertical_flip)  # and a mirroring
        _, counts = np.unique(place, return_counts=True)
        assert abs(counts - MANY / 8).max() < 5 * np.sqrt(MANY / 8)


def test_new_operations_leave_the_draws_of_the_others_as_they_were() -> None:
    """Recorded values of the first version: a run that goes on sees the views that it saw."""
    draws = draw(RECIPES["photos"][1], 1, 3, 5, np.array([7, 8]), np.array([[90, 60], [64, 64]]))
    assert draws.crop.tolist() == [[24, 0, 64, 56], [11, 13, 29, 36]]
    assert draws.order.tolist() == [[0, 1, 3, 2], [3, 1, 0, 2]]
    factors = [
        [1.3034144370424252, 0.6958796849769957, 0.9163089512210417, -0.003604955312104763],
        [1.376668977340393, 1.3951074495500182, 1.1760693689211223, 0.081714821434822],
    ]
    np.testing.assert_allclose(draws.factors, factors, rtol=1e-12)
    assert (draws.flip.tolist(), draws.jitter.tolist()) == ([True, True], [True, False])
    assert not draws.vertical_flip.any()
    assert not draws.quarter_turns.any()


def test_crop_is_taken_in_the_photos_own_shape() -> None:
    """Photos of several shapes, squeezed to squares: a ramp over the photo stays the right ramp."""
    store, size = 96, 48
    sizes = np.array([[300, 400], [500, 375], [96, 96], [77, 310], [1000, 151]])
    ramp = (torch.arange(store) + 0.5) / store * 255
    across = ramp.expand(store, store)
    images = torch.stack([across, across.T, across]).round().to(torch.uint8).repeat(5, 1, 1, 1)
    draws = draw(View(crop_scale=(0.2, 1.0)), 0, 3, 0, np.arange(5), sizes)
    out = render(images, draws, size, (0, 0, 0), (1, 1, 1)).numpy()
    steps = (np.arange(size) + 0.5) / size
    for row, (top, left, height, width) in enumerate(draws.crop):
        columns = (left + width * (1 - steps if draws.flip[row] else steps)) / sizes[row, 1]
        rows = (top + height * steps) / sizes[row, 0]
        inside = slice(4, -4)
        assert abs(out[row, 0, 20] - columns)[inside].max() < 4e-3  # uint8 steps are 1/255
        assert abs(out[row, 1, :, 20] - rows)[inside].max() < 4e-3


def test_central_view_is_torchvisions_centre_crop() -> None:
    sizes = np.array([[200, 300], [320, 180], [240, 240]])
    size, store = 64, 128
    photos = [smooth(1, height, width, seed)[0] for seed, (height, width) in enumerate(sizes)]
    resize = {"interpolation": InterpolationMode.BICUBIC, "antialias": True}
    squeezed = torch.stack([reference.resize(photo, [store, store], **resize) for photo in photos])
    theirs = []
    for photo, side in zip(photos, sizes.min(1).tolist(), strict=True):
        square = reference.center_crop(photo.float() / 255, [side, side])
        square = reference.resize(square, [size, size], **resize).clamp(0, 1)
        theirs.append(reference.normalize(square, MEAN, STD))
    ours = central_view(squeezed, sizes, size, MEAN, STD)
    difference = (ours - torch.stack(theirs)).abs() * torch.tensor(STD)[:, None, None]
    assert difference.max() < 0.02  # the store was resized and rounded once more
    assert difference.mean() < 0.002


# ---- stored shapes that are no squares

WIDE, TALL = (40, 64), (64, 40)


def stored_wide(photos: list[Tensor]) -> Tensor:
    """Photos (3, H, W) as a store that is no square holds them: those that are tall transposed."""
    return torch.stack([photo.mT if photo.shape[1] > photo.shape[2] else photo for photo in photos])


@pytest.mark.parametrize("view", [View(), View((0.2, 1.0), (0.5, 2.0)), EVERYTHING])
@pytest.mark.parametrize("size", [24, 40, 56])
def test_views_of_wide_and_tall_photos_are_torchvisions(view: View, size: int, threads) -> None:
    sizes = np.array([WIDE, TALL, TALL, WIDE, (40, 40)] * 6)
    photos = [smooth(1, *shape, seed)[0] for seed, shape in enumerate(sizes.tolist())]
    sizes[4::5] = WIDE  # a square photo, stored wide: its own pixels are not square
    photos[4::5] = [reference.resize(photo, WIDE) for photo in photos[4::5]]
    draws = draw(view, 0, 1, 2, np.arange(len(photos)), sizes)
    ours = render(stored_wide(photos), draws, size, MEAN, STD)
    theirs = [torchvision_chain(photo, draws, row, size) for row, photo in enumerate(photos)]
    difference = (ours - torch.stack(theirs)).abs() * torch.tensor(STD)[:, None, None]
    assert difference.max() < (1e-3 if view is EVERYTHING else 1e-4)
    assert draws.flip.any()
    assert not draws.flip.all()


def test_a_tall_photos_view_is_the_wide_ones_transposed() -> None:
    """With the axes of its crop exchanged; both lie in the store as the same pixels."""
    images = smooth(12, *WIDE)
    wide = draw(View(flip=0.0), 0, 0, 0, np.arange(12), np.tile(WIDE, (12, 1)))
    tall = dataclasses.replace(wide, sizes=wide.sizes[:, ::-1], crop=wide.crop[:, [1, 0, 3, 2]])
    views = [render(images, draws, 32, MEAN, STD) for draws in (wide, tall)]
    assert torch.equal(views[0].mT, views[1])
    assert (views[0] - views[1]).abs().mean() > 0.1


def test_the_central_view_of_wide_and_tall_photos_is_torchvisions() -> None:
    photos = [smooth(1, *shape, seed)[0] for seed, shape in enumerate([WIDE, TALL] * 3)]
    ours = central_view(stored_wide(photos), np.array([WIDE, TALL] * 3), 32, MEAN, STD)
    theirs = torch.stack([
        reference.resize(reference.center_crop(photo.float() / 255, [40, 40]), [32, 32],
                         InterpolationMode.BICUBIC, antialias=True)
        for photo in photos
    ])  # fmt: skip
    expected = reference.normalize(theirs.clamp(0, 1), MEAN, STD)
    torch.testing.assert_close(ours, expected, atol=5e-4, rtol=0)


def fine_detail_kept(ours: Tensor, theirs: Tensor, dim: int) -> float:
    """How much of the differences between neighbours along `dim` of `theirs` is in `ours`."""
    ours, theirs = ours.diff(dim=dim), theirs.diff(dim=dim)
    return ((ours * theirs).sum() / theirs.square().sum()).item()


def like_a_photo(height: int, width: int) -> np.ndarray:
    """Noise with the spectrum of photos, 1 / frequency: uint8 (height, width, 3)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    white = np.random.default_rng(0).standard_normal((3, height, width))
    noise = np.fft.irfft2(np.fft.rfft2(white) / frequency, s=(height, width))
    pixels = 128 + 45 * noise / noise.std()
    return np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


@pytest.mark.parametrize("size", [(540, 960), (960, 540), (540, 810)])
def test_fine_detail_along_the_long_side_is_kept(size) -> None:
    """At 150 px from a store of 180 px, against torchvision's crop and resize of the file."""
    pixels, side, along = like_a_photo(*size), min(size), -1 if size[1] > size[0] else -2
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    square = reference.center_crop(torch.from_numpy(pixels).permute(2, 0, 1) / 255, [side, side])
    theirs = reference.resize(square, [150, 150], InterpolationMode.BICUBIC, antialias=True)

    def detail_kept(shape: tuple[int, int]) -> float:
        images = torch.from_numpy(decode(stream.getvalue(), shape)[0])[None]
        ours = central_view(images, np.array([size]), 150, (0, 0, 0), (1, 1, 1))[0]
        return fine_detail_kept(ours, theirs, along)

    assert detail_kept(stored_shape(np.array([size]), 180)) > 0.9
    assert detail_kept((180, 180)) < 0.75


def test_photos_in_grey_are_torchvisions_grayscale() -> None:
    images, sizes = smooth(4, 40, 40), squares(4, 40)
    grey = reference.rgb_to_grayscale(images.float() / 255, 3)
    ours = central_view(images, sizes, 40, (0, 0, 0), (1, 1, 1), "grey")
    torch.testing.assert_close(ours, grey, atol=1e-4, rtol=0)
    for view in map(in_grey, RECIPES["short"]):
        seen = Augment(view, 0, 32, (0, 0, 0), (1, 1, 1), 0)(images, sizes, np.arange(4), 0)
        assert torch.equal(seen[:, 0], seen[:, 1])
        assert torch.equal(seen[:, 0], seen[:, 2])
        # of photos that are grey already, colour has nothing to say
        stored = images[:, :1].repeat(1, 3, 1, 1)
        of_grey = Augment(view, 0, 32, MEAN, STD, 0)(stored, sizes, np.arange(4), 0)
        plain = dataclasses.replace(view, grayscale=0.0)
        as_stored = Augment(plain, 0, 32, MEAN, STD, 0)(stored, sizes, np.arange(4), 0)
        torch.testing.assert_close(of_grey, as_stored, atol=2e-3, rtol=0)


def test_crop_distribution_is_random_resized_crops() -> None:
    view, (height, width) = View(crop_scale=(0.08, 0.5)), (300, 400)
    top, left, tall, wide = many(view).crop.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    area = tall * wide / (height * width)
    ratio = np.log(wide / tall) / np.log(4 / 3)
    assert 0.079 < area.min() < 0.081
    assert 0.499 < area.max() < 0.503
    assert -1.03 < ratio.min() < -0.98
    assert 0.98 < ratio.max() < 1.03
    # Crops this small fit at the first attempt, so area and log-ratio are uniform.
    assert_uniform((area - 0.08) / 0.42)
    assert_uniform((ratio + 1) / 2)
    assert_uniform((top + 0.5) / (height - tall + 1), gap=0.02)
    assert_uniform((left + 0.5) / (width - wide + 1), gap=0.02)


def assert_uniform(values: np.ndarray, gap: float = 0.015) -> None:
    """Kolmogorov's distance from uniform on 0..1; 0.0115 has a chance of 1 % at 20,000 values."""
    expected = (np.arange(len(values)) + 0.5) / len(values)
    assert abs(np.sort(values) - expected).max() < gap


@pytest.mark.parametrize(
    ("size", "expected"), [((50, 400), (0, 166, 50, 67)), ((400, 50), (166, 0, 67, 50))]
)
def test_crop_falls_back_to_the_centre(size, expected) -> None:
    draws = many(View(crop_scale=(0.9, 1.0)), size=size)
    assert (draws.crop == expected).all()


@pytest.mark.parametrize(
    "view",
    [EVERYTHING, *RECIPES["photos"], *RECIPES["cartoons"], *RECIPES["any_way_up"]],
)
def test_rates_are_the_recipes(view: View) -> None:
    draws = many(view)
    rates = {
        "flip": draws.flip,
        "jitter": draws.jitter,
        "grayscale": draws.grayscale,
        "blur": draws.sigma > 0,
        "solarize": draws.solarize,
        "vertical_flip": draws.vertical_flip,
        "quarter_turn": draws.quarter_turns > 0,
    }
    for name, happened in rates.items():
        chance = getattr(view, name)
        spread = np.sqrt(chance * (1 - chance) / MANY)
        assert abs(happened.mean() - chance) <= 4 * spread, name


def test_factors_sigma_and_orders_are_uniform() -> None:
    view = dataclasses.replace(RECIPES["photos"][0], jitter=1.0)
    draws = many(view)
    ranges = [(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]
    for kind, (low, high) in enumerate(ranges):
        assert_uniform((draws.factors[:, kind] - low) / (high - low))
    assert_uniform((draws.sigma - 0.1) / 1.9)
    orders, counts = np.unique(draws.order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert abs(counts - MANY / 24).max() < 5 * np.sqrt(MANY / 24)


def table(draws: Draws) -> np.ndarray:
    """All that was drawn, one row of numbers per image."""
    columns = [getattr(draws, field.name) for field in dataclasses.fields(draws)][1:]
    return np.concatenate([c.reshape(len(c), -1).astype(float) for c in columns], axis=1)


def test_images_views_steps_and_seeds_draw_independently() -> None:
    base = table(many(EVERYTHING))
    others = {
        "the next image": np.roll(base, 1, axis=0),
        "the other view": table(many(EVERYTHING, view_index=1)),
        "the next step": table(many(EVERYTHING, step=1)),
        "another seed": table(many(EVERYTHING, seed=1)),
    }
    for name, other in others.items():
        for column in range(base.shape[1]):
            correlation = np.corrcoef(base[:, column], other[:, column])[0, 1]
            assert abs(correlation) < 5 / np.sqrt(MANY), (name, column)


def test_uniforms_are_uniform_and_independent_of_each_other() -> None:
    u = uniforms(7, 3, np.arange(MANY), 1, 36)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert_uniform(column)
    correlations = np.corrcoef(u.T) - np.eye(u.shape[1])
    assert abs(correlations).max() < 5 / np.sqrt(MANY)
    assert len(np.unique(u)) == u.size


def test_uniforms_never_change() -> None:
    """Recorded values: a resumed run and a run on another machine see the same views."""
    u = uniforms(1, 2, np.array([3, 2**40]), 1, 2)
    expected = [[0.7898779379358938, 0.2986630352743207], [0.9712993909712043, 0.9192889315735838]]
    np.testing.assert_array_equal(u, expected)


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_views_do_not_depend_on_the_batch(threads) -> None:
    count, store, size = 30, 40, 32
    images, sizes, indices = smooth(count, store, store), squares(count, store), np.arange(count)
    augment = Augment(EVERYTHING, 1, size, MEAN, STD, seed=5)
    whole = augment(images, sizes, indices, 9)
    mixed = np.random.default_rng(0).permutation(count)
    parts = np.split(mixed, [1, 8, 19])
    split = [augment(images[part], sizes[part], indices[part], 9) for part in parts]
    torch.testing.assert_close(torch.cat(split), whole[mixed], atol=1e-5, rtol=0)
    draws = draw(EVERYTHING, 1, 5, 9, indices, sizes)
    for chunk in (1, 7, count):
        other = render(images, draws, size, MEAN, STD, chunk=chunk)
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=0)


def test_a_recipe_can_be_adjusted() -> None:
    assert adjust_recipe(RECIPES["short"]) == RECIPES["short"]
    first, second = adjust_recipe(RECIPES["short"], crop_min=0.6, jitter_strength=0.5, solarize=0.7)
    stronger = adjust_recipe(RECIPES["short"], jitter_strength=5)
    for view in (first, second):
        draws = many(view)
        area = draws.crop[:, 2] * draws.crop[:, 3] / (300 * 400)
        assert 0.59 < area.min() < 0.61
        low, high = draws.factors.min(0), draws.factors.max(0)
        np.testing.assert_allclose(low, [0.8, 0.8, 0.8, -0.1], atol=1e-3)
        np.testing.assert_allclose(high, [1.2, 1.2, 1.2, 0.1], atol=1e-3)
        assert abs(draws.grayscale.mean() - 0.4) < 0.02
    assert not many(first).solarize.any()
    assert abs(many(second).solarize.mean() - 0.7) < 0.02
    np.testing.assert_allclose(many(stronger[0]).factors.min(0), [0, 0, 0, -0.5], atol=1e-3)


def test_every_image_step_seed_and_view_looks_different() -> None:
    images, rows = smooth(1, 40, 40).repeat(8, 1, 1, 1), np.arange(8)
    batch = Batch(images, squares(8, 40), rows)
    two_views = TwoViews(RECIPES["small"], 32, MEAN, STD, seed=0)
    reseeded = TwoViews(RECIPES["small"], 32, MEAN, STD, seed=1)
    first, second = two_views(batch, 0)
    out = [first, second, two_views(batch, 1)[0], reseeded(batch, 0)[0]]
    flat = torch.cat(out).flatten(1)
    distance = (flat[:, None] - flat).abs().mean(2) + torch.eye(len(flat))
    assert distance.min() > 1e-2
    for again, view in zip(two_views(batch, 0), (first, second), strict=True):
        assert torch.equal(again, view)
    for index, view in enumerate(RECIPES["small"]):  # each recipe's row with its own draws
        alone = Augment(view, index, 32, MEAN, STD, 0)(images, squares(8, 40), rows, 0)
        assert torch.equal(alone, out[index])


def test_chunks_have_the_asked_size_and_are_sorted_by_need() -> None:
    count = 256
    draws = draw(RECIPES["photos"][1], 1, 0, 0, np.arange(count), squares(count, 64))
    plan = plan_views(draws, (64, 64), 48)
    parts = list(chunks(plan, 16))
    assert sum(part.stop - part.start for part in parts) == count
    assert sum(part.stop - part.start != 16 for part in parts) <= 2
    assert all(len(set(plan.blur[part])) == 1 for part in parts)
    assert np.mean([len(set(plan.hue_slot[part])) for part in parts]) < 2
    assert sorted(plan.numbers[:, 0]) == list(range(count))
    turning = [np.flatnonzero(plan.hue_slot[part] == slot) for part in parts for slot in range(4)]
    assert all((np.diff(rows) == 1).all() for rows in turning)


def test_calls_leave_autograd_modes_and_threads_alone(threads) -> None:
    images, sizes, indices = smooth(6, 24, 24), squares(6, 24), np.arange(6)
    augment = Augment(EVERYTHING, 0, 24, MEAN, STD, 0)
    plain = augment(images, sizes, indices, 0)
    with torch.inference_mode():
        assert torch.equal(augment(images, sizes, indices, 0), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(images, sizes, indices, 0), plain)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    (plain * torch.ones(1, requires_grad=True)).sum().backward()  # not an inference tensor


def test_the_recipes_are_the_papers() -> None:
    first, second = RECIPES["photos"]
    assert (first.blur, second.blur, first.solarize, second.solarize) == (1.0, 0.1, 0.0, 0.2)
    for view in (first, second):
        assert (view.jitter, view.grayscale, view.flip) == (0.8, 0.2, 0.5)
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
        assert (view.crop_scale, view.crop_ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert CROP_AND_FLIP.jitter == CROP_AND_FLIP.grayscale == CROP_AND_FLIP.solarize == 0
    assert CROP_AND_FLIP.blur == 0
    assert (CONTRAST, SATURATION, HUE) == (1, 2, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("stored", [(72, 72), (72, 128)])
def test_cuda_makes_the_same_views_and_never_waits(stored) -> None:
    count, size = 64, 64
    images, indices = smooth(count, *stored), np.arange(count)
    sizes = np.array([stored, stored[::-1]] * (count // 2))  # every second one lies on its side
    augment = Augment(EVERYTHING, 0, size, MEAN, STD, seed=0)
    expected = augment(images, sizes, indices, 0)
    on_device = images.cuda()
    augment(on_device, sizes, indices, 0)  # loads what the device needs
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augment(on_device, sizes, indices, 0)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.cpu(), expected, atol=5e-3, rtol=0)
