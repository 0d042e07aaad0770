"""Networks as graphs of fixed operations, without branches: what other programs can run."""

from dataclasses import replace

import torch
from torch import nn

from digitsum.models.alignment import aligned_digits
from digitsum.models.base import Network
from digitsum.models.lattice import NUM_CLASSES, all_states
from digitsum.models.reader import STRIDE, Reader
from digitsum.models.sum_ctc import distribution_in, paths_in


class Graph(nn.Module):
    """What can be exported: images `(N, H, W)` uint8 to one tensor or several."""

    kind = ""  # which outputs it has
    variable_width = False  # whether the images may have any width
    shapes: dict[str, list[str | int]]  # the outputs' names and their dimensions


class SumGraph(Graph):
    """A network as it is: of a regression its sums."""

    kind = "sum"

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net
        self.shapes = {"sum": ["batch"]}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images `(N, H, W)` uint8 to sums `(N,)` float32."""
        return self.net(images)


class LogProbsGraph(Graph):
    """A reader's frames, of images of any width."""

    kind = "log_probs"
    variable_width = True

    def __init__(self, net: Reader) -> None:
        super().__init__()
        self.net = net
        self.shapes = {"log_probs": ["batch", "frames", NUM_CLASSES]}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images `(N, H, W)` uint8 to `(N, T, 11)` float32, logarithms of probabilities."""
        return self.net(images)[:, 0]


class AnswerGraph(Graph):
    """All that a reader says of images of one width.

    The loop over frames is unrolled and the lattice is a constant: that is why the width is fixed.

    Args:
        net: the reader, in evaluation mode; `tta` is not followed.
        width: of the images, in pixels.
    """

    kind = "answer"

    def __init__(self, net: Reader, width: int) -> None:
        super().__init__()
        self.net = net
        frames = -(-width // STRIDE)
        counts = net.counts
        self.counts = counts
        self.lattice = all_states(frames, counts, torch.device("cpu"))
        layers = range(frames, frames + 1) if counts.max is None else range(min(counts.max, frames) + 1)
        totals = [total if layer >= counts.min else -1 for layer in layers for total in range(9 * layer + 1)]
        self.totals = torch.tensor([*totals, -1])  # the sum at each place where a reading may end
        self.max_digits = layers[-1]
        digits: list[str | int] = ["batch", self.max_digits]
        self.shapes = {
            "sum": ["batch"],
            "probability": ["batch"],
            "probs": ["batch", 9 * self.max_digits + 1],
            "digits": digits,
            "positions": digits,
        }

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images `(N, H, W)` uint8 to the outputs that `shapes` names.

        Returns:
            The most probable sums `(N,)` int64, their probabilities `(N,)` float32, those of all sums from 0 on
            `(N, S)` float32, the digits `(N, D)` int64, -1 behind an image's last one, and where their middles are in
            pixels, `(N, D)` float32, NaN where none is.
        """
        log_probs = self.net(images)[:, 0]
        # in double precision what is all but impossible needs no second look
        probs = distribution_in(log_probs.double(), self.lattice, self.counts).softmax(1)
        sums = probs.argmax(1)
        probability = probs.amax(1)
        classes = paths_in(log_probs, replace(self.lattice, final=self.totals == sums[:, None]))
        digits, middles = aligned_digits(classes, self.max_digits)
        return sums, probability.float(), probs.float(), digits, STRIDE * middles
