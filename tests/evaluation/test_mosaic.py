"""Where the photos of a map and of a contact sheet go."""

import numpy as np
import pytest

from byol.report import mosaic
from byol.report.mosaic import Picture, _colours, cells_of, draw_map, draw_sheet, thumbnail
from byol.report.pictures import plt
from byol.report.style import CLASSES, OTHER_CLASSES


@pytest.mark.parametrize("count", [2, 30, 500, 1600])
def test_each_photo_has_a_cell_of_its_own_if_there_is_room(count):
    places = np.random.default_rng(0).normal(size=(count, 2))
    rows, cells, side = cells_of(places)
    assert sorted(rows.tolist()) == list(range(count))
    assert len({tuple(cell) for cell in cells.tolist()}) == count
    assert cells.min() >= 0
    assert cells.max() < side <= mosaic.MOST_CELLS


def test_without_room_the_nearest_to_the_middle_of_a_cell_is_shown():
    draws = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40)), axis=-1).reshape(-1, 2)
    beside = grid + draws.uniform(-0.4, 0.4, grid.shape)
    corners = np.repeat([[0.0, 0.0], [39.0, 39.0]], 100, axis=0)  # the ends of the quantiles
    places = np.concatenate([beside, grid, corners])
    rows, cells, side = cells_of(places)
    assert side == 40
    assert len(rows) == 1600
    inside = (cells > 0).all(1) & (cells < 39).all(1)
    np.testing.assert_array_equal(places[rows[inside]], cells[inside])  # the exact ones


def test_equal_photos_and_one_line_have_cells_too():
    for places in (np.zeros((9, 2)), np.stack([np.arange(9.0), np.zeros(9)], axis=1)):
        rows, cells, _ = cells_of(places)
        assert len({tuple(cell) for cell in cells.tolist()}) == len(rows) == 9


def test_a_thumbnail_has_the_shape_of_its_photo():
    stored = np.zeros((3, 72, 72), np.uint8)
    stored[:, :, 36:] = 200
    small = thumbnail(stored, np.array([300, 600]), 48)
    assert small.shape == (24, 48, 3)
    assert small[:, :20].max() < 10
    assert small[:, 28:].min() > 190


def test_the_largest_classes_have_colours_and_the_rest_one():
    sizes = [1, 9, 8, 7, 6, 5, 4, 3, 0, 2]
    labels = np.concatenate([np.repeat(np.arange(10), sizes), [-1, -1]])
    colours, legend = _colours(labels, [f"class {n}" for n in range(10)])
    assert [colours[n] for n in range(1, 8)] == list(CLASSES)
    assert colours[0] == colours[9] == OTHER_CLASSES
    assert 8 not in colours
    assert -1 not in colours
    assert legend[-1] == ("2 more classes", OTHER_CLASSES)
    assert len(set(CLASSES)) == len(CLASSES) == 7


def pixels_of(figure) -> np.ndarray:
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    plt.close(figure)
    return pixels


def test_a_map_has_its_photos_where_they_are_placed():
    """Four photos in the corners: the first axis to the right, the second upwards."""
    places = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (90, 90, 90)]

    def picture(row: int, side: int) -> np.ndarray:
        return np.full((side, side, 3), colours[row], np.uint8)

    figure, drawn = draw_map(places, picture, np.full(4, -1), [], "four photos")
    pixels = pixels_of(figure)
    assert drawn == 4
    height, width = pixels.shape[:2]
    for (x, y), colour in zip(places, colours, strict=True):
        line, column = np.argwhere((pixels == colour).all(2)).mean(0)
        assert (column > width / 2) == (x == 1)
        assert (line < height / 2) == (y == 1)


def test_a_sheet_shows_each_pixel_as_one_pixel_and_cuts_long_lists(monkeypatch):
    monkeypatch.setattr(mosaic, "MOST_ROWS", 2)
    monkeypatch.setattr(mosaic, "MOST_COLUMNS", 3)
    noise = np.random.default_rng(0).integers(0, 256, (144, 100, 3), dtype=np.uint8)
    picture = Picture(noise, ["$1", "a long name of a photo in a folder.jpg"])
    pixels = pixels_of(draw_sheet([[picture] * 5, [picture], [picture]]))
    cell = mosaic.LARGE_THUMB + 4 * mosaic.GAP
    assert pixels.shape == (2 * (cell + 2 * mosaic.LINE), 3 * cell, 3)
    left = mosaic.GAP + 22
    np.testing.assert_array_equal(pixels[2:146, left : left + 100], noise)
