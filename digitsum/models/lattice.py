"""The states of a sum while frames are read: how many digits so far, and what they add up to."""

from dataclasses import dataclass

import torch

BLANK = 10
"""The class behind those of the digits 0 to 9."""

NUM_CLASSES = 11


@dataclass(frozen=True)
class Counts:
    """How many digits there may be: from `min` to `max`, or any number where `max` is None."""

    min: int
    max: int | None


@dataclass(frozen=True)
class Lattice:
    """States `(c, s)` in a row, one layer for each number of digits, or a single one where they are not counted.

    The last place is no state: whatever leads out of the lattice leads there, and nothing comes from it.
    """

    offsets: list[int]  # where each layer begins
    predecessors: torch.Tensor  # (N or 1, 11, P) int64, from which place a class leads to each; blank stays where it is
    successors: torch.Tensor  # (N or 1, 11, P) int64, to which place a class leads from each
    initial: torch.Tensor  # (N or 1, P) bool, the place without digits
    final: torch.Tensor  # (N or 1, P) bool, the places that are asked for

    def start(self, log_probs: torch.Tensor) -> torch.Tensor:
        """`(N, 11, P)` probabilities: nothing read yet, as after a blank."""
        alpha = log_probs.new_zeros((log_probs.shape[0], NUM_CLASSES, self.initial.shape[1]))
        alpha[:, BLANK] = self.initial
        return alpha


def reachable_states(sums: torch.Tensor, counts: Counts, num_frames: int) -> Lattice:
    """The states from which each image's own sum can still be reached: a fraction of all."""
    if counts.max is None:
        largest = min(int(sums.max()), 9 * num_frames)  # no path has a sum beyond: no state is asked for
        return _lattice(torch.zeros_like(sums)[:, None], [largest + 1], sums, counts)
    max_digits = min(counts.max, num_frames)  # there are no more digits than frames
    layers = torch.arange(max_digits + 1, device=sums.device)
    base = (sums[:, None] - 9 * (max_digits - layers)).clamp_min(0)
    return _lattice(base, [9 * min(c, max_digits - c) + 1 for c in range(max_digits)] + [1], sums, counts)


def all_states(num_frames: int, counts: Counts, device: torch.device) -> Lattice:
    """All states that `num_frames` can reach."""
    nothing = torch.zeros(1, dtype=torch.int64, device=device)
    layers = range(num_frames, num_frames + 1) if counts.max is None else range(min(counts.max, num_frames) + 1)
    return _lattice(nothing.expand(1, len(layers)), [9 * digits + 1 for digits in layers], nothing, counts)


def _lattice(base: torch.Tensor, widths: list[int], sums: torch.Tensor, counts: Counts) -> Lattice:
    """The lattice whose layer `c` holds the sums from `base[:, c]` on, `widths[c]` of them."""
    device = base.device
    step = 0 if counts.max is None else 1
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
        wanted = wanted & (layer >= counts.min)
    nowhere = torch.zeros_like(wanted[:, :1])
    initial = ((total == 0) & (layer == 0)).expand_as(wanted)
    return Lattice(
        offset.tolist(),
        predecessors=neighbour(-1),
        successors=neighbour(1),
        initial=torch.cat([initial, nowhere], dim=1),
        final=torch.cat([wanted, nowhere], dim=1),
    )
