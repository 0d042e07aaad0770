"""The reader: a small convolutional trunk that reads digits from left to right, taught by their sum alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from digitsum.data.pixels import as_float
from digitsum.errors import InputError
from digitsum.models.base import DigitSequence, Prediction
from digitsum.models.lattice import BLANK, SYMBOLS, Counts
from digitsum.models.sum_ctc import best_paths, log_distribution, log_likelihood

COLUMN = 8
"""Pixels to the right from one column of symbols to the next."""

_MOST_PIXELS = 4_000_000  # of an image that a network is made for
_MOST_WIDTH = 4_000  # pixels of an image that is read: the states of its sum are as many squared
_STATES = 30_000_000  # numbers that a distribution may take at once
_FIRST_DIGITS = 0.2  # the share of digits among the symbols before training
# Where the columns fall among the strokes is chance: shifts in pixels, right and down, after which they fall elsewhere.
_SHIFTS = ((0, 0), (4, 2), (2, 5), (6, 1), (4, 4), (1, 3))


@dataclass
class ReaderSettings:
    """The network's numbers, and what it is told about the images besides their sums.

    Attributes:
        num_digits: how many digits an image holds: a number, a range `[least, most]`, or None for unknown.
        width: channels of the first convolution; the others have 2, 3 and 5 times as many.
        dropout: share of the trunk's channels dropped before the symbols.
        length_penalty: what a reading is charged for each of its digits in training, in nats: where their number is
            unknown, a 5 is else as well read as a 4 and a 1.

    Raises:
        InputError: a value out of range.
    """

    num_digits: Any = 4  # an int, a list of two, or None; OmegaConf has no such union
    width: int = 32
    dropout: float = 0.0
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        counts_of(self.num_digits)
        if self.width < 1:
            raise InputError(f"model.width: expected 1 or more channels, got {self.width}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout: expected a share in [0, 1), got {self.dropout}")
        if not 0 <= self.length_penalty <= 20:
            raise InputError(f"model.length_penalty: expected 0 to 20 nats, got {self.length_penalty}")


def counts_of(num_digits: Any, name: str = "model.num_digits") -> Counts:
    """The numbers of digits that `num_digits` allows: an int, a range `[least, most]`, or None for any number.

    `name` is what errors call it.

    Raises:
        InputError: none of these, or fewer than one digit.
    """
    if num_digits is None:
        return Counts(0, None)
    ends = [num_digits, num_digits] if type(num_digits) is int else num_digits
    if isinstance(ends, Sequence) and len(ends) == 2 and all(type(end) is int for end in ends):
        least, most = ends
        if 1 <= least <= most:
            return Counts(least, most)
    raise InputError(f"{name}: expected a whole number from 1, a range [least, most], or null, got {num_digits!r}")


class Reader(nn.Module):
    """Four convolutions to a row of columns, one for each 8 pixels, each with a distribution over symbols.

    Conv 5x5 stride 2, conv 3x3, pool, conv 3x3, pool, conv 3x3, the largest value over the height, linear; batch norm
    and ReLU after each convolution or pool. A column sees 39 pixels of the width, so that a digit is read alike
    wherever it is, and images may have any width. With the defaults there are 215,243 parameters.

    Args:
        image_size: `(H, W)` of the images; `W` is that of the training images alone.
        options: fields of `ReaderSettings`.

    Raises:
        InputError: an option out of range, or images too small.
    """

    variable_width = True
    predicts_digits = True

    def __init__(self, image_size: tuple[int, int], **options: Any) -> None:
        super().__init__()
        self.settings = ReaderSettings(**options)
        self.counts = counts_of(self.settings.num_digits)
        self.tta = 1
        if not all(type(size) is int for size in image_size) or image_size[0] * image_size[1] > _MOST_PIXELS:
            raise InputError(f"expected images of whole pixels, at most {_MOST_PIXELS:,}, got {image_size}")
        if min(image_size) < COLUMN:
            raise InputError(f"images of {image_size[0]}x{image_size[1]} are too small, expected {COLUMN} or more")
        first, second, third, fourth = (self.settings.width * times for times in (1, 2, 3, 5))
        self.conv1 = nn.Conv2d(1, first, 5, stride=2, padding=2, bias=False)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, bias=False)
        self.conv4 = nn.Conv2d(third, fourth, 3, padding=1, bias=False)
        self.norm1, self.norm2, self.norm3, self.norm4 = (
            nn.BatchNorm2d(channels) for channels in (first, second, third, fourth)
        )
        self.dropout = nn.Dropout1d(self.settings.dropout)
        self.symbols = nn.Linear(fourth, SYMBOLS)
        # Where blank begins as rare as each digit, the network learns to spread digits over all columns, which explains
        # the mean of the sums and nothing else, and stays there for epochs.
        with torch.no_grad():
            self.symbols.bias.zero_()[BLANK] = math.log(BLANK * (1 - _FIRST_DIGITS) / _FIRST_DIGITS)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Read symbols off images.

        Args:
            images: `(N, H, W)`, uint8 in 0..255 or float in [0, 1]; blank columns are added up to a multiple of 8.

        Returns:
            `(N, V, T, 11)` float32, in each of `V` views (one in training) for each column the logarithms of the
            probabilities of the digits 0 to 9 and blank.
        """
        if images.shape[2] > _MOST_WIDTH:
            raise InputError(
                f"expected images of at most {_MOST_WIDTH:,} pixels in width, got {images.shape[2]:,}; cut them"
            )
        x = as_float(images, self.conv1.weight.dtype).unsqueeze(1)
        if self.training or self.tta == 1:
            return self._symbols(x).unsqueeze(1)
        # one column more in each view, so that all are of one length
        views = [self._symbols(F.pad(x, (right, COLUMN - right, down, 0))) for right, down in _SHIFTS[: self.tta]]
        return torch.stack(views, dim=1)

    def loss(self, output: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """The mean over images of -log P(the sum, and a possible number of digits), in nats; P is the views' mean.

        With a `length_penalty` the paths of P are charged for each digit, so that it is no probability any more.

        Raises:
            InputError: a sum that no possible number of digits has; in training elsewhere than on a CPU, where a look
                is dear, the loss is then infinite.
        """
        views, columns = output.shape[1:3]
        logs = log_likelihood(
            output.flatten(0, 1), sums.repeat_interleave(views), self.counts, self.settings.length_penalty
        )
        logs = logs.unflatten(0, (-1, views)).logsumexp(1) - math.log(views)
        if (logs.device.type == "cpu" or not self.training) and logs.isinf().any():
            wrong = int(sums[logs.isinf()][0])
            raise InputError(
                f"the sum {wrong} cannot be that of model.num_digits={self.settings.num_digits} digits in {columns} "
                "columns; correct the label, or give the number of digits that the images have"
            )
        return -logs.mean()

    def estimate(self, output: torch.Tensor) -> torch.Tensor:
        """The most probable sum `(N,)`; while learning, the sum of the most probable symbols, which costs nothing."""
        if self.training:
            symbols = output[:, 0].argmax(2)
            return torch.where(_begins(symbols), symbols, 0).sum(1).float()
        return self._probs(output).sum(1).argmax(1).float()

    def predict(self, output: torch.Tensor) -> Prediction:
        """The distribution of the sum, given a possible number of digits, and the digits that most likely add up to it.

        The estimate is the most probable sum; a tie goes to the smaller one.
        """
        views = self._probs(output)
        probs = views.mean(1)
        estimate = probs.argmax(1)

        def read() -> DigitSequence:
            # in the view that is surest of the estimate
            at = estimate[:, None, None].expand(-1, views.shape[1], -1)
            view = views.gather(2, at).squeeze(2).argmax(1)
            return self._read(output[torch.arange(len(output), device=view.device), view], view, estimate)

        return Prediction(estimate.float(), probs, read)

    def set_decoding(self, **options: Any) -> None:
        """From now on answer otherwise than the network was trained to.

        Args:
            options: `num_digits`, see `ReaderSettings`; `tta`, over how many shifted copies of an image the
                distribution is averaged, 1 to 6.

        Raises:
            InputError: another option, or a value out of range.
        """
        for name, value in options.items():
            if name == "num_digits":
                self.counts = counts_of(value, name)
            elif name == "tta":
                if type(value) is not int or not 1 <= value <= len(_SHIFTS):
                    raise InputError(f"tta: expected 1 to {len(_SHIFTS)}, got {value}")
                self.tta = value
            else:
                raise InputError(f"{name}: this model (reader) has no such choice; leave it out")

    def _symbols(self, x: torch.Tensor) -> torch.Tensor:
        """Images `(N, 1, H, W)` to `(N, T, 11)`."""
        x = F.pad(x, (0, -x.shape[3] % COLUMN, 0, -x.shape[2] % COLUMN))
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        x = F.relu(self.norm2(F.max_pool2d(self.conv2(x), 2)), inplace=True)
        x = F.relu(self.norm3(F.max_pool2d(self.conv3(x), 2)), inplace=True)
        x = F.relu(self.norm4(self.conv4(x)), inplace=True).amax(2)
        return self.symbols(self.dropout(x).transpose(1, 2)).float().log_softmax(2)

    def _probs(self, output: torch.Tensor) -> torch.Tensor:
        """The distributions `(N, V, S)` of the sum, given a possible number of digits."""
        if output.shape[2] < self.counts.least:
            raise InputError(
                f"num_digits: expected at most {output.shape[2]}, one for each column of these images, got "
                f"{self.counts.least}; give the number of digits that the images have, or wider images"
            )
        if not output.isfinite().all():
            raise InputError(
                "the model's answers are no numbers: its weights are damaged, or too large for half precision"
            )
        rows = max(1, _STATES // (SYMBOLS * (9 * output.shape[2] + 1)))
        logs = torch.cat([log_distribution(part, self.counts) for part in output.flatten(0, 1).split(rows)])
        return logs.softmax(1).unflatten(0, (-1, output.shape[1]))

    def _read(self, columns: torch.Tensor, view: torch.Tensor, sums: torch.Tensor) -> DigitSequence:
        """The digits that add up to `sums` in `columns` `(N, T, 11)`, each of its own view."""
        symbols = best_paths(columns, sums, self.counts)
        begins = _begins(symbols)
        number = begins.cumsum(1) - 1  # of the digit that a column belongs to, if it is not blank
        most = int(begins.sum(1).max()) if len(symbols) else 0
        shape = (len(symbols), most + 1)  # the last one takes up the blanks
        number = torch.where(symbols == BLANK, most, number)
        digits = symbols.new_full(shape, -1).scatter(1, number, symbols)[:, :most]
        shifts = torch.tensor([right for right, _ in _SHIFTS], device=columns.device)[view]
        middles = (torch.arange(symbols.shape[1], device=columns.device) + 0.5) * COLUMN - shifts[:, None]
        total = columns.new_zeros(shape).scatter_add(1, number, middles)
        count = columns.new_zeros(shape).scatter_add(1, number, columns.new_ones(symbols.shape))
        return DigitSequence(digits, (total / count)[:, :most].clamp_min(0))  # a shifted view begins left of the image


def _begins(symbols: torch.Tensor) -> torch.Tensor:
    """Which of the columns `(N, T)` begin a digit: not blank, and not the column before once more."""
    repeated = F.pad(symbols[:, 1:] == symbols[:, :-1], (1, 0))
    return ~repeated & (symbols != BLANK)
