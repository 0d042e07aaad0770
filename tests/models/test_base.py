"""What is read off a distribution of the sum, on distributions small enough to work out by hand."""

import numpy as np
import pytest
import torch

from digitsum.models.base import DigitSequence, Prediction, interval_of, mean_of, median_of, probability_of


def row(*probs):
    return torch.tensor([probs])


@pytest.fixture
def random_probs():
    """Distributions `(200, 37)` of every sharpness."""
    rng = np.random.default_rng(0)
    sharpness = rng.uniform(0.02, 2, 200)
    return torch.from_numpy(np.stack([rng.dirichlet(np.full(37, alpha)) for alpha in sharpness])).float()


# --- probability


def test_the_probability_of_a_sum_is_its_entry():
    probs = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])
    assert probability_of(probs, torch.tensor([1, 2])).tolist() == [0.75, 0.25]


def test_a_sum_beyond_the_distribution_has_probability_0():
    probs = row(0.25, 0.25, 0.5)
    assert [probability_of(probs, torch.tensor([total])).item() for total in (2, 3, 400)] == [0.5, 0, 0]


def test_an_estimate_of_type_float_can_be_asked_for():
    assert probability_of(row(0.25, 0.75), torch.tensor([1.0])).item() == 0.75


# --- median


@pytest.mark.parametrize(
    ("probs", "median"),
    [
        ((1.0,), 0),
        ((0.0, 0.0, 1.0), 2),
        ((0.4, 0.0, 0.3, 0.3), 2),
        ((0.5, 0.5), 0),  # both minimise the error: the smaller
        ((0.25, 0.25, 0.25, 0.25), 1),
        ((0.49, 0.51), 1),
        ((0.5, 0.0, 0.0, 0.5), 0),
    ],
)
def test_the_median_is_the_first_sum_that_half_the_mass_reaches(probs, median):
    assert median_of(row(*probs)).tolist() == [median]


def test_no_sum_has_a_smaller_expected_absolute_error_than_the_median(random_probs):
    sums = torch.arange(37)
    errors = random_probs.double() @ (sums[:, None] - sums).abs().double()  # of each answer
    assert torch.allclose(errors.gather(1, median_of(random_probs)[:, None]).squeeze(1), errors.min(1).values)


def test_the_median_stays_inside_where_rounding_takes_mass_away():
    assert median_of(torch.zeros(1, 4)).tolist() == [3]


# --- mean


@pytest.mark.parametrize(
    ("probs", "mean"), [((1.0,), 0.0), ((0.5, 0.0, 0.5), 1.0), ((0.0, 0.25, 0.75), 1.75), ((0.25, 0.75), 0.75)]
)
def test_the_mean_is_the_centre_of_mass(probs, mean):
    assert mean_of(row(*probs)).tolist() == [mean]


def test_the_mean_equals_an_outside_implementation(random_probs):
    expected = [np.average(np.arange(37), weights=probs) for probs in random_probs.numpy()]
    assert mean_of(random_probs).numpy() == pytest.approx(expected, rel=1e-4)


# --- interval


@pytest.mark.parametrize(
    ("probs", "ends"),
    [
        ((1.0,), (0, 0)),
        ((0.0, 0.0, 1.0, 0.0), (2, 2)),
        ((0.02, 0.96, 0.02), (1, 1)),
        ((0.02, 0.08, 0.8, 0.1), (1, 3)),
        ((0.06, 0.88, 0.06), (0, 2)),
        ((0.06, 0.92, 0.02), (0, 1)),
        ((0.5, 0.0, 0.0, 0.5), (0, 3)),
    ],
)
def test_the_interval_of_90_percent_reaches_from_5_to_95_percent(probs, ends):
    low, high = interval_of(row(*probs))
    assert (low.item(), high.item()) == ends


@pytest.mark.parametrize(("mass", "ends"), [(0.5, (0, 2)), (0.499, (1, 2)), (0.501, (0, 3)), (0.0, (1, 1))])
def test_a_level_that_is_just_reached_counts_as_reached(mass, ends):
    low, high = interval_of(row(0.25, 0.25, 0.25, 0.25), mass)
    assert (low.item(), high.item()) == ends


@pytest.mark.parametrize("mass", [0.5, 0.9, 0.99])
def test_an_interval_holds_its_mass_and_would_not_without_its_ends(random_probs, mass):
    low, high = (end[:, None] for end in interval_of(random_probs, mass))
    sums, probs = torch.arange(37), random_probs.double()
    inside = (low <= sums) & (sums <= high)
    assert ((probs * inside).sum(1) >= mass - 1e-6).all()
    # at most half of what is left out is on either side, and an end further in would leave out more
    tail = (1 - mass) / 2
    assert ((probs * (sums < low)).sum(1) < tail).all()
    assert ((probs * (sums <= low)).sum(1) >= tail - 1e-6).all()
    assert ((probs * (sums < high)).sum(1) < 1 - tail).all()


def test_the_median_lies_in_every_interval(random_probs):
    for mass in (0.1, 0.9):
        low, high = interval_of(random_probs, mass)
        assert ((low <= median_of(random_probs)) & (median_of(random_probs) <= high)).all()


# --- answers and readings


def test_a_reading_is_made_when_it_is_asked_for_and_once():
    calls = []

    def read():
        calls.append(1)
        return DigitSequence(torch.tensor([[3, 4]]), torch.tensor([[10.0, 40.0]]))

    prediction = Prediction(torch.tensor([7.0]), row(*[0.0] * 7, 1.0), read)
    assert calls == []
    assert prediction.sequence is prediction.sequence
    assert calls == [1]


def test_a_plain_answer_has_neither_distribution_nor_reading():
    prediction = Prediction(torch.tensor([7.0]))
    assert prediction.probs is None
    assert prediction.read is None


def test_texts_are_the_digits_in_their_order():
    digits = torch.tensor([[4, 0, 7], [1, -1, -1], [-1, -1, -1]])
    assert DigitSequence(digits, torch.zeros(3, 3)).texts() == ["407", "1", ""]


def test_images_on_which_nothing_was_read_have_empty_texts():
    assert DigitSequence(torch.empty((2, 0), dtype=torch.int64), torch.empty(2, 0)).texts() == ["", ""]
