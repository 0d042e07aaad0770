"""Digits that sums give away, against brute force and on composed canvases."""

import itertools
import os

import numpy as np
import pytest

from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.models.lattice import Counts
from digitsum.training.pseudo_labels import label_by_sums, most_probable_digits, sum_posteriors

FOUR = Counts(4, 4)


def composed(count, glyphs="bundled", **layout):
    pool = load_glyph_pools(glyphs, mnist_root=os.environ.get("DIGITSUM_MNIST"))["train"]
    canvases, placed = compose(Layout(**layout), pool, seed=0, stream=0, start=0, count=count)
    return canvases, placed.digits.astype(np.int64), placed.sums


@pytest.fixture(scope="module")
def canvases():
    """Three hundred canvases, their digits and their sums."""
    return composed(300)


def share_right(labels, digits):
    drawn = digits[labels.index][:, : labels.digits.shape[1]]
    return (labels.digits == drawn)[drawn >= 0].mean()


# --- given the distributions


@pytest.mark.parametrize("places", [1, 2, 3])
def test_posteriors_and_best_digits_are_those_of_trying_all(places):
    rng = np.random.default_rng(places)
    probs = rng.dirichlet(np.full(10, 0.3), (6, places))
    sums = rng.integers(9 * places + 1, size=6)
    joint, likelihood = sum_posteriors(probs, sums)
    best = most_probable_digits(probs, sums)
    for row in range(6):
        expected, ways = np.zeros((places, 10)), {}
        for digits in itertools.product(range(10), repeat=places):
            if sum(digits) == sums[row]:
                ways[digits] = probs[row, range(places), digits].prod()
                expected[range(places), digits] += ways[digits]
        assert np.allclose(joint[row], expected)
        assert likelihood[row] == pytest.approx(sum(ways.values()))
        assert ways[tuple(best[row])] == pytest.approx(max(ways.values()))


def test_a_sum_that_no_digits_have_has_no_probability():
    joint, likelihood = sum_posteriors(np.full((1, 2, 10), 0.1), np.array([19]))
    assert likelihood == 0
    assert not joint.any()


# --- on canvases


def test_most_digits_are_found_from_sums_alone(canvases):
    images, digits, sums = canvases
    labels, summary = label_by_sums(images, sums, FOUR)
    assert labels.share > 0.7
    assert share_right(labels, digits) > 0.95
    assert np.array_equal(labels.digits.sum(1), sums[labels.index])
    assert np.allclose(labels.probs.sum(1), 1)
    assert labels.log_likelihood < 0
    assert summary.startswith(f"{len(labels.index)} of 300 canvases fall apart into")


@pytest.mark.skipif("DIGITSUM_MNIST" not in os.environ, reason="needs MNIST")
def test_most_mnist_digits_are_found_from_three_hundred_sums():
    images, digits, sums = composed(300, "mnist")
    assert share_right(label_by_sums(images, sums, FOUR)[0], digits) > 0.95


def test_the_same_seed_gives_the_same_digits(canvases):
    images, _, sums = canvases
    first, second = (label_by_sums(images[:100], sums[:100], FOUR, seed=3)[0] for _ in range(2))
    assert np.array_equal(first.digits, second.digits)
    assert np.array_equal(first.probs, second.probs)
    assert first.log_likelihood == second.log_likelihood


def test_float_images_give_digits_as_well(canvases):
    images, digits, sums = canvases
    labels, _ = label_by_sums((images / 255).astype(np.float32), sums, FOUR)
    assert share_right(labels, digits) > 0.95


def test_canvases_may_hold_several_numbers_of_digits():
    images, digits, sums = composed(300, num_digits=[2, 4])
    labels, _ = label_by_sums(images, sums, Counts(2, 4))
    assert set((labels.digits >= 0).sum(1)) == {2, 3, 4}
    assert share_right(labels, digits) > 0.9


def test_a_sum_that_its_canvas_cannot_have_is_left_out(canvases):
    images, _, sums = canvases
    wrong = sums.copy()
    wrong[:20] = 37
    assert label_by_sums(images, wrong, FOUR)[0].index.min() >= 20


def test_sums_of_other_canvases_give_no_digits(canvases):
    images, _, sums = canvases
    labels, reason = label_by_sums(images, np.random.default_rng(0).permutation(sums), FOUR)
    assert labels is None
    assert reason.startswith("the sums do not tell")


@pytest.mark.parametrize("value", [0, 255], ids=["empty", "full"])
def test_canvases_without_the_right_number_of_glyphs_give_none(value):
    labels, reason = label_by_sums(np.full((50, 40, 168), value, np.uint8), np.full(50, 18), FOUR)
    assert labels is None
    assert reason == "too few canvases fall apart cleanly (0 of 50): training without a warm start"


def test_few_canvases_give_none(canvases):
    images, _, sums = canvases
    assert label_by_sums(images[:20], sums[:20], FOUR)[0] is None


@pytest.mark.parametrize("same_sum", [True, False])
def test_equal_images_give_none(same_sum):
    canvases = np.zeros((60, 40, 40), np.uint8)
    canvases[:, 10:30, 10:20] = 255
    sums = np.full(60, 5) if same_sum else np.arange(60) % 10
    assert label_by_sums(canvases, sums, Counts(1, 1))[0] is None
