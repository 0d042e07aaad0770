"""The sum of the digits that a row of frames spells: CTC whose target is not the sequence but its sum.

Each of `T` frames (time steps; here places along an image) carries a distribution over eleven classes, the digits 0 to
9 and blank. A path takes a class from each frame; its probability is the product. As in CTC (Graves et al., 2006) equal
neighbours count as one digit, and a blank parts two equal digits. The forward pass keeps for each last class, each
number of digits `c` and each sum `s` so far the probability of having got there. With `A` the total over all last
classes, a frame takes digit `d` from

    alpha_d(c, s)  to  p(d) * (alpha_d(c, s) + (A - alpha_d)(c - 1, s - d))

and blank to `p(blank) * A(c, s)`. Only the states from which the sum can still be reached are
kept.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

from digitsum.models.lattice import BLANK, NUM_CLASSES, Counts, Lattice, all_states, reachable_states

_SAFE = {torch.float32: 60, torch.float64: 600}  # nats: less than the logarithm of the smallest number
_NEVER = -1e30  # the logarithm of 0, finite to have a gradient


def log_likelihood(
    log_probs: torch.Tensor, sums: torch.Tensor, counts: Counts, length_penalty: float = 0.0
) -> torch.Tensor:
    """The logarithm of the probability that the frames spell a number of digits in `counts` with the given sum.

    Of `log_probs` `(N, T, 11)` float32 or float64, logarithms, and sums `(N,)` int64 it is `(N,)`, differentiable once;
    `-inf`, with a gradient of 0, where no path has that sum. The `length_penalty`, in nats, is subtracted from a path's
    logarithm for each of its digits.
    """
    result = _LogLikelihood.apply(log_probs, reachable_states(sums, counts, log_probs.shape[1]), length_penalty)
    # A path's share of all forward and of all backward probabilities may each be as small as the result: what is far
    # less likely than 1 leaves the range of numbers, its gradient first.
    lost = result < -_SAFE[log_probs.dtype]
    if lost.any():
        exact = _exactly(log_probs[lost])
        lattice = reachable_states(sums[lost].to(exact.device), counts, exact.shape[1])
        alpha = _forward_in_logarithms(exact, lattice, length_penalty)
        again = torch.where(lattice.final[:, None], alpha, _NEVER).flatten(1).logsumexp(1)
        again = torch.where(again > _NEVER / 2, again, -torch.inf)
        result = result.masked_scatter(lost, again.to(result.dtype).to(result.device))
    return result


def sequence_log_likelihood(log_probs: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """The logarithm of the probability that the frames spell these digits: CTC as ever (Graves et al., 2006).

    Args:
        log_probs: `(N, T, 11)`, logarithms.
        digits: `(N, D)` int64, -1 behind an image's last digit.

    Returns:
        `(N,)` float32; 0, with a gradient of 0, where the digits do not fit into `T` frames.
    """
    count, num_frames, _ = log_probs.shape
    return -F.ctc_loss(
        log_probs.transpose(0, 1).float(),
        digits.clamp_min(0),
        torch.full((count,), num_frames),
        (digits >= 0).sum(1),
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )


@torch.no_grad()
def log_distribution(log_probs: torch.Tensor, counts: Counts) -> torch.Tensor:
    """The logarithms of the probabilities of each sum, together with a number of digits in `counts`.

    Of `log_probs` `(N, T, 11)`, float32 or float64, it is `(N, S + 1)` for sums 0 to `S`, the largest that `T` frames
    or `counts` allow. The probabilities add up to that of a number of digits in `counts`: to 1 where any is possible.
    """
    logs = distribution_in(log_probs, all_states(log_probs.shape[1], counts, log_probs.device), counts)
    lost = logs.logsumexp(1) < -_SAFE[log_probs.dtype]
    if lost.any():
        exact = _exactly(log_probs[lost])
        lattice = all_states(exact.shape[1], counts, exact.device)
        places = _forward_in_logarithms(exact, lattice, 0.0).logsumexp(1)
        again = _by_sum(torch.where(places > _NEVER / 2, places, -torch.inf), lattice, counts)
        logs[lost] = again.to(logs.dtype).to(logs.device)
    return logs


def distribution_in(log_probs: torch.Tensor, lattice: Lattice, counts: Counts) -> torch.Tensor:
    """The `log_distribution` over a given lattice of all states, without its second look at what is all but impossible.

    It has no branches, for graphs of fixed operations.
    """
    alphas, scale = _forward(log_probs.exp().transpose(0, 1), lattice, 0.0, keep=False)
    return _by_sum(alphas[-1].sum(1).log(), lattice, counts).add_(scale[:, None])


def _by_sum(logs: torch.Tensor, lattice: Lattice, counts: Counts) -> torch.Tensor:
    """The logarithms `(N, P)` of the places' probabilities, added up over the numbers of digits for each sum."""
    if counts.max is None:
        return logs[:, :-1]
    sums = logs.new_full((logs.shape[0], 9 * (len(lattice.offsets) - 1) + 1), -torch.inf)
    for count in range(counts.min, len(lattice.offsets)):
        begin, width = lattice.offsets[count], 9 * count + 1
        sums[:, :width] = torch.logaddexp(sums[:, :width], logs[:, begin : begin + width])
    return sums


