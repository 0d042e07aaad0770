"""The forward algorithm over frames of classes against every path of a few frames, and in logarithms over many."""

from itertools import groupby, product

import numpy as np
import pytest
import torch

from digitsum.models.lattice import BLANK, NUM_CLASSES, Counts
from digitsum.models.sum_ctc import best_paths, log_distribution, log_likelihood, sequence_log_likelihood

FRAMES = 4
LARGEST = 9 * FRAMES
UNKNOWN = Counts(0, None)
CASES = {
    "fixed": Counts(2, 2),
    "one": Counts(1, 1),
    "as_many_as_frames": Counts(4, 4),
    "range": Counts(1, 3),
    "range_beyond_the_frames": Counts(2, 6),
    "unknown": UNKNOWN,
}
every_case = pytest.mark.parametrize("counts", CASES.values(), ids=CASES.keys())
both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def spelled(path):
    """The digits that a path of classes spells."""
    return [label for label, _ in groupby(path) if label != BLANK]


def frames_of(*shape, seed=0, spread=2.0, dtype=torch.float64):
    """Random logarithms of probabilities, `(*shape, 11)`."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn((*shape, NUM_CLASSES), generator=generator, dtype=torch.float64)
    return logits.log_softmax(-1).to(dtype)


def frames_that_say(text, nats, dtype=torch.float32):
    """One image whose frames each give one label all but `exp(-nats)`: a digit, or a space for blank."""
    logits = torch.zeros((1, len(text), NUM_CLASSES), dtype=torch.float64)
    for frame, label in enumerate(text):
        logits[0, frame, BLANK if label == " " else int(label)] = nats
    return logits.log_softmax(-1).to(dtype)


@pytest.fixture(scope="module")
def paths():
    """All 14,641 paths of four frames, and how many digits with what sum each spells."""
    every = list(product(range(NUM_CLASSES), repeat=FRAMES))
    words = [spelled(path) for path in every]
    return np.array(every), np.array([len(word) for word in words]), np.array([sum(word) for word in words])


def enumerated(paths, log_probs, counts, length_penalty=0.0):
    """Probabilities `(37,)` of each sum of one image `(4, 11)`, added up path by path."""
    classes, number, total = paths
    log_probs = log_probs.double().numpy()
    weights = np.exp(log_probs[np.arange(FRAMES), classes].sum(1) - length_penalty * number)
    return np.bincount(total, np.where(allowed(number, counts), weights, 0), LARGEST + 1)


def allowed(number, counts):
    return (number >= counts.min) & (True if counts.max is None else number <= counts.max)


def in_logarithms(log_probs, target, counts):
    """What `log_likelihood` should say of one image `(T, 11)`, by a recursion without any scaling."""
    step, layers = (0, 1) if counts.max is None else (1, counts.max + 1)
    alpha = np.full((NUM_CLASSES, layers, target + 1), -np.inf)
    alpha[BLANK, 0, 0] = 0
    for frame in log_probs.double().numpy():
        following = np.empty_like(alpha)
        for digit in range(10):
            moved = np.full(alpha.shape[1:], -np.inf)
            if digit <= target:
                others = np.logaddexp.reduce(np.delete(alpha, digit, axis=0))
                moved[step:, digit:] = others[: layers - step, : target + 1 - digit]
            following[digit] = np.logaddexp(alpha[digit], moved) + frame[digit]
        following[BLANK] = np.logaddexp.reduce(alpha) + frame[BLANK]
        alpha = following
    return np.logaddexp.reduce(alpha[:, counts.min * step :, target], axis=None)


# --- against every path


@both_precisions
@every_case
def test_the_distribution_is_that_of_all_paths(paths, counts, dtype):
    log_probs = frames_of(5, FRAMES, dtype=dtype)
    probs = log_distribution(log_probs, counts).exp()
    assert probs.dtype == dtype
    for row, image in zip(probs.double().numpy(), log_probs, strict=True):
        expected = enumerated(paths, image, counts)
        common = min(len(row), len(expected))
        assert row[:common] == pytest.approx(expected[:common], abs=1e-6 if dtype == torch.float32 else 1e-13)
        assert expected[common:].sum() == row[common:].sum() == 0


@both_precisions
@pytest.mark.parametrize("length_penalty", [0.0, 0.7])
@every_case
def test_the_likelihood_of_each_sum_is_that_of_all_paths(paths, counts, length_penalty, dtype):
    (image,) = frames_of(1, FRAMES, seed=1, dtype=dtype)
    sums = torch.arange(LARGEST + 1)
    logs = log_likelihood(image.expand(len(sums), -1, -1), sums, counts, length_penalty)
    assert logs.dtype == dtype
    expected = enumerated(paths, image, counts, length_penalty)
    assert logs.exp().double().numpy() == pytest.approx(expected, abs=1e-6 if dtype == torch.float32 else 1e-13)
    assert np.array_equal(logs.isinf().numpy(), expected == 0)
    possible = expected > 0
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    assert logs.double().numpy()[possible] == pytest.approx(np.log(expected[possible]), abs=tolerance)


@both_precisions
@every_case
def test_the_best_path_of_each_sum_is_the_best_of_all_paths(paths, counts, dtype):
    classes, number, total = paths
    (image,) = frames_of(1, FRAMES, seed=2, dtype=dtype)
    sums = torch.arange(LARGEST + 1)
    found = best_paths(image.expand(len(sums), -1, -1), sums, counts)
    scores = image.double().numpy()[np.arange(FRAMES), classes].sum(1)
    for target, path in enumerate(found.tolist()):
        wanted = allowed(number, counts) & (total == target)
        if wanted.any():
            assert path == classes[np.where(wanted, scores, -np.inf).argmax()].tolist()
        else:
            assert path == [BLANK] * FRAMES


def test_a_batch_has_the_same_answers_as_its_images_alone():
    log_probs, sums = frames_of(6, 12), torch.tensor([0, 4, 9, 18, 30, 36])
    for counts in CASES.values():
        together = log_likelihood(log_probs, sums, counts), best_paths(log_probs, sums, counts)
        for row in range(len(sums)):
            alone = slice(row, row + 1)
            assert together[0][row] == pytest.approx(log_likelihood(log_probs[alone], sums[alone], counts).item())
            assert torch.equal(together[1][alone], best_paths(log_probs[alone], sums[alone], counts))


# --- what the frames spell


@pytest.mark.parametrize(
    ("text", "digits", "total"),
    [
        ("77", 1, 7),  # equal neighbours are one digit
        ("7 7", 2, 14),  # a blank parts them
        ("7  7", 2, 14),
        ("71", 2, 8),  # no blank is needed between two that differ
        ("7717", 3, 15),
        (" 00 ", 1, 0),  # a 0 counts as a digit
        ("   ", 0, 0),
        ("9 9 9 9", 4, 36),
    ],
)
def test_equal_neighbours_count_once_and_a_blank_parts_them(text, digits, total):
    log_probs = frames_that_say(text, nats=40, dtype=torch.float64)
    probs = log_distribution(log_probs, UNKNOWN).exp()
    assert probs.argmax() == total
    assert probs[0, total] == pytest.approx(1, abs=1e-9)
    if digits:
        counts = Counts(digits, digits)
        assert log_likelihood(log_probs, torch.tensor([total]), counts).item() == pytest.approx(0, abs=1e-9)
        (path,) = best_paths(log_probs, torch.tensor([total]), counts).tolist()
        assert path == [BLANK if label == " " else int(label) for label in text]


def test_two_frames_cannot_hold_two_equal_digits():
    log_probs = frames_of(1, 2)
    assert log_likelihood(log_probs, torch.tensor([18]), Counts(2, 2)).item() == -torch.inf
    assert log_likelihood(log_probs, torch.tensor([17]), Counts(2, 2)).isfinite().all()


def test_each_digit_of_a_path_costs_the_length_penalty():
    # two readings of the sum 5 that are equally likely: a 5, or a 4 and a 1
    log_probs = torch.full((1, 3, NUM_CLASSES), -torch.inf, dtype=torch.float64)
    log_probs[0, 0, [4, 5]] = log_probs[0, 2, [1, BLANK]] = np.log(0.5)
    log_probs[0, 1, BLANK] = 0
    penalty = 1.5
    logs = log_likelihood(log_probs, torch.tensor([5]), UNKNOWN, penalty)
    assert logs.exp().item() == pytest.approx(0.25 * np.exp(-penalty) + 0.25 * np.exp(-2 * penalty))


# --- adding up


@both_precisions
@pytest.mark.parametrize("frames", [1, 4, 60])
def test_the_distribution_of_an_unknown_number_of_digits_adds_up_to_1(frames, dtype):
    logs = log_distribution(frames_of(3, frames, dtype=dtype), UNKNOWN)
    assert logs.shape == (3, 9 * frames + 1)
    assert logs.exp().sum(1).tolist() == pytest.approx([1] * 3, abs=1e-5 if dtype == torch.float32 else 1e-12)


def test_the_distributions_of_all_numbers_of_digits_add_up_to_that_of_an_unknown_one():
    log_probs = frames_of(2, 6)
    whole = log_distribution(log_probs, UNKNOWN).exp()
    parts = torch.zeros_like(whole)
    parts[:, 0] = log_probs[:, :, BLANK].sum(1).exp()  # no digit at all
    for number in range(1, 7):
        parts[:, : 9 * number + 1] += log_distribution(log_probs, Counts(number, number)).exp()
    assert torch.allclose(parts, whole, atol=1e-12)


@pytest.mark.parametrize("counts", [Counts(4, 4), Counts(2, 6), UNKNOWN], ids=["fixed", "range", "unknown"])
def test_the_likelihoods_are_those_of_the_distribution(counts):
    log_probs = frames_of(37, 42)
    sums = torch.arange(37)
    logs = log_distribution(log_probs, counts)
    assert torch.allclose(log_likelihood(log_probs, sums, counts), logs[sums, sums], atol=1e-9)


# --- gradients


@pytest.mark.parametrize("length_penalty", [0.0, 0.5])
@pytest.mark.parametrize("counts", [Counts(2, 2), Counts(1, 3), UNKNOWN], ids=["fixed", "range", "unknown"])
def test_gradients_equal_finite_differences(counts, length_penalty):
    log_probs = frames_of(3, 5).requires_grad_()
    sums = torch.tensor([3, 7, 16])
    assert torch.autograd.gradcheck(lambda x: log_likelihood(x, sums, counts, length_penalty), log_probs)


def test_gradients_reach_the_logits():
    logits = frames_of(2, 4).requires_grad_()
    sums = torch.tensor([5, 12])
    assert torch.autograd.gradcheck(lambda x: log_likelihood(x.log_softmax(2), sums, Counts(2, 3)), logits)


@both_precisions
def test_an_impossible_sum_has_no_gradient_and_spoils_no_other(dtype):
    log_probs = frames_of(2, 8, dtype=dtype).requires_grad_()
    logs = log_likelihood(log_probs, torch.tensor([20, 10]), Counts(2, 2))
    assert logs[0] == -torch.inf
    logs.sum().backward()
    assert log_probs.grad[0].abs().max() == 0
    assert log_probs.grad[1].sum(1).tolist() == pytest.approx([1] * 8, rel=1e-5)


# --- many frames, unlikely sums


def loss_and_gradient(log_probs, sums, counts):
    log_probs = log_probs.detach().requires_grad_()
    logs = log_likelihood(log_probs, sums, counts)
    logs.sum().backward()
    return logs.detach(), log_probs.grad


@pytest.mark.parametrize("counts", [Counts(4, 4), Counts(2, 6), UNKNOWN], ids=["fixed", "range", "unknown"])
@pytest.mark.parametrize("spread", [1.0, 30.0], ids=["random", "extreme"])
def test_nothing_vanishes_over_hundreds_of_frames(spread, counts):
    log_probs, sums = frames_of(2, 400, spread=spread, dtype=torch.float32), torch.tensor([13, 30])
    logs, gradient = loss_and_gradient(log_probs, sums, counts)
    expected = [in_logarithms(image, total, counts) for image, total in zip(log_probs, sums.tolist(), strict=True)]
    assert logs.tolist() == pytest.approx(expected, rel=1e-5)
    assert gradient.sum(2).flatten().tolist() == pytest.approx([1] * 800, rel=1e-4)  # posterior probabilities
    reference = loss_and_gradient(log_probs.double(), sums, counts)[1]
    assert torch.allclose(gradient.double(), reference, atol=2e-4)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("9 9 9 9", 0),  # every digit wrong
        ("9 9 9 9", 20),  # two wrong, any two: the first half and the second half each rule the other out
        ("9999999", 36),  # no blank where three are needed
        ("       ", 36),  # nothing but blank
        ("1 2 3 4 5 6 7 8 9", 33),  # twice as many digits as there may be
    ],
)
@pytest.mark.parametrize("nats", [30, 60])
@pytest.mark.parametrize("counts", [Counts(4, 4), Counts(2, 4)], ids=["fixed", "range"])
def test_a_sum_against_all_evidence_has_the_right_loss_and_gradient_in_float32(text, total, nats, counts):
    log_probs, sums = frames_that_say(text, nats), torch.tensor([total])
    logs, gradient = loss_and_gradient(log_probs, sums, counts)
    expected = in_logarithms(log_probs[0], total, counts)
    assert expected < -1.5 * nats
    assert logs.item() == pytest.approx(expected, rel=1e-5)
    assert gradient.sum(2).flatten().tolist() == pytest.approx([1] * len(text), rel=1e-4)
    reference = loss_and_gradient(log_probs.double(), sums, counts)[1]
    assert torch.allclose(gradient.double(), reference, atol=1e-4)


def test_an_unlikely_sum_beside_likely_ones_changes_none_of_them():
    log_probs = torch.cat([frames_that_say("9 9 9 9", 60), frames_of(1, 7, dtype=torch.float32)])
    sums, counts = torch.tensor([0, 10]), Counts(4, 4)
    logs, gradient = loss_and_gradient(log_probs, sums, counts)
    alone, gradient_alone = loss_and_gradient(log_probs[1:], sums[1:], counts)
    assert logs[0] < -200
    # a matrix product may add up in another order in another batch
    assert torch.allclose(logs[1], alone[0], rtol=1e-6)
    assert torch.allclose(gradient[1], gradient_alone[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("nats", [15, 40])
def test_an_unlikely_number_of_digits_still_has_a_distribution(nats):
    log_probs = frames_that_say(" " * 21, nats)
    logs = log_distribution(log_probs, Counts(7, 7))
    assert logs.logsumexp(1).isfinite().all()
    expected = log_distribution(log_probs.double(), Counts(7, 7)).softmax(1)
    assert torch.allclose(logs.softmax(1).double(), expected, atol=1e-5)


def test_the_best_path_is_found_over_hundreds_of_frames():
    log_probs = frames_of(1, 400, dtype=torch.float32)
    log_probs[..., BLANK] += 6
    path = best_paths(log_probs, torch.tensor([23]), Counts(4, 4))[0].tolist()
    assert len(spelled(path)) == 4
    assert sum(spelled(path)) == 23


def test_more_digits_than_frames_take_no_memory():
    log_probs = torch.zeros(2, 3, NUM_CLASSES).log_softmax(2)
    sums = torch.tensor([5, 27])
    wide, narrow = Counts(1, 10**9), Counts(1, 3)
    assert torch.equal(log_likelihood(log_probs, sums, wide), log_likelihood(log_probs, sums, narrow))
    assert torch.equal(log_distribution(log_probs, wide), log_distribution(log_probs, narrow))


def test_an_absurd_sum_takes_no_memory_and_cannot_be():
    log_probs = torch.zeros(1, 3, NUM_CLASSES).log_softmax(2)
    assert log_likelihood(log_probs, torch.tensor([2**50]), Counts(0, None)).item() == -torch.inf


def test_digits_that_are_said_are_certain_and_others_are_not():
    classes = torch.tensor([[4, 4, BLANK, 4, 7, BLANK], [BLANK, 1, BLANK, BLANK, BLANK, BLANK]])
    log_probs = (20 * torch.nn.functional.one_hot(classes, NUM_CLASSES)).float().log_softmax(2)
    assert (sequence_log_likelihood(log_probs, torch.tensor([[4, 4, 7], [1, -1, -1]])) > -1e-4).all()
    assert (sequence_log_likelihood(log_probs, torch.tensor([[4, 7, -1], [1, 1, -1]])) < -5).all()


def test_digits_that_do_not_fit_into_the_frames_count_nothing():
    log_probs = torch.zeros(1, 2, NUM_CLASSES).log_softmax(2).requires_grad_(True)
    found = sequence_log_likelihood(log_probs, torch.tensor([[1, 1]]))
    found.sum().backward()
    assert found == 0
    assert not log_probs.grad.any()
