"""The reader: what supervises it, what it answers, and that it learns digits from their sums."""

from itertools import groupby

import pytest
import torch

from digitsum.errors import InputError
from digitsum.models import fast_loops, reader
from digitsum.models.lattice import BLANK, NUM_CLASSES, Counts
from digitsum.models.reader import STRIDE, Reader, ReaderSettings, counts_of
from digitsum.models.registry import NETWORKS, network_settings
from digitsum.models.sum_ctc import log_distribution, log_likelihood, sequence_log_likelihood

SIZE = (40, 168)


def make_reader(size=SIZE, **options):
    torch.manual_seed(0)
    return Reader(size, ReaderSettings(**{"width": 4, **options}))


def outputs_of(count, frames, copies=1, blank=0.0):
    """What a reader might say of `count` images in so many shifted copies."""
    logits = 2 * torch.randn((count, copies, frames, NUM_CLASSES), generator=torch.Generator().manual_seed(0))
    logits[..., BLANK] += blank
    return logits.log_softmax(3)


def saying(*texts):
    """What a reader says that is all but sure of each frame's class: a digit, or a space for blank."""
    classes = torch.tensor([[BLANK if symbol == " " else int(symbol) for symbol in text] for text in texts])
    return (20 * torch.nn.functional.one_hot(classes, NUM_CLASSES)).float().log_softmax(2).unsqueeze(1)


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


# --- settings


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width", 0),
        ("depth", 3),
        ("depth", 6),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", float("nan")),
        ("length_penalty", -0.1),
        ("length_penalty", float("inf")),
        ("length_penalty", float("nan")),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_name(option, value):
    with pytest.raises(InputError, match=f"^model.{option}: expected .*, got {value}$"):
        ReaderSettings(**{option: value})


NO_NUMBERS = [0, -1, True, 2.0, "4", "46", [4], [0, 3], [5, 2], [2, 3, 4], [2, None], [2.0, 3], [True, 3], [], {2: 3}]


@pytest.mark.parametrize("num_digits", NO_NUMBERS, ids=repr)
def test_what_is_no_number_of_digits_is_refused_with_one_line(num_digits):
    reader = make_reader()
    for refuse in (
        lambda: counts_of(num_digits),
        lambda: ReaderSettings(num_digits=num_digits),
        lambda: reader.set_decoding(num_digits=num_digits),
    ):
        with pytest.raises(InputError, match="num_digits: expected a whole number") as caught:
            refuse()
        assert "\n" not in str(caught.value)
    assert reader.counts == Counts(4, 4)


@pytest.mark.parametrize(
    ("num_digits", "counts"),
    [
        (4, Counts(4, 4)),
        (1, Counts(1, 1)),
        ([2, 6], Counts(2, 6)),
        ((3, 3), Counts(3, 3)),
        (None, Counts(0, None)),
    ],
)
def test_digits_are_a_number_a_range_or_unknown(num_digits, counts):
    assert counts_of(num_digits) == counts
    assert make_reader(num_digits=num_digits).counts == counts


@pytest.mark.parametrize("size", [(7, 168), (40, 7)])
def test_images_too_small_are_refused(size):
    with pytest.raises(InputError, match=f"{size[0]}x{size[1]} are too small"):
        Reader(size)


def test_the_table_leads_to_the_network():
    assert NETWORKS["reader"] == (Reader, ReaderSettings)
    assert network_settings("reader", {"width": 4}) == ReaderSettings(width=4)
    assert Reader.variable_width
    assert Reader.predicts_digits


# --- the network


def test_the_documentation_names_the_number_of_parameters():
    number = sum(parameter.numel() for parameter in Reader(SIZE).parameters())
    assert f"{number:,} parameters" in Reader.__doc__


