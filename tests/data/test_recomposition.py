"""Canvases composed anew from the glyphs of others."""

import numpy as np
import pytest
import torch

from digitsum.data import recomposition
from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.data.recomposition import Recomposition
from digitsum.data.shards import open_shards


def dataset(tmp_path, images, sums):
    np.save(tmp_path / "data0.npy", images)
    np.save(tmp_path / "lab0.npy", sums)
    return open_shards(tmp_path)


def bars(tmp_path, count=60, right=50):
    """Canvases of two bars; a digit is 14 pixels high and one more for each of its value."""
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 10, (count, 2))
    images = np.zeros((count, 40, 80), np.uint8)
    for image, row in zip(images, digits, strict=True):
        for column, digit in zip((10, right), row, strict=True):
            image[8 : 22 + digit, column : column + 3] = 200
    return dataset(tmp_path, images, digits.sum(1)), torch.from_numpy(digits).to(torch.int8)


@pytest.fixture(autouse=True)
def _as_cut(request, monkeypatch):
    """Glyphs are neither turned nor scaled, but where a test is about that."""
    if "turned" not in request.node.name:
        monkeypatch.setattr(recomposition, "_TURN", 0.0)
        monkeypatch.setattr(recomposition, "_GROWTH", 0.0)


def test_the_sum_of_a_canvas_composed_anew_is_that_of_its_glyphs(tmp_path):
    train, digits = bars(tmp_path)
    made = Recomposition(train, digits, "wrap")
    assert (made.num_canvases, made.num_glyphs) == (60, 120)
    torch.manual_seed(0)
    images = train.images.gather(train.index)
    fresh, sums, drawn = made(images, train.sums, train.index, 1.0)
    assert fresh.shape == images.shape
    assert (fresh.dtype, sums.dtype) == (torch.uint8, torch.int64)
    columns = (fresh > 0).sum(1)
    heights = torch.stack([columns[:, :25].amax(1), columns[:, 25:].amax(1)], dim=1)  # of the left and the right bar
    assert torch.equal((heights - 14).sum(1), sums)
    assert torch.equal(heights - 14, drawn)
    assert set(fresh.unique().tolist()) == {0, 200}
    assert (sums != train.sums).float().mean() > 0.8


def test_glyphs_come_near_the_places_of_a_canvas(tmp_path):
    train, digits = bars(tmp_path, 400)
    fresh, *_ = Recomposition(train, digits, "wrap")(train.images.gather(train.index), train.sums, train.index, 1.0)
    columns = (fresh > 0).any(1).nonzero()[:, 1]
    left, right = columns[columns < 25], columns[columns >= 25]
    assert (int(left.min()), int(left.max())) == (6, 16)
    # up to four pixels away from there and from the first, and half of the canvases narrower
    assert 26 <= int(right.min()) < 36
    assert 57 <= int(right.max()) <= 60


@pytest.mark.parametrize(("column", "nearest"), [(26, 12), (18, 8)])
def test_no_glyphs_come_nearer_to_one_another_than_can_be_read_or_than_they_were(tmp_path, column, nearest):
    train, digits = bars(tmp_path, 400, column)
    images = train.images.gather(train.index)
    fresh, *_ = Recomposition(train, digits, "wrap")(images, train.sums, train.index, 1.0)
    ink = (fresh > 0).any(1)
    first = ink.int().argmax(1)
    last = ink.shape[1] - 1 - ink.flip(1).int().argmax(1)
    distances = last - 2 - first  # of the bars, three pixels wide
    assert int(distances.min()) == nearest
    assert int(distances.max()) == column - 10 + 4


def test_a_share_of_the_images_is_left_as_it_is_and_all_that_were_not_read(tmp_path):
    train, digits = bars(tmp_path, 400)
    digits[100:] = -1
    images = train.images.gather(train.index)
    torch.manual_seed(0)
    fresh, sums, drawn = Recomposition(train, digits, "max")(images, train.sums, train.index, 0.5)
    same = (fresh == images).flatten(1).all(1)
    assert same[100:].all()
    assert torch.equal(sums[same], train.sums[same])
    assert (drawn[same] == -1).all()
    assert (drawn[~same] >= 0).all()
    assert 35 <= int(same[:100].sum()) <= 75


def test_canvases_that_do_not_fall_apart_as_they_were_read_give_nothing(tmp_path):
    train, digits = bars(tmp_path, 100)
    digits[:40, 1] = -1  # one digit was read where two pieces lie
    made = Recomposition(train, digits, "wrap")
    assert (made.num_canvases, made.num_glyphs) == (60, 120)


@pytest.mark.parametrize("read", [0, 40])
def test_of_too_few_glyphs_nothing_is_composed(tmp_path, read):
    train, digits = bars(tmp_path)
    digits[read:] = -1
    made = Recomposition(train, digits, "wrap")
    assert made.num_glyphs == 0
    images = train.images.gather(train.index)
    fresh, sums, drawn = made(images, train.sums, train.index, 1.0)
    assert (drawn == -1).all()
    assert torch.equal(fresh, images)
    assert torch.equal(sums, train.sums)


@pytest.mark.parametrize(
    ("overlap", "expected"), [("wrap", {144}), ("max", {200}), ("clip", {255}), ("mixed", {144, 255})]
)
def test_ink_on_ink_becomes_what_the_layout_says(tmp_path, overlap, expected):
    train, digits = bars(tmp_path)
    made = Recomposition(train, digits, overlap)
    made._places[:, 1] = made._places[:, 0]
    fresh, *_ = made(train.images.gather(train.index), train.sums, train.index, 1.0)
    assert set(fresh.unique().tolist()) - {0, 200} == expected - {200}


