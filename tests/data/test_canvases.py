"""Canvases follow their layout distribution, and any of them can be drawn without the others."""

import os
from dataclasses import fields

import numpy as np
import pytest

from digitsum.data.canvases import OVERLAPS, Layout, Placements, compose
from digitsum.data.glyphs import GLYPH_SIZE, GlyphPool, load_glyph_pools
from digitsum.errors import InputError


@pytest.fixture(scope="module")
def pool():
    """Forty tiles full of ink, so that every overlap shows, numbered from 100."""
    rng = np.random.default_rng(0)
    return GlyphPool(
        rng.integers(1, 256, size=(40, GLYPH_SIZE, GLYPH_SIZE), dtype=np.uint8),
        rng.integers(10, size=40),
        np.arange(100, 140),
    )


def columns(placements):
    return [getattr(placements, field.name) for field in fields(Placements)]


def drawn(pool, layout=None, *, seed=0, stream=0, start=0, count=50):
    return compose(layout or Layout(), pool, seed=seed, stream=stream, start=start, count=count)


# --- the sequence


@pytest.mark.parametrize(
    "cuts", [[2500], [1000, 1000, 500], [1, 998, 1, 1, 1499], [700, 700, 700, 400], [999, 1, 1001, 499]]
)
def test_canvases_do_not_depend_on_how_they_are_cut_into_calls(pool, cuts):
    layout = Layout(num_digits=[1, 3])
    whole, truth = drawn(pool, layout, start=300, count=2500)
    start = 300
    for count in cuts:
        part, part_truth = drawn(pool, layout, start=start, count=count)
        window = slice(start - 300, start - 300 + count)
        assert np.array_equal(part, whole[window])
        for ours, theirs in zip(columns(part_truth), columns(truth), strict=True):
            assert np.array_equal(ours, theirs[window])
        start += count
    assert start == 2800


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": 1}, {"start": 1000}, {"start": 50}])
def test_another_seed_stream_or_start_gives_other_canvases(pool, other):
    images, truth = drawn(pool)
    other_images, other_truth = drawn(pool, **other)
    assert (images != other_images).any((1, 2)).all()
    assert not np.array_equal(truth.digits, other_truth.digits)


def test_the_stream_of_one_seed_is_not_the_seed_of_another_stream(pool):
    assert not np.array_equal(drawn(pool, seed=0, stream=1)[0], drawn(pool, seed=1, stream=0)[0])


def test_canvases_and_placements_have_their_shapes_and_types(pool):
    images, truth = drawn(pool, Layout(height=50, width=200, num_digits=[1, 4]), count=7)
    assert (images.shape, images.dtype) == ((7, 50, 200), np.uint8)
    assert [column.shape for column in columns(truth)] == [(7, 4)] * 4
    assert [column.dtype for column in columns(truth)] == [np.int8, np.int16, np.int16, np.int32]
    assert (truth.sums.shape, truth.sums.dtype) == ((7,), np.int64)


# --- the layout distribution


def test_tiles_are_placed_by_the_law_and_reach_its_extremes(pool):
    _, truth = drawn(pool, count=3000)
    assert set(np.unique(truth.left[:, 0])) == set(range(15))
    assert set(np.unique(np.diff(truth.left, axis=1))) == set(range(28 - 14, 28 + 14 + 1))
    assert set(np.unique(truth.top)) == set(range(12))


@pytest.mark.parametrize(
    ("first_offset", "pitch_jitter", "vertical_jitter"), [(0, 0, 0), (3, 2, 1), (20, 28, 0), (0, 28, 12)]
)
def test_the_settings_of_the_law_bound_the_tiles_exactly(pool, first_offset, pitch_jitter, vertical_jitter):
    width = first_offset + 28 + 3 * (28 + pitch_jitter)
    layout = Layout(28 + vertical_jitter, width, 4, pitch_jitter, first_offset, vertical_jitter)
    _, truth = drawn(pool, layout, count=3000)
    assert set(np.unique(truth.left[:, 0])) == set(range(first_offset + 1))
    assert set(np.unique(np.diff(truth.left, axis=1))) == set(range(28 - pitch_jitter, 28 + pitch_jitter + 1))
    assert set(np.unique(truth.top)) == set(range(vertical_jitter + 1))