@pytest.mark.parametrize("size", [(40, 168), (40, 169), (40, 30), (28, 8), (40, 1), (41, 500)])
def test_each_8_pixels_have_a_column(size):
    output = make_reader().eval()(torch.zeros((2, *size), dtype=torch.uint8))
    assert output.shape == (2, 1, -(-size[1] // 8), NUM_CLASSES)
    assert output.dtype == torch.float32
    assert torch.allclose(output.exp().sum(3), torch.ones(()))


@pytest.mark.parametrize("training", [False, True])
def test_uint8_and_float_images_give_the_same_output(images, training):
    reader = make_reader().train(training)
    assert torch.allclose(reader(images), reader(images.float() / 255), atol=1e-5)


def test_the_biases_begin_with_four_fifths_of_blank():
    probs = make_reader().symbols.bias.detach().softmax(0)
    assert probs.tolist() == pytest.approx([0.02] * 10 + [0.8])


def test_a_fresh_reader_says_mostly_blank(images):
    probs = Reader(SIZE)(images).exp()
    assert 0.6 < probs[..., BLANK].mean() < 0.9


@pytest.mark.parametrize(("depth", "left", "right"), [(7, 32, 36), (5, 24, 28), (4, 16, 22)])  # 69, 53, 39 pixels
def test_a_column_sees_so_many_pixels_and_nothing_else(images, depth, left, right):
    reader = make_reader(depth=depth, width=24).eval()
    before = reader(images)
    at = 8
    for unseen in (slice(STRIDE * at + right + 1, None), slice(0, STRIDE * at - left)):
        other = images.clone()
        other[:, :, unseen] = 255 - other[:, :, unseen]
        assert torch.allclose(reader(other)[:, :, at], before[:, :, at], atol=1e-6)
    for pixel in (STRIDE * at + right, STRIDE * at - left):
        other = images.clone()
        other[:, :, pixel] = 255 * (other[:, :, pixel] < 128)
        assert not torch.allclose(reader(other)[:, :, at], before[:, :, at], rtol=0, atol=1e-6)


def test_what_comes_further_to_the_right_changes_no_column_before(images):
    reader = make_reader().eval()
    longer = torch.cat([images, images], dim=2)
    kept = (SIZE[1] - 55) // STRIDE
    assert torch.allclose(reader(longer)[:, :, :kept], reader(images)[:, :, :kept], atol=1e-5)


def test_dropout_works_while_learning_alone(images):
    reader = make_reader(dropout=0.5)
    assert not torch.equal(reader(images), reader(images))
    reader.eval()
    assert torch.equal(reader(images), reader(images))


# --- the loss


@pytest.mark.parametrize("num_digits", [None, [1, 4], 4])
def test_known_digits_count_instead_of_their_sum(num_digits):
    reader, output = make_reader(num_digits=num_digits), outputs_of(3, 8)
    sums, digits = torch.tensor([12, 20, 13]), torch.tensor([[-1] * 4, [8, 0, 7, 5], [-1] * 4])
    alone = torch.stack([reader.loss(output[i : i + 1], sums[i : i + 1]) for i in range(3)])
    alone[1] = -sequence_log_likelihood(output[1:2, 0], digits[1:2])
    assert torch.allclose(reader.loss(output, sums, digits), alone.mean())


@pytest.mark.parametrize("num_digits", [4, [2, 6], None])
@pytest.mark.parametrize("length_penalty", [0.0, 0.5])
def test_the_loss_is_the_mean_surprise_in_nats(num_digits, length_penalty):
    output, sums = outputs_of(3, 42), torch.tensor([3, 18, 36])
    reader = make_reader(num_digits=num_digits, length_penalty=length_penalty)
    expected = -log_likelihood(output[:, 0].double(), sums, reader.counts, length_penalty).mean()
    assert reader.loss(output, sums).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("num_digits", [4, [2, 6], None])
def test_the_loss_and_its_gradient_are_as_exact_under_autocast(num_digits):
    sums, reader = torch.tensor([3, 18, 30]), make_reader(num_digits=num_digits)
    results = []
    for enabled in (False, True):
        output = outputs_of(3, 42).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = reader.loss(output, sums)
        loss.backward()
        results.append((loss, output.grad))
    assert results[1][0].dtype == torch.float32
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("num_digits", [4, [2, 6], None])
def test_the_answer_is_as_exact_under_autocast(num_digits):
    output, reader = outputs_of(20, 42), make_reader(num_digits=num_digits).eval()
    expected = reader.predict(output)
    with torch.autocast("cpu", torch.bfloat16):
        estimate, prediction = reader.estimate(output), reader.predict(output)
    assert prediction.probs.dtype == torch.float32
    assert torch.equal(prediction.probs, expected.probs)
    assert torch.equal(estimate, expected.estimate)


def test_the_output_is_float32_under_autocast(images):
    with torch.autocast("cpu", torch.bfloat16):
        output = make_reader().eval()(images)
    assert output.dtype == torch.float32
    assert torch.allclose(output.exp().sum(3), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize(
    ("num_digits", "frames", "total"),
    [
        (4, 42, 37),  # more than 4 digits can have
        ([2, 3], 42, 28),
        (4, 3, 5),  # more digits than frames
        (2, 2, 18),  # 9 and 9 need a blank between them
        (None, 4, 36),
        (None, 1, 400),
    ],
)
def test_a_sum_that_cannot_be_is_one_line_and_no_nan(num_digits, frames, total):
    reader = make_reader(num_digits=num_digits)
    with pytest.raises(InputError, match=f"^the sum {total} cannot be") as caught:
        reader.loss(outputs_of(2, frames), torch.tensor([total, total]))
    assert "\n" not in str(caught.value)


def test_an_unlikely_sum_is_no_mistake():
    output = saying("9 9 9 9").requires_grad_()
    loss = make_reader().loss(output, torch.tensor([0]))
    loss.backward()
    assert 70 < loss.item() < 90
    assert output.grad.isfinite().all()
    assert output.grad.abs().sum() > 1


# --- the answer


@pytest.mark.parametrize("blank", [-20.0, 0.0, 3.0, 20.0], ids=["no_blank", "some_blank", "much_blank", "all_blank"])
def test_while_learning_the_estimate_is_the_sum_of_the_most_probable_classes(blank):
    output = outputs_of(50, 30, blank=blank)
    expected = [sum(symbol for symbol, _ in groupby(row) if symbol != BLANK) for (row,) in output.argmax(3).tolist()]
    estimate = make_reader().train().estimate(output)
    assert estimate.dtype == torch.float32
    assert estimate.tolist() == expected


@pytest.mark.parametrize("num_digits", [4, [2, 6], None])
def test_else_the_estimate_is_the_most_probable_sum(num_digits):
    output, reader = outputs_of(20, 30), make_reader(num_digits=num_digits).eval()
    expected = log_distribution(output[:, 0].double(), reader.counts).argmax(1)
    assert torch.equal(reader.estimate(output), expected.float())
    assert torch.equal(reader.predict(output).estimate, expected.float())


@pytest.mark.parametrize("num_digits", [1, 4, [2, 6], None])
def test_an_answer_has_a_distribution_and_the_digits_that_add_up_to_its_estimate(num_digits):
    reader, output = make_reader(num_digits=num_digits), outputs_of(30, 42, blank=4.0)
    prediction = reader.predict(output)
    assert prediction.probs.sum(1).tolist() == pytest.approx([1] * 30, abs=1e-5)
    assert torch.equal(prediction.probs.argmax(1).float(), prediction.estimate)
    digits = prediction.sequence.digits
    assert torch.equal(digits.clamp_min(0).sum(1), prediction.estimate.long())
    number = (digits >= 0).sum(1)
    assert (number >= reader.counts.min).all()
    assert reader.counts.max is None or (number <= reader.counts.max).all()
    assert digits.shape[1] == number.max()
    assert (digits.lt(0).int().diff(dim=1) >= 0).all()  # -1 behind the last digit, nowhere else


def test_the_places_are_pixels_from_left_to_right_within_the_image():
    prediction = make_reader(num_digits=[2, 6]).predict(outputs_of(30, 21, blank=2.0))
    digits, places = prediction.sequence.digits, prediction.sequence.positions
    assert torch.equal(places.isnan(), digits < 0)
    for row, real in zip(places, digits >= 0, strict=True):
        assert (row[real].diff() > 0).all()
        assert ((row[real] > 0) & (row[real] < 168)).all()


def test_a_digits_place_is_the_middle_of_its_frames():
    reader = make_reader(num_digits=[1, 4])
    reading = reader.predict(saying(" 333 4  ", "7      0", "   55555")).sequence
    assert reading.texts() == ["34", "70", "5"]
    assert reading.positions.nan_to_num(-1).tolist() == [[20, 44], [4, 60], [44, -1]]  # frames are 8 pixels wide


def test_images_without_a_digit_have_an_empty_reading():
    prediction = make_reader(num_digits=None).predict(saying("    ", "    "))
    assert prediction.estimate.tolist() == [0, 0]
    assert prediction.sequence.texts() == ["", ""]
    assert prediction.sequence.positions.shape == (2, 0)


def test_from_then_on_as_many_digits_are_read_as_are_expected():
    reader, output = make_reader(num_digits=4).eval(), saying(" 1 2 3 4 ")
    assert reader.predict(output).sequence.texts() == ["1234"]
    for num_digits, number in ((2, 2), ([5, 5], 5), (None, 4), (4, 4)):
        reader.set_decoding(num_digits=num_digits)
        prediction = reader.predict(output)
        assert len(prediction.sequence.texts()[0]) == number
        assert torch.equal(reader.estimate(output), prediction.estimate)
    assert reader.predict(output).estimate.item() == 10


@pytest.mark.parametrize("num_digits", [12, [12, 14]])
def test_more_digits_than_an_image_can_hold_are_one_line_and_no_nan(num_digits):
    reader = make_reader(num_digits=num_digits).eval()
    with pytest.raises(InputError, match="num_digits"):
        reader.predict(outputs_of(2, 10))


def test_a_number_of_digits_that_the_columns_all_but_rule_out_still_has_a_distribution():
    prediction = make_reader(num_digits=7).predict(saying(" " * 42))
    assert prediction.probs.sum().item() == pytest.approx(1, abs=1e-5)
    assert len(prediction.sequence.texts()[0]) == 7


# --- copies


def test_a_reader_that_learns_has_one_copy_and_otherwise_as_many_as_it_is_told(images):
    reader = make_reader()
    for copies, frames in ((1, 21), (2, 22), (6, 23)):
        reader.set_decoding(tta=copies)
        assert reader.train()(images).shape == (5, 1, 21, NUM_CLASSES)
        assert reader.eval()(images).shape == (5, copies, frames, NUM_CLASSES)


@pytest.mark.parametrize("copies", [0, 7, -1, True, 2.0, None, "2", [2]], ids=repr)
def test_what_is_no_number_of_copies_is_refused_with_one_line(copies):
    with pytest.raises(InputError, match=r"^tta: expected 1 to 6, got ") as caught:
        make_reader().set_decoding(tta=copies)
    assert "\n" not in str(caught.value)


def test_a_choice_that_the_reader_does_not_have_is_refused_by_its_name():
    with pytest.raises(InputError, match=r"^width: "):
        make_reader().set_decoding(width=8)


def test_the_distribution_is_the_mean_of_the_copies():
    output, reader = outputs_of(20, 22, copies=3), make_reader().eval()
    expected = torch.stack([reader.predict(output[:, [copy]]).probs for copy in range(3)]).mean(0)
    prediction = reader.predict(output)
    assert torch.allclose(prediction.probs, expected, atol=1e-6)
    assert torch.equal(prediction.estimate, expected.argmax(1).float())
    assert torch.equal(reader.estimate(output), prediction.estimate)
    assert torch.equal(prediction.sequence.digits.clamp_min(0).sum(1), prediction.estimate.long())


@pytest.mark.parametrize("total", [10, 11])
def test_the_loss_of_several_copies_is_that_of_their_mean(total):
    output = torch.cat([saying(" 1 2 3 4 "), outputs_of(1, 9)], dim=1)
    reader = make_reader().eval()
    logs = log_likelihood(output[0].double(), torch.tensor([total, total]), reader.counts)
    assert reader.loss(output, torch.tensor([total])).item() == pytest.approx(-logs.exp().mean().log().item(), rel=1e-5)


def test_digits_are_read_in_the_copy_that_is_most_confident_of_the_estimate():
    sure, vague = saying(" 1 2 3 4 "), saying(" 4 3 2 1 ")
    vague = (vague * 0.2).log_softmax(3)
    for copies in (torch.cat([sure, vague], dim=1), torch.cat([vague, sure], dim=1)):
        assert make_reader().predict(copies).sequence.texts() == ["1234"]


def test_a_digit_has_one_place_in_all_copies():
    reader = make_reader(num_digits=1).eval()
    reader._log_probs = saying_ink
    images = torch.zeros(1, 40, 80)
    images[:, :, 38:42] = 1
    for copies in range(1, 7):
        reader.set_decoding(tta=copies)
        output = reader(images)
        for copy in range(copies):
            alone = torch.full_like(output, -50.0)
            alone[..., BLANK] = 0  # all other copies know nothing
            alone[:, copy] = output[:, copy]
            (place,) = reader.predict(alone).sequence.positions[0].tolist()
            assert place == pytest.approx(40, abs=4)


def saying_ink(x):
    """For each 8 pixels a 7 where most of the ink is, else blank."""
    x = torch.nn.functional.pad(x, (0, -x.shape[3] % STRIDE))
    ink = x.sum((1, 2)).unflatten(1, (-1, STRIDE)).sum(2)
    classes = torch.where(ink == ink.max(1, keepdim=True).values, 7, BLANK)
    return (20 * torch.nn.functional.one_hot(classes, NUM_CLASSES)).float().log_softmax(2)


# --- learning


@pytest.mark.parametrize("depth", [4, 5, 7])
def test_faster_layers_have_the_losses_and_gradients_of_the_plain_ones(images, monkeypatch, depth):
    monkeypatch.setattr(reader, "_FAST_LAYERS", True)
    fast, plain = make_reader(depth=depth, fast=True), make_reader(depth=depth, fast=False)
    sums = torch.tensor([3, 9, 12, 20, 31])
    losses = [net.loss(net(images), sums) for net in (fast, plain)]
    assert torch.allclose(*losses, rtol=1e-5)
    gradients = [
        torch.autograd.grad(loss, list(net.parameters())) for loss, net in zip(losses, (fast, plain), strict=True)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.abs().max() > 0
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


def test_plain_layers_take_no_compiled_loops_nor_does_a_processor_whose_library_is_faster(images, monkeypatch):
    monkeypatch.setattr(fast_loops, "backward", None)

    def learn(fast, faster):
        monkeypatch.setattr(reader, "_FAST_LAYERS", faster)
        net = make_reader(fast=fast)
        net.loss(net(images), torch.full((5,), 9)).backward()

    learn(fast=False, faster=True)
    learn(fast=True, faster=False)
    with pytest.raises(TypeError, match="not callable"):
        learn(fast=True, faster=True)


def test_a_few_dozen_steps_teach_digits_from_their_sums_alone():
    generator = torch.Generator().manual_seed(0)
    glyphs = {digit: torch.rand((16, 12), generator=generator).round() for digit in (1, 2, 6)}
    digits = torch.tensor([1, 2, 6])[torch.randint(3, (32, 2), generator=generator)]
    images = torch.zeros(32, 16, 40)
    for image, (first, second) in zip(images, digits.tolist(), strict=True):
        image[:, 4:16], image[:, 24:36] = glyphs[first], glyphs[second]
    reader = make_reader((16, 40), num_digits=2, width=8)
    optimizer = torch.optim.Adam(reader.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = reader.loss(reader(images), digits.sum(1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 < 2 < losses[0]
    prediction = reader.eval().predict(reader(images))
    assert (prediction.estimate == digits.sum(1)).float().mean() > 0.9


@pytest.mark.parametrize("image_size", [(40.5, 168), (40, float("nan")), (40, 10**9)])
def test_an_absurd_image_size_is_refused(image_size):
    with pytest.raises(InputError, match="whole pixels"):
        Reader(image_size)


def test_images_too_wide_to_be_read_are_refused():
    with pytest.raises(InputError, match="4,000 pixels in width, got 4,001"):
        Reader((40, 168), ReaderSettings(width=1))(torch.zeros(1, 40, 4001))


def test_weights_that_give_no_numbers_are_noticed():
    network = Reader((40, 168), ReaderSettings(width=1)).eval()
    network.norm4.running_var.fill_(-1)
    with pytest.raises(InputError, match="no numbers"):
        network.predict(network(torch.zeros(1, 40, 168)))
