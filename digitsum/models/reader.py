"""The reader: a small convolutional trunk that reads digits from left to right, supervised by their sum only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from digitsum.data.canvases import number_range
from digitsum.data.pixels import as_float
from digitsum.errors import InputError, check
from digitsum.models import fast_layers
from digitsum.models.alignment import aligned_digits, begins_digit
from digitsum.models.base import DigitSequence, Network, NetworkSettings, Prediction
from digitsum.models.lattice import BLANK, NUM_CLASSES, Counts
from digitsum.models.sum_ctc import best_paths, log_distribution, log_likelihood, sequence_log_likelihood
from digitsum.models.trunks import TRUNKS
from digitsum.models.views import VIEWS

STRIDE = 8
"""Pixels to the right from one frame to the next."""

_MAX_PIXELS = 4_000_000  # of an image that a network is made for
_MAX_WIDTH = 4_000  # pixels of an image that is read: the states of its sum are as many squared
_MAX_STATES = 30_000_000  # numbers that a distribution may take at once
_INITIAL_DIGITS = 0.2  # the share of digits among the classes before training
# With AVX-512 the library's own gradients are the faster ones; on a processor with AVX2 they are not.
_FAST_LAYERS = torch.backends.cpu.get_cpu_capability() != "AVX512"


@dataclass
class ReaderSettings(NetworkSettings):
    """The network's numbers, and what supervises it besides the sums."""

    num_digits: Any = 4  # on an image: an int, a range [min, max], or None for unknown; OmegaConf has no such union
    width: int = 24  # channels of the first convolution; the others have up to eight times as many
    depth: int = 5  # convolutions: 5, or 7, of which two more are before the pooling, or 4 as until version 0.4
    dropout: float = 0.0  # share of the trunk's channels dropped before the classes
    # subtracted in training from the log-probability of a reading for each of its digits, in nats: where their number
    # is unknown, a 5 is else as well read as a 4 and a 1
    length_penalty: float = 0.0
    fast: bool = True  # train on a CPU with faster forms of the layers, where they are (`digitsum.models.fast_layers`)

    def __post_init__(self) -> None:
        counts_of(self.num_digits)
        check("model.width", self.width, self.width >= 1, "1 or more channels")
        check("model.depth", self.depth, self.depth in TRUNKS, "4, 5 or 7 convolutions")
        check("model.dropout", self.dropout, 0 <= self.dropout < 1, "a share in [0, 1)")
        check("model.length_penalty", self.length_penalty, 0 <= self.length_penalty <= 20, "0 to 20 nats")

    def check_num_digits(self, fewest: int, most: int) -> None:
        """Refuse images with fewer or more digits than `num_digits` says."""
        counts = counts_of(self.num_digits)
        if counts.max is not None and not counts.min <= fewest <= most <= counts.max:
            found = str(fewest) if fewest == most else f"[{fewest},{most}]"
            raise InputError(
                f"model.num_digits={self.num_digits}: the canvases hold {found} digits; set model.num_digits={found}, "
                "or null where that is unknown"
            )


def counts_of(num_digits: Any, name: str = "model.num_digits") -> Counts:
    """The numbers of digits that `num_digits` allows; an InputError calls them `name` (see `number_range`)."""
    return Counts(0, None) if num_digits is None else Counts(*number_range(num_digits, name, ", or null"))