def test_the_first_tile_is_at_the_edge_on_half_the_canvases(pool):
    # max(0, U{-14..14}) is 0 for 15 of 29 values and each other margin for one
    _, truth = drawn(pool, count=3000)
    assert (truth.left[:, 0] == 0).mean() == pytest.approx(15 / 29, abs=0.04)
    assert (truth.left[:, 0] == 14).mean() == pytest.approx(1 / 29, abs=0.015)


def test_tops_and_pitches_of_one_canvas_are_independent(pool):
    _, truth = drawn(pool, count=3000)
    for table in (truth.top, np.diff(truth.left, axis=1), truth.glyph):
        correlations = np.corrcoef(table.T)[np.triu_indices(table.shape[1], 1)]
        assert np.abs(correlations).max() < 0.08


def test_every_glyph_is_drawn_and_named_with_its_digit(pool):
    _, truth = drawn(pool, count=500)
    assert set(np.unique(truth.glyph)) == set(pool.index)
    assert np.array_equal(truth.digits, pool.labels[truth.glyph - 100])


def test_sums_are_the_sums_of_the_digits(pool):
    _, truth = drawn(pool, Layout(num_digits=[1, 4]), count=200)
    expected = [sum(digit for digit in row if digit >= 0) for row in truth.digits.tolist()]
    assert truth.sums.tolist() == expected


@pytest.mark.parametrize("num_digits", [[1, 4], (2, 3), [3, 3]])
def test_a_range_of_digits_gives_each_count_and_pads_with_minus_one(pool, num_digits):
    _, truth = drawn(pool, Layout(num_digits=num_digits), count=2000)
    min_digits, max_digits = num_digits
    counts = (truth.digits >= 0).sum(1)
    possible = max_digits - min_digits + 1
    for count in range(min_digits, max_digits + 1):
        assert (counts == count).mean() == pytest.approx(1 / possible, abs=0.05)
    absent = np.arange(max_digits) >= counts[:, None]
    for column in columns(truth):
        assert (column[absent] == -1).all()
        assert (column[~absent] >= 0).all()


@pytest.mark.parametrize("num_digits", [1, [1, 1]])
def test_one_digit_on_a_canvas_of_its_size_is_the_glyph_itself(pool, num_digits):
    layout = Layout(28, 28, num_digits, first_offset=0, vertical_jitter=0)
    images, truth = drawn(pool, layout, count=20)
    assert np.array_equal(images, pool.images[truth.glyph[:, 0] - 100])


# --- the ink


def painted(pool, layout, truth):
    """The canvases pixel by pixel, from what was drawn."""
    canvases = np.zeros((len(truth.digits), layout.height, layout.width), np.uint8)
    for canvas, *places in zip(canvases, truth.glyph, truth.left, truth.top, strict=True):
        for glyph, left, top in zip(*places, strict=True):
            if glyph < 0:
                continue
            for y in range(GLYPH_SIZE):
                for x in range(GLYPH_SIZE):
                    old, new = int(canvas[top + y, left + x]), int(pool.images[glyph - 100, y, x])
                    ink = {"wrap": (old + new) % 256, "max": max(old, new), "clip": min(old + new, 255)}
                    canvas[top + y, left + x] = ink[layout.overlap]
    return canvases


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("num_digits", [4, [2, 4]])
def test_canvases_equal_those_painted_pixel_by_pixel_under_heavy_overlap(pool, overlap, num_digits):
    layout = Layout(width=14 + 28 + 3 * 56, num_digits=num_digits, pitch_jitter=28, overlap=overlap)
    images, truth = drawn(pool, layout, count=12)
    assert np.diff(truth.left, axis=1).min() < 14  # else nothing of this is tested
    assert np.array_equal(images, painted(pool, layout, truth))