def test_float_images_and_images_cut_behind_their_ink(tmp_path):
    train, digits = bars(tmp_path)
    images = train.images.gather(train.index)[:, :, :56] / 255
    fresh, *_ = Recomposition(train, digits, "wrap")(images, train.sums, train.index, 1.0)
    assert fresh.shape == images.shape
    assert fresh.dtype == torch.float32
    assert fresh.max() == torch.tensor(200.0) / 255
    assert ((fresh > 0).sum((1, 2)) >= 2 * 3 * 14).all()  # no ink is lost


def test_real_glyphs_are_cut_whole(tmp_path):
    """On a canvas composed anew lies the ink of as many glyphs as before."""
    layout = Layout(num_digits=[1, 4])
    images, placements = compose(layout, load_glyph_pools("bundled")["train"], seed=0, stream=0, start=0, count=300)
    train = dataset(tmp_path, images, placements.sums)
    made = Recomposition(train, torch.from_numpy(placements.digits), "clip")
    assert made.num_canvases > 200
    fresh, sums, drawn = made(torch.from_numpy(images), train.sums, train.index, 1.0)
    new = (drawn >= 0).any(1)
    assert torch.equal((drawn >= 0).sum(1)[new], torch.from_numpy(placements.digits >= 0).sum(1)[new])
    ink = (fresh > 0).float().sum() / (torch.from_numpy(images) > 0).sum()
    assert 0.9 < float(ink) < 1.1
    assert abs(float(sums.float().mean() - train.sums.float().mean())) < 2


def test_each_glyph_is_turned_around_its_middle_and_scaled_by_itself(tmp_path):
    train, digits = bars(tmp_path, 400)
    torch.manual_seed(0)
    fresh, _, drawn = Recomposition(train, digits, "clip")(
        train.images.gather(train.index), train.sums, train.index, 1.0
    )
    bar = (fresh[:, :, :26] > 100).float()  # the left ones
    rows = torch.arange(40)[:, None]
    columns = torch.arange(26)
    number = bar.sum((1, 2))
    y, x = (bar * rows).sum((1, 2)) / number, (bar * columns).sum((1, 2)) / number
    away_y, away_x = rows - y[:, None, None], columns - x[:, None, None]
    lean = (bar * away_y * away_x).sum((1, 2)) / (bar * away_y**2).sum((1, 2))
    turns = torch.rad2deg(lean.atan())
    assert -16 < float(turns.min()) < -12
    assert 12 < float(turns.max()) < 16
    lengths = (bar * away_y**2).sum((1, 2)).div(number).mul(12).sqrt() / (14 + drawn[:, 0])
    assert 0.78 < float(lengths.min()) < 0.95  # of whole pixels
    assert 1.03 < float(lengths.max()) < 1.18
    assert float(y.mean()) == pytest.approx(float((8 + (14 + drawn[:, 0].float()) / 2 - 0.5).mean()), abs=0.5)


def test_the_glyphs_are_shown_each_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(recomposition, "_BATCH", 50)
    train, digits = bars(tmp_path)
    images, shown = map(torch.cat, zip(*Recomposition(train, digits, "wrap").glyphs(), strict=True))
    assert (images.dtype, shown.dtype, images.shape[:2]) == (torch.uint8, torch.int64, (120, 40))
    assert torch.equal((images > 0).any(2).sum(1), 14 + shown)  # one bar's height
    assert torch.equal((images > 0).any(1).sum(1), torch.full((120,), 3))
    edges = images.clone()
    edges[:, 8:-8, 8:-8] = 0
    assert not edges.any()  # there is room on all sides


def drawn_by(made, train):
    """The digits that many canvases composed anew hold."""
    images = train.images.gather(train.index)
    return torch.cat([made(images, train.sums, train.index, 1.0)[2].flatten() for _ in range(100)])


def test_hard_glyphs_are_drawn_more_often_and_unbelieved_ones_are_not(tmp_path):
    train, digits = bars(tmp_path, 400)
    made = Recomposition(train, digits, "wrap")
    own = torch.cat([found for _, found in made.glyphs()])
    alike = torch.bincount(drawn_by(made, train), minlength=10) / torch.bincount(own, minlength=10)
    assert alike.max() / alike.min() < 1.2
    probs = torch.ones(len(own))
    probs[own == 3], probs[own == 4], probs[own == 5] = 0.64, 0.8, 0.1  # hard, half as hard, and read as another digit
    made.prefer_hard(probs, 8)
    rates = torch.bincount(drawn_by(made, train), minlength=10) / torch.bincount(own, minlength=10)
    easy = rates[[0, 1, 2, 6, 7, 8, 9]].mean()
    assert (rates[[3, 4, 5]] / easy).tolist() == pytest.approx([8, 4.5, 1], rel=0.1)


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_of_glyphs_that_are_all_sure_or_all_unbelieved_none_is_preferred(tmp_path, prob):
    train, digits = bars(tmp_path)
    made = Recomposition(train, digits, "wrap")
    made.prefer_hard(torch.full((120,), prob), 8)
    assert made._cumulative is None or torch.allclose(made._cumulative, torch.arange(1, 121) / 120)
