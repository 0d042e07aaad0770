"""The states of a sum while columns are read: how many digits so far, and what they add up to."""

from dataclasses import dataclass

import torch

BLANK = 10
"""The symbol behind the digits 0 to 9."""

SYMBOLS = 11


@dataclass(frozen=True)
class Counts:
    """How many digits there are: from `least` to `most`, or any number where `most` is None."""

    least: int
    most: int | None


@dataclass(frozen=True)
class Lattice:
    """States `(c, s)` in a row, one layer for each number of digits, or a single one where they are not counted.

    The last place is no state: whatever leads out of the lattice leads there, and nothing comes from it.

    Attributes:
        offsets: where each layer begins.
        before: `(N or 1, 11, P)` int64, from which place a symbol leads to each place; blank stays where it is.
        after: `(N or 1, 11, P)` int64, to which place a symbol leads from each place.
        origin: `(N or 1, P)` bool, the place without digits.
        final: `(N or 1, P)` bool, the places that are asked for.
    """

    offsets: list[int]
    predecessors: torch.Tensor
    successors: torch.Tensor
    initial: torch.Tensor
    final: torch.Tensor

    def start(self, log_probs: torch.Tensor) -> torch.Tensor:
        """`(N, 11, P)` probabilities: nothing read yet, as after a blank."""
        alpha = log_probs.new_zeros((len(log_probs), SYMBOLS, self.initial.shape[1]))
        alpha[:, BLANK] = self.initial
        return alpha


def reachable_states(sums: torch.Tensor, counts: Counts, columns: int) -> Lattice:
    """The states from which each image's own sum can still be reached: a fraction of all."""
    if counts.most is None:
        largest = min(int(sums.max()), 9 * columns)  # no path has a sum beyond: no state is asked for
        return _lattice(torch.zeros_like(sums)[:, None], [largest + 1], sums, counts)
    most = min(counts.most, columns)  # there are no more digits than columns
    layers = torch.arange(most + 1, device=sums.device)
    base = (sums[:, None] - 9 * (most - layers)).clamp_min(0)
    return _lattice(base, [9 * min(c, most - c) + 1 for c in range(most)] + [1], sums, counts)


def all_states(columns: int, counts: Counts, device: torch.device) -> Lattice:
    """All states that `columns` can reach."""
    nothing = torch.zeros(1, dtype=torch.int64, device=device)
    if counts.most is None:
        return _lattice(nothing[:, None], [9 * columns + 1], nothing, counts)
    most = min(counts.most, columns)
    base = torch.zeros((1, most + 1), dtype=torch.int64, device=device)
    return _lattice(base, [9 * c + 1 for c in range(most + 1)], nothing, counts)


def _lattice(base: torch.Tensor, widths: list[int], sums: torch.Tensor, counts: Counts) -> Lattice:
    """The lattice whose layer `c` holds the sums from `base[:, c]` on, `widths[c]` of them."""
    device = base.device
    step = 0 if counts.most is None else 1
    width = torch.tensor(widths, device=device)
    offset = width.cumsum(0) - width
    places = int(width.sum())
    layer = torch.repeat_interleave(torch.arange(len(widths), device=device), width)
    total = base[:, layer] + torch.arange(places, device=device) - offset[layer]  # (N or 1, places): the sum s
    digit = torch.arange(10, device=device)[:, None]

    def neighbour(sign: int) -> torch.Tensor:
        there = layer + sign * step
        inside = (there >= 0) & (there < len(widths))
        there = there.clamp(0, len(widths) - 1)
        position = total[:, None] + sign * digit - base[:, there][:, None]
        inside = inside & (position >= 0) & (position < width[there])
        index = torch.where(inside, offset[there] + position, places)
        index = torch.cat([index, index.new_full((*index.shape[:2], 1), places)], dim=2)
        stay = torch.arange(places + 1, device=device).expand(len(index), 1, -1)
        return torch.cat([index, stay], dim=1)

    wanted = total == sums[:, None]
    if step:
        wanted = wanted & (layer >= counts.least)
    nowhere = torch.zeros_like(wanted[:, :1])
    initial = ((total == 0) & (layer == 0)).expand_as(wanted)
    return Lattice(
        offset.tolist(),
        neighbour(-1),
        neighbour(1),
        torch.cat([initial, nowhere], dim=1),
        torch.cat([wanted, nowhere], dim=1),
    )