def test_canvases_of_the_three_overlaps_differ_where_ink_meets_alone(pool):
    width = 14 + 28 + 3 * 56
    wrap, largest, clip = (drawn(pool, Layout(width=width, pitch_jitter=28, overlap=kind))[0] for kind in OVERLAPS)
    assert not np.array_equal(wrap, largest)
    assert not np.array_equal(largest, clip)
    same = (wrap == largest) & (largest == clip)
    assert 0.5 < same.mean() < 1


def test_the_background_is_exactly_0(pool):
    images, truth = drawn(pool, count=100)
    for image, lefts, tops in zip(images, truth.left, truth.top, strict=True):
        covered = np.zeros(image.shape, bool)
        for left, top in zip(lefts, tops, strict=True):
            covered[top : top + GLYPH_SIZE, left : left + GLYPH_SIZE] = True
        assert image[~covered].max() == 0


# --- digits of several sizes


def test_digits_of_several_sizes_reach_the_bounds_and_keep_their_middles(pool):
    full = GlyphPool(np.full_like(pool.images, 255), pool.labels, pool.index)
    layout = Layout(40, 60, [1, 1], vertical_jitter=11, first_offset=10, digit_scale=[0.5, 1.4])
    images, truth = drawn(full, layout, count=2000)
    heights, widths = (images > 0).any(2).sum(1), (images > 0).any(1).sum(1)
    assert np.array_equal(heights, widths)
    assert set(np.unique(heights)) == set(range(14, 40))
    left = (images > 0).any(1).argmax(1)
    assert np.abs(left + widths / 2 - truth.left[:, 0] - 14).max() <= 0.5
    top = (images > 0).any(2).argmax(1)
    assert np.abs(top + heights / 2 - truth.top[:, 0] - 14).max() <= 0.5


def test_small_digits_are_nearer_to_the_next_ones():
    ink = GlyphPool(np.full((1, GLYPH_SIZE, GLYPH_SIZE), 255, np.uint8), np.array([1]), np.array([0]))
    layout = Layout(40, 168, 4, 0, 0, 0, digit_scale=[0.5, 0.5])
    images, _ = drawn(ink, layout, count=1)
    assert (images[0] > 0).any(0).sum() == 4 * 14


def test_a_shrunk_glyph_keeps_its_mean_brightness(pool):
    images, truth = drawn(pool, Layout(28, 28, [1, 1], 0, 0, 0, digit_scale=[0.5, 0.5]), count=20)
    before = pool.images[truth.glyph[:, 0] - 100].mean((1, 2))
    assert images.mean((1, 2)) * 4 == pytest.approx(before, rel=0.03)


# --- digits drawn anew with a pen


def test_a_share_of_canvases_is_drawn_with_a_pen_at_the_same_places(pool):
    layouts = [Layout(40, 168, 4, overlap="max", pen=pen) for pen in (0.0, 0.5, 1.0)]
    (before, truth), (after, same), (anew, _) = (drawn(pool, layout, count=400) for layout in layouts)
    assert all(np.array_equal(getattr(truth, name), getattr(same, name)) for name in vars(truth))
    kept = (before == after).all((1, 2))
    assert 150 < kept.sum() < 250
    assert not (before == anew).all((1, 2)).any()
    assert np.array_equal(after[~kept], anew[~kept])