class Reader(Network):
    """Five convolutions to a row of frames, one for each 8 pixels, each with a distribution over classes.

    Conv 5x5 stride 2, conv 3x3 stride 2, conv 3x3, pool, conv 3x3 twice, the largest value over the height, linear;
    ReLU after each convolution, with batch norm before it but for the first one. A frame sees 53 pixels of the width,
    so that a digit is read alike wherever it is, and images may have any width; that in `image_size` `(H, W)` is the
    training images'. With the defaults there are 366,539 parameters.

    With `depth=7` two more convolutions stand before the pooling, all have fewer channels, and a frame sees 69 pixels.
    Until version 0.4 there were four, all with batch norm: conv 5x5 stride 2, conv 3x3, pool, conv 3x3, pool, conv 3x3.

    Raises:
        InputError: images too small or too large.
    """

    variable_width = True
    predicts_digits = True

    def __init__(self, image_size: tuple[int, int], settings: ReaderSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or ReaderSettings()
        self.counts = counts_of(self.settings.num_digits)
        self.tta = 1
        if not all(type(size) is int for size in image_size) or image_size[0] * image_size[1] > _MAX_PIXELS:
            raise InputError(f"expected images of whole pixels, at most {_MAX_PIXELS:,}, got {image_size}")
        if min(image_size) < STRIDE:
            raise InputError(f"images of {image_size[0]}x{image_size[1]} are too small, expected {STRIDE} or more")
        self._trunk, channels = TRUNKS[self.settings.depth], 1
        for number, layer in enumerate(self._trunk, 1):
            size, before = (5 if number == 1 else 3), channels
            channels = round(layer.channels * self.settings.width)
            conv = nn.Conv2d(before, channels, size, layer.stride, padding=size // 2, bias=not layer.norm)
            self.add_module(f"conv{number}", conv)
        for number, layer in enumerate(self._trunk, 1):
            if layer.norm:
                self.add_module(f"norm{number}", nn.BatchNorm2d(getattr(self, f"conv{number}").out_channels))
        self.dropout = nn.Dropout1d(self.settings.dropout)
        self.symbols = nn.Linear(channels, NUM_CLASSES)  # its name is that of its weights in checkpoints
        # Where blank begins as rare as each digit, the network learns to spread digits over all frames, which explains
        # the mean of the sums and nothing else, and stays there for epochs.
        with torch.no_grad():
            self.symbols.bias.zero_()[BLANK] = math.log(BLANK * (1 - _INITIAL_DIGITS) / _INITIAL_DIGITS)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify the frames of images `(N, H, W)`, whose width blank pixels fill up to a multiple of 8.

        Returns:
            `(N, V, T, 11)` float32, for each of `V` copies (`tta`, see `digitsum.models.views`; one in training) and
            each frame the logarithms of the probabilities of the digits 0 to 9 and blank.
        """
        if images.shape[2] > _MAX_WIDTH:
            raise InputError(
                f"expected images of at most {_MAX_WIDTH:,} pixels in width, got {images.shape[2]:,}; cut them"
            )
        dtype = self.symbols.weight.dtype
        if self.training or self.tta == 1:
            return self._log_probs(as_float(images, dtype).unsqueeze(1)).unsqueeze(1)
        views, x = VIEWS[: self.tta], as_float(images)
        width = max(view.width(x.shape[2]) for view in views)  # all copies have as many frames
        copies = [self._log_probs(view.of(x, width).to(dtype).unsqueeze(1)) for view in views]
        return torch.stack(copies, dim=1)

    def loss(self, output: torch.Tensor, sums: torch.Tensor, digits: torch.Tensor | None = None) -> torch.Tensor:
        """The mean over images of -log P(the sum, and a possible number of digits), in nats; P is the copies' mean.

        With a `length_penalty` the paths of P are penalised for each digit, so that it is no probability any more. An
        InputError refuses a sum that no possible number of digits has; in training elsewhere than on a CPU, where a
        look is expensive, the loss is then infinite.

        Where an image's `digits` `(N, D)` are known (-1 behind the last one, and alone where they are not), it is
        -log P(the digits), which say more than their sum.
        """
        num_copies, num_frames = output.shape[1:3]
        logs = log_likelihood(
            output.flatten(0, 1), sums.repeat_interleave(num_copies), self.counts, self.settings.length_penalty
        )
        logs = logs.unflatten(0, (-1, num_copies)).logsumexp(1) - math.log(num_copies)
        if (logs.device.type == "cpu" or not self.training) and logs.isinf().any():
            wrong = int(sums[logs.isinf()][0])
            raise InputError(
                f"the sum {wrong} cannot be that of model.num_digits={self.settings.num_digits} digits in {num_frames} "
                "frames; correct the label, or give the number of digits that the images have"
            )
        if digits is not None:
            known = (digits >= 0).any(1)
            logs = torch.where(known, sequence_log_likelihood(output[:, 0], digits), logs)
        return -logs.mean()

    def estimate(self, output: torch.Tensor) -> torch.Tensor:
        """The most probable sum `(N,)`; in training, the sum of the most probable classes, which costs nothing."""
        if self.training:
            classes = output[:, 0].argmax(2)
            return torch.where(begins_digit(classes), classes, 0).sum(1).float()
        return self._sum_probs(output).sum(1).argmax(1).float()

    def predict(self, output: torch.Tensor) -> Prediction:
        """The distribution of the sum, given a possible number of digits, and the digits that most likely add up to it.

        The estimate is the most probable sum; a tie goes to the smaller one.
        """
        sum_probs = self._sum_probs(output)
        probs = sum_probs.mean(1)
        estimate = probs.argmax(1)

        def read() -> DigitSequence:
            # in the copy that gives the estimate the highest probability
            at = estimate[:, None, None].expand(-1, sum_probs.shape[1], -1)
            copy = sum_probs.gather(2, at).squeeze(2).argmax(1)
            row = torch.arange(len(output), device=copy.device)
            return self._read(output[row, copy], copy % self.tta, estimate)  # each reader of an ensemble has all copies

        return Prediction(estimate.float(), probs, read)

    def combine(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The copies `(N, V, T, 11)` of each reader, one reader's behind another's: all count alike."""
        return torch.cat(list(outputs), dim=1)

    def set_decoding(self, **options: Any) -> None:
        """See `Network.set_decoding`; `tta` averages the distribution over 1 to 6 copies."""
        for name, value in options.items():
            if name == "num_digits":
                self.counts = counts_of(value, name)
            elif name == "tta":
                check("tta", value, type(value) is int and 1 <= value <= len(VIEWS), f"1 to {len(VIEWS)}")
                self.tta = value
            else:
                super().set_decoding(**{name: value})

    def _log_probs(self, x: torch.Tensor) -> torch.Tensor:
        """Images `(N, 1, H, W)` to `(N, T, 11)`."""
        conv, conv_pool = nn.Conv2d.__call__, _conv_pool
        if self.settings.fast and _FAST_LAYERS:
            conv, conv_pool = fast_layers.conv, fast_layers.conv_pool
        x = F.pad(x, (0, -x.shape[3] % STRIDE, 0, -x.shape[2] % STRIDE))
        for number, layer in enumerate(self._trunk, 1):
            module = getattr(self, f"conv{number}")
            if number > 1:
                x = F.relu(x, inplace=True)
            if layer.pool:
                x = conv_pool(module, x)
            elif layer.stride == 1:
                x = conv(module, x)
            else:
                x = module(x)
            if layer.norm:
                x = getattr(self, f"norm{number}")(x)
        x = F.relu(F.max_pool2d(x, (x.shape[2], 1)).squeeze(2))  # `amax` learns several times as slowly
        return self.symbols(self.dropout(x).transpose(1, 2)).float().log_softmax(2)

    def _sum_probs(self, output: torch.Tensor) -> torch.Tensor:
        """The distributions `(N, V, S)` of the sum, given a possible number of digits."""
        num_copies, num_frames = output.shape[1:3]
        if num_frames < self.counts.min:
            raise InputError(
                f"num_digits: expected at most {num_frames}, one for each frame of these images, got "
                f"{self.counts.min}; give the number of digits that the images have, or wider images"
            )
        if not output.isfinite().all():
            raise InputError(
                "the model's answers are no numbers: its weights are damaged, or too large for half precision"
            )
        rows = max(1, _MAX_STATES // (NUM_CLASSES * (9 * num_frames + 1)))
        logs = torch.cat([log_distribution(part, self.counts) for part in output.flatten(0, 1).split(rows)])
        return logs.softmax(1).unflatten(0, (-1, num_copies))

    def _read(self, log_probs: torch.Tensor, copy: torch.Tensor, sums: torch.Tensor) -> DigitSequence:
        """The digits that add up to `sums` in `log_probs` `(N, T, 11)`, each those of its own `copy`."""
        classes = best_paths(log_probs, sums, self.counts)
        max_digits = int(begins_digit(classes).sum(1).max()) if len(classes) else 0
        digits, middles = aligned_digits(classes, max_digits)
        right, wider = torch.tensor([[view.right, view.wider] for view in VIEWS], device=copy.device)[copy].T
        # a copy that is moved begins left of the image
        return DigitSequence(digits, ((STRIDE * middles - right[:, None]) / wider[:, None]).clamp_min(0))


def _conv_pool(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(layer(x), 2)