@torch.no_grad()
def best_paths(log_probs: torch.Tensor, sums: torch.Tensor, counts: Counts) -> torch.Tensor:
    """The most probable path among those with a number of digits in `counts` and the given sum (Viterbi).

    The arguments are those of `log_likelihood`. Returns `(N, T)` int64, the class of each frame; all blank where no
    path has that sum.
    """
    return paths_in(log_probs, reachable_states(sums, counts, log_probs.shape[1]))


def paths_in(log_probs: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """The `best_paths` to the final states of a lattice."""
    alpha = lattice.start(log_probs).log()
    sources, moves = [], []
    digits = torch.arange(10, device=log_probs.device)[:, None]
    predecessors = lattice.predecessors[:, :BLANK].expand(log_probs.shape[0], -1, -1)
    for frame in log_probs.transpose(0, 1):
        # the best way to come from another class is the best of all, or, to that class itself, the second
        values, classes = alpha.topk(2, dim=1)
        (best, second), (first, runner_up) = values.unbind(1), classes.unbind(1)
        is_first = first[:, None] == digits
        other = torch.where(is_first, second[:, None], best[:, None]).gather(2, predecessors)
        source = torch.where(is_first, runner_up[:, None], first[:, None]).gather(2, predecessors)
        moved = other > alpha[:, :BLANK]
        sources.append(torch.cat([torch.where(moved, source, digits), first[:, None]], dim=1).to(torch.int8))
        moves.append(moved)
        alpha = torch.cat([torch.maximum(alpha[:, :BLANK], other), best[:, None]], dim=1) + frame[:, :, None]

    width = alpha.shape[2]
    score, at = torch.where(lattice.final[:, None], alpha, -torch.inf).flatten(1).max(1)
    last, state = at // width, at % width
    rows = torch.arange(alpha.shape[0], device=alpha.device)
    path = []
    for source, moved in zip(reversed(sources), reversed(moves), strict=True):
        path.append(last)
        digit = last.clamp_max(BLANK - 1)
        came = (last != BLANK) & moved[rows, digit, state]
        last, state = source[rows, last, state].long(), torch.where(came, predecessors[rows, digit, state], state)
    return torch.where(score[:, None] > -torch.inf, torch.stack(path[::-1], dim=1), BLANK)


def _forward(
    frames: torch.Tensor, lattice: Lattice, length_penalty: float, *, keep: bool = True
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The probabilities `(N, 11, P)` after each frame of `(T, N, 11)`, and the last one's scale, a logarithm `(N,)`.

    Without `keep` only the last ones are returned, and they are divided by their sum after each frame, lest they
    vanish. Kept ones are for a likelihood, which is found in another way where it is as small as that.
    """
    alpha = lattice.start(frames[0])
    others = _others(alpha, length_penalty)
    predecessors = lattice.predecessors.expand(alpha.shape[0], -1, -1)
    alphas: list[torch.Tensor] = []
    scale = alpha.new_zeros(alpha.shape[0])
    with torch.autocast(alpha.device.type, enabled=False):  # it would multiply matrices in half precision
        for frame in frames:
            # to stay at a class, or to come to it from all others; blank may come after itself, which is the same
            alpha = torch.matmul(others, alpha).gather(2, predecessors).add_(alpha).mul_(frame[:, :, None])
            if keep:
                alphas.append(alpha)
            else:
                total = alpha.sum((1, 2), keepdim=True).clamp_min_(_tiny(alpha))
                alpha.div_(total)
                scale += total.log().flatten()
    return alphas or [alpha], scale


def _exactly(log_probs: torch.Tensor) -> torch.Tensor:
    """In float64, on the CPU where the device has none."""
    return (log_probs.cpu() if log_probs.device.type == "mps" else log_probs).double()


def _forward_in_logarithms(log_probs: torch.Tensor, lattice: Lattice, length_penalty: float) -> torch.Tensor:
    """The logarithms `(N, 11, P)` after the last frame, however small, at several times the cost; differentiable."""
    alpha = lattice.start(log_probs).log().clamp_min(_NEVER)
    others = _others(alpha, length_penalty)
    predecessors = lattice.predecessors.expand(len(alpha), -1, -1)
    with torch.autocast(alpha.device.type, enabled=False):
        for frame in log_probs.clamp_min(_NEVER).transpose(0, 1):
            largest = alpha.detach().amax(1, keepdim=True)
            moved = torch.matmul(others, (alpha - largest).exp())
            some = moved > 0
            moved = torch.where(some, moved, 1).log() + torch.where(some, largest, _NEVER)
            alpha = torch.logaddexp(alpha, moved.gather(2, predecessors)) + frame[:, :, None]
    return alpha


def _tiny(like: torch.Tensor) -> float:
    """About the smallest number of a dtype: instead of a division by nothing."""
    return torch.finfo(like.dtype).tiny


def _others(like: torch.Tensor, length_penalty: float) -> torch.Tensor:
    """`(11, 11)`, from each class (second axis) to each other one (first axis); a digit costs the length penalty."""
    others = 1 - torch.eye(NUM_CLASSES, dtype=like.dtype, device=like.device)
    others[:BLANK] *= math.exp(-length_penalty)
    return others


class _LogLikelihood(torch.autograd.Function):
    """Its gradient is the posterior probability of each class in each frame: forward-backward."""

    @staticmethod
    def forward(ctx: Any, log_probs: torch.Tensor, lattice: Lattice, length_penalty: float) -> torch.Tensor:
        frames = log_probs.detach().exp().transpose(0, 1)
        alphas, _ = _forward(frames, lattice, length_penalty)
        result = (alphas[-1] * lattice.final[:, None]).sum((1, 2)).log_()
        ctx.save_for_backward(frames, result, *alphas)
        ctx.lattice, ctx.length_penalty = lattice, length_penalty
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        frames, result, *alphas = ctx.saved_tensors
        lattice = ctx.lattice
        others = _others(grad, ctx.length_penalty).T.contiguous()
        successors = lattice.successors.expand(len(grad), -1, -1)
        beta = lattice.final[:, None].to(grad.dtype).expand(-1, NUM_CLASSES, -1)
        shares = []
        for frame, alpha in zip(frames.flip(0), reversed(alphas), strict=True):
            shares.append((alpha * beta).sum(2))
            here = beta * frame[:, :, None]
            beta = torch.matmul(others, here.gather(2, successors)).add_(here)
        posterior = torch.stack(shares[::-1], dim=1) / result.exp().clamp_min(_tiny(grad))[:, None, None]
        return posterior * torch.where(result > -torch.inf, grad, 0.0)[:, None, None], None, None