# --- the layout's own checks


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_digits": 0}, "layout.num_digits"),
        ({"digit_scale": [1.0]}, "layout.digit_scale"),
        ({"digit_scale": [1.2, 1.0]}, "layout.digit_scale"),
        ({"digit_scale": 1.0}, "layout.digit_scale"),
        ({"digit_scale": ["1", "2"]}, "layout.digit_scale"),
        ({"digit_scale": [0.0, 1.0]}, "layout.digit_scale"),
        ({"digit_scale": [1.0, 1.4]}, "set data.layout.width=230"),
        ({"pen": -0.1}, "layout.pen"),
        ({"pen": 1.1}, "layout.pen"),
        ({"num_digits": -1}, "layout.num_digits"),
        ({"num_digits": [0, 3]}, "layout.num_digits"),
        ({"num_digits": [3, 2]}, "layout.num_digits"),
        ({"num_digits": [1]}, "layout.num_digits"),
        ({"num_digits": [1, 2, 3]}, "layout.num_digits"),
        ({"num_digits": 2.0}, "layout.num_digits"),
        ({"num_digits": [1, 2.5]}, "layout.num_digits"),
        ({"num_digits": "4"}, "layout.num_digits"),
        ({"num_digits": "14"}, "layout.num_digits"),
        ({"num_digits": True}, "layout.num_digits"),
        ({"num_digits": None}, "layout.num_digits"),
        ({"pitch_jitter": -1}, "layout.pitch_jitter"),
        ({"pitch_jitter": 29}, "layout.pitch_jitter"),
        ({"first_offset": -1}, "layout.first_offset"),
        ({"vertical_jitter": -1}, "layout.vertical_jitter"),
        ({"overlap": "add"}, "layout.overlap"),
        ({"width": 167}, "data.layout.width=168"),
        ({"num_digits": 5}, "data.layout.width=210"),
        ({"num_digits": [1, 5]}, "data.layout.width=210"),
        ({"first_offset": 15}, "data.layout.width=169"),
        ({"height": 38}, "data.layout.height=39"),
        ({"vertical_jitter": 13}, "data.layout.height=41"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name_in_one_line(settings, words):
    with pytest.raises(InputError) as caught:
        Layout(**settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{}, {"width": 168, "height": 39}, {"num_digits": 5, "width": 210}, {"pitch_jitter": 0, "width": 126}]
)
def test_a_canvas_that_just_holds_the_widest_layout_is_taken(settings):
    assert Layout(**settings).digit_range[1] >= 4


# --- the public data set


@pytest.fixture(scope="module")
def replica():
    """Moments of 30,000 canvases by the default layout from MNIST's 60,000 training digits."""
    root = os.environ.get("DIGITSUM_MNIST")
    if not root:
        pytest.skip("needs MNIST: set DIGITSUM_MNIST to the folder that holds MNIST/raw")
    pool = load_glyph_pools("mnist", mnist_root=root, shared=True)["train"]
    histogram, sums, background = np.zeros(256), [], []
    for start in range(0, 30_000, 1_000):
        images, truth = compose(Layout(), pool, seed=0, stream=0, start=start, count=1_000)
        histogram += np.bincount(images.ravel(), minlength=256)
        sums.append(truth.sums)
        background.append(images[:, -1].max())
    return histogram / histogram.sum(), np.concatenate(sums), max(background)


def test_a_replica_has_the_pixel_statistics_of_the_public_files(replica):
    share, _, _ = replica
    values = np.arange(256)
    mean = (share * values).sum()
    assert mean == pytest.approx(15.5, abs=0.15)
    assert (share * (values - mean) ** 2).sum() ** 0.5 == pytest.approx(56.1, abs=0.3)


def test_a_replica_has_the_sums_of_the_public_files(replica):
    _, sums, _ = replica
    assert sums.mean() == pytest.approx(17.80, abs=0.15)
    assert sums.std() == pytest.approx(5.77, abs=0.1)
    assert (sums.min() >= 0, sums.max() <= 36) == (True, True)


def test_a_replica_has_a_background_of_exactly_0(replica):
    share, _, last_row = replica
    assert last_row == 0  # no tile reaches the canvas's last row
    assert share[0] > 0.85
