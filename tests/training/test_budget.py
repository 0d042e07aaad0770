"""Few images are seen more often each, in smaller batches, and fewer in all."""

import itertools

import pytest

from digitsum.training.budget import budget_for, validation_interval

COUNTS = [1, 2, 30, 299, 300, 750, 1_500, 3_000, 4_001, 6_000, 12_000, 24_000, 100_000, 10**7]


def test_the_full_data_set_is_trained_on_as_ever():
    budget = budget_for(24_000)
    assert (budget.batch_size, budget.max_epochs, validation_interval(budget.max_epochs)) == (64, 10, 1)


def test_fewer_images_are_seen_more_often_each_and_fewer_in_all():
    epochs = [budget_for(count).max_epochs for count in COUNTS]
    assert epochs == sorted(epochs, reverse=True)
    seen = [count * number for count, number in zip(COUNTS, epochs, strict=True)]
    assert all(before <= 1.1 * after for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize("fine_tuning", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_the_last_epoch_is_validated_and_some_twenty_before_it(count, fine_tuning):
    epochs = budget_for(count, fine_tuning=fine_tuning).max_epochs
    interval = validation_interval(epochs)
    assert epochs % interval == 0
    assert epochs < 20 or 20 <= epochs // interval <= 40


@pytest.mark.parametrize(("epochs", "expected"), [(-1, 1), (1, 1), (39, 1), (40, 2), (41, 1), (60, 3), (180, 9)])
def test_a_number_of_epochs_of_ones_own_has_its_last_one_validated(epochs, expected):
    assert validation_interval(epochs) == expected
