"""Whatever the paper, the light and the size: rows of digits come out bright on 0, as high as on a canvas."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hard_lines import hard_line, mnist_digits
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from digitsum.data.glyphs import load_glyph_pools
from digitsum.data.ink import is_light_on_dark
from digitsum.data.pictures import read_rows
from digitsum.data.preparation import DIGIT_HEIGHT, prepare_rows

HEIGHT = 40


@pytest.fixture(scope="module")
def glyphs():
    pool = load_glyph_pools("bundled")["test"]
    return [pool.images[np.flatnonzero(pool.labels == digit)[0]] for digit in range(10)]


def line(glyphs, digits="30864", *, scale=3, gap=10, slope=0.0):
    """A line of digits, `(H, W)` float in 0..1, the ink 1."""
    tiles = [np.asarray(Image.fromarray(glyphs[int(digit)]).resize((28 * scale,) * 2)) / 255 for digit in digits]
    tiles = [tile[:, tile.max(0) > 0.3] for tile in tiles]
    width = sum(tile.shape[1] + gap for tile in tiles) + 80
    ink = np.zeros((28 * scale + 60 + int(abs(slope) * width), width))
    x = 40
    for tile in tiles:
        top = int(30 + (slope * x if slope > 0 else -slope * (width - x)))
        ink[top : top + len(tile), x : x + tile.shape[1]] = tile
        x += tile.shape[1] + gap
    return ink


def seen(ink, paper=200.0, dark=0.3, noise=2.0):
    """A photo of ink that lets the share `dark` of the light through, on paper of the grey `paper`, one or for each."""
    grain = np.random.default_rng(0).normal(0, noise, ink.shape)
    return (paper * (1 - ink * (1 - dark)) + grain).clip(0, 255).astype(np.uint8)


def only(pixels):
    (row,) = prepare_rows(pixels, HEIGHT)
    return row


def heights(image):
    """How high each digit of a canvas is, in pixels."""
    columns = (image > 60).any(0).astype(int)
    starts, ends = np.flatnonzero(np.diff(columns, prepend=0) > 0), np.flatnonzero(np.diff(columns, append=0) < 0) + 1
    rows = [np.flatnonzero((image[:, a:b] > 60).any(1)) for a, b in zip(starts, ends, strict=True)]
    return [int(found[-1] - found[0] + 1) for found in rows]


# --- ink and paper


def test_grey_paper_becomes_exactly_0_and_ink_bright(glyphs):
    row = only(seen(line(glyphs)))
    assert row.image.shape[0] == HEIGHT
    assert np.mean(row.image == 0) > 0.6
    assert np.median(row.image[row.image > 100]) > 240
    assert row.changes.startswith("inverted, paper brought to 0")
    assert row.num_components == 5
    assert row.warnings == ()


def test_a_blackboard_is_not_inverted(glyphs):
    row = only(255 - seen(line(glyphs)))
    assert row.changes.startswith("paper brought to 0")
    assert row.num_components == 5


@pytest.mark.parametrize("dark", [0.1, 0.6, 0.85])
def test_pale_ink_becomes_as_bright_as_black_ink(glyphs, dark):
    assert np.median((image := only(seen(line(glyphs), dark=dark)).image)[image > 100]) > 240


def test_light_that_falls_from_one_side_does_not_matter(glyphs):
    ink = line(glyphs)
    light = np.linspace(90, 230, ink.shape[1]) * np.linspace(1, 0.8, len(ink))[:, None]
    assert only(seen(ink, light)).num_components == 5


@pytest.mark.parametrize("at", [0.3, 0.5])
def test_a_shadow_with_a_sharp_edge_is_paper(glyphs, at):
    ink = line(glyphs)
    light = np.where(np.arange(ink.shape[1]) + np.arange(len(ink))[:, None] < at * ink.shape[1], 120.0, 210.0)
    row = only(seen(ink, ndimage.gaussian_filter(light, 1)))
    assert row.num_components == 5
    assert heights(row.image) == pytest.approx(heights(only(seen(ink)).image), abs=3)


@pytest.mark.parametrize("scale", [1, 2])
def test_faint_ink_beside_the_edge_of_a_shadow_is_found(glyphs, scale):
    ink = line(glyphs, scale=scale)
    light = ndimage.gaussian_filter1d(np.where(np.arange(len(ink)) < 0.35 * len(ink), 200.0, 120.0), 6)[:, None]
    row = only(seen(ink, light, dark=0.6, noise=3))
    assert row.num_components == 5


@pytest.mark.parametrize("below", [0.45, 0.6, 0.75])
@pytest.mark.parametrize("slope", [-0.15, 0.1])
def test_a_shadow_along_a_line_that_is_cut_out_does_not_decide_what_is_ink(glyphs, below, slope):
    ink = line(glyphs)
    y, x = np.indices(ink.shape)
    light = np.where(y - slope * (x - ink.shape[1] / 2) > below * len(ink), 110.0, 205.0)
    picture = seen(ink, ndimage.gaussian_filter(light, 2), dark=0.5)
    assert not is_light_on_dark(picture)
    assert is_light_on_dark(255 - picture)


# --- rules


@pytest.mark.parametrize("level", [0.9, 0.6])
@pytest.mark.parametrize("angle", [0.0, 0.03])
def test_rules_are_removed_and_the_digits_that_cross_them_stay_whole(glyphs, level, angle):
    ink = line(glyphs)
    y = np.arange(len(ink))[:, None] - angle * np.arange(ink.shape[1]) + 7
    row = only(seen(ink, 200 * np.where(y % 35 < 2, level, 1)))
    assert row.num_components == 5
    assert heights(row.image) == pytest.approx(heights(only(seen(ink)).image), abs=2)


def test_the_squares_of_squared_paper_are_removed(glyphs):
    ink = np.pad(line(glyphs), 200)
    ruled = (np.arange(len(ink))[:, None] % 40 < 2) | (np.arange(ink.shape[1]) % 40 < 2)
    row = only(seen(ink, 200 * np.where(ruled, 0.75, 1)))
    assert "rules removed" in row.changes
    assert row.num_components == 5


def test_the_bar_of_a_single_digit_is_no_rule():
    pixels = np.full((90, 60), 255, np.uint8)
    pixels[10:13], pixels[10:80, 40:43] = 0, 0
    row = only(pixels)
    assert "rules" not in row.changes
    assert (row.image[8:14] > 100).sum(1).max() >= 12


# --- rows


def test_several_rows_are_found_from_top_to_bottom(glyphs):
    inks = [line(glyphs, digits) for digits in ("30864", "12", "7")]
    width = max(ink.shape[1] for ink in inks)
    page = np.vstack([np.pad(ink, ((0, 0), (0, width - ink.shape[1]))) for ink in inks])
    rows = prepare_rows(seen(page), HEIGHT)
    assert [row.num_components for row in rows] == [5, 2, 1]
    assert [row.box[1] // len(inks[0]) for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("slope", [-0.15, 0.05, 0.15])
def test_a_sloping_line_is_one_row(glyphs, slope):
    row = only(seen(line(glyphs, "3086412", slope=slope)))
    assert row.num_components == 7
    assert ("turned by" in row.changes) == (abs(slope) > 0.1)


def test_digits_far_apart_are_one_row(glyphs):
    assert only(seen(line(glyphs, "308", gap=500))).num_components == 3


def test_the_parts_of_a_broken_digit_stay_together():
    pixels = np.full((120, 200), 255, np.uint8)
    pixels[20:58, 50:56], pixels[62:100, 50:56] = 0, 0  # a 1 with a gap
    pixels[20:26, 120:150], pixels[34:100, 118:124] = 0, 0  # the bar of a 5 or 7 above its stroke
    assert only(pixels).num_components == 2


# --- size


@pytest.mark.parametrize("scale", [1, 2, 9])
def test_digits_become_as_high_as_on_a_canvas_however_large_they_were(glyphs, scale):
    found = heights(only(seen(line(glyphs, scale=scale))).image)
    assert np.median(found) == pytest.approx(DIGIT_HEIGHT, abs=2)


def test_digits_of_mixed_heights_become_more_alike():
    pixels = np.full((100, 400), 255, np.uint8)
    for number, high in enumerate((20, 40, 40, 60)):
        pixels[50 - high // 2 : 50 + high // 2, 50 + 80 * number : 55 + 80 * number] = 0
    low, middle, _, top = heights(only(pixels).image)
    assert 1 < middle / low < 1.5
    assert 1 < top / middle < 1.3


def test_digits_that_stand_close_are_set_apart():
    pixels = np.full((100, 200), 255, np.uint8)
    for number in range(4):
        pixels[20:80, 60 + 8 * number : 66 + 8 * number] = 0
    row = only(pixels)
    assert len(heights(row.image)) == row.num_components == 4


def test_hairlines_are_thickened(glyphs):
    pixels = Image.new("L", (600, 400), 255)
    ImageDraw.Draw(pixels).ellipse((200, 50, 400, 350), outline=0)
    row = only(np.asarray(pixels))
    assert "thickened" in row.changes
    assert "thickened" not in only(seen(line(glyphs))).changes
    assert 1 < (row.image[HEIGHT // 2] > 100).sum() / 2 < 4


# --- honesty


def drawn(draw, size=(400, 400), paper=255):
    picture = Image.new("L", size, paper)
    draw(ImageDraw.Draw(picture))
    return np.asarray(picture)


RNG = np.random.default_rng(0)
NOTHING = {
    "white": np.full((300, 400), 255, np.uint8),
    "black": np.zeros((300, 400), np.uint8),
    "paper": (190 + np.linspace(-30, 30, 400) + RNG.normal(0, 3, (300, 400))).astype(np.uint8),
    "paper in a steeper light": (190 + np.linspace(-40, 40, 300)[:, None] + RNG.normal(0, 5, (300, 400))).astype(
        np.uint8
    ),
    "grain": (180 + ndimage.gaussian_filter(RNG.normal(0, 40, (300, 400)), 2)).astype(np.uint8),
    "noise": RNG.integers(0, 256, (300, 400), dtype=np.uint8),
    "noise as high as a canvas": RNG.integers(0, 256, (40, 168), dtype=np.uint8),
    "rules": np.where(np.arange(300)[:, None] % 40 < 2, 150, 200).repeat(400, 1).astype(np.uint8),
    "blots": drawn(lambda draw: [draw.ellipse((60 * k, 100, 60 * k + 30, 130), fill=0) for k in range(1, 5)]),
}


@pytest.mark.parametrize("name", NOTHING)
def test_where_there_are_no_strokes_no_digits_are_found(name):
    assert prepare_rows(NOTHING[name], HEIGHT) == []


def warnings_of(pixels):
    return {word for row in prepare_rows(pixels, HEIGHT) for word in row.warnings}


def test_ink_at_the_border_is_reported(glyphs):
    pixels = seen(line(glyphs))
    assert warnings_of(pixels) == set()
    assert "cut at the border" in warnings_of(pixels[:, 60:])


def test_digits_of_few_pixels_are_reported():
    pixels = np.full((40, 60), 255, np.uint8)
    pixels[16:24, 20], pixels[16:24, 30] = 0, 0
    assert "digits too small" in warnings_of(pixels)


def test_broad_shapes_are_reported():
    def logo(draw):
        draw.ellipse((50, 50, 350, 350), fill=0)
        draw.polygon([(200, 80), (300, 300), (100, 300)], fill=255)

    assert "strokes too broad" in warnings_of(drawn(logo))


def test_paper_that_stays_rough_is_reported(glyphs):
    pixels = seen(line(glyphs), noise=60)
    assert "paper not flat" in warnings_of(pixels) or prepare_rows(pixels, HEIGHT) == []


def test_a_face_is_no_row_of_digits_without_a_warning():
    def face(draw):
        draw.ellipse((80, 40, 320, 360), fill=190)
        for left in (130, 230):
            draw.ellipse((left, 150, left + 40, 180), fill=40)
        draw.arc((140, 230, 260, 310), 20, 160, fill=80, width=10)

    pixels = np.asarray(Image.fromarray(drawn(face, paper=235)).filter(ImageFilter.GaussianBlur(3)))
    assert all(row.warnings for row in prepare_rows(pixels, HEIGHT))


# --- real pictures, and hard ones made by code


def test_of_real_pictures_nearly_all_have_one_row_of_as_many_pieces_as_digits():
    if "DIGITSUM_PICTURES" not in os.environ:
        pytest.skip("set DIGITSUM_PICTURES to a folder of pictures with truth.csv")
    folder = Path(os.environ["DIGITSUM_PICTURES"])
    with (folder / "truth.csv").open(newline="") as file:
        pictures = list(csv.DictReader(file))
    found = {one["file"]: read_rows(folder / one["file"], (HEIGHT, 168), variable_width=True) for one in pictures}
    assert [name for name, rows in found.items() if len(rows) != 1] == []
    right = sum(found[one["file"]][0].num_components == len(one["digits"]) for one in pictures)
    assert right >= 0.96 * len(pictures)


def test_hard_lines_are_the_same_for_the_same_seed_and_nearly_all_found_whole():
    if "DIGITSUM_MNIST" not in os.environ:
        pytest.skip("set DIGITSUM_MNIST")
    pool = mnist_digits(os.environ["DIGITSUM_MNIST"])
    lines = [hard_line(pool, 1, number) for number in range(40)]
    again, digits = hard_line(pool, 1, 7)
    assert (again.tobytes(), digits) == (lines[7][0].tobytes(), lines[7][1])
    rows = [prepare_rows(pixels, HEIGHT) for pixels, _ in lines]
    assert sum(len(found) == 1 for found in rows) >= 38
    whole = sum(found[0].num_components == len(digits) for found, (_, digits) in zip(rows, lines, strict=True) if found)
    assert whole >= 30
