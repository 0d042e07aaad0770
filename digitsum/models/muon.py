"""Muon: steps whose directions are orthogonal, for the weights of convolutions, and Adam's steps for all else."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 4  # the fifth that is usual changes nothing here, and takes its time


class Muon(torch.optim.AdamW):
    """AdamW, whose `options` it takes, but for the weights of convolutions of several channels (Jordan et al., 2024).

    Their gradient's running mean, looked ahead as Nesterov does, is taken as a matrix of a row for each output and made
    orthogonal: rare directions count as much as frequent ones, and training needs fewer steps. A step of a matrix of
    `m` by `n` is as long as the learning rate times `0.2 sqrt(max(m, n))`, about as long as Adam's, so that both share
    learning rate and weight decay (Liu et al., 2025).

    `torch.optim.Muon` takes matrices alone, and multiplies them in bfloat16 everywhere, which most CPUs do slowly.

    Args:
        parameters: of the network.
        dtype: what the matrices are multiplied in; bfloat16 is as good as float32, where the processor has it.
        options: those of AdamW.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, dtype: torch.dtype = torch.float32, **options: Any
    ) -> None:
        parameters = list(parameters)
        matrices = [parameter for parameter in parameters if _is_matrix(parameter)]
        others = [parameter for parameter in parameters if not _is_matrix(parameter)]
        super().__init__([{"params": others}, {"params": matrices}], **options)
        self._dtype = dtype
        # of half precision the scaled gradients are brought back before a step, not in it, which only AdamW's could
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; `closure` forms the gradients first, as of any optimiser of torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = self.param_groups[1]
        for weight in matrices["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                # AdamW looks for a step in every state that it restores
                state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(weight)}
            state["momentum"].lerp_(weight.grad, 1 - _MOMENTUM)
            gradient = weight.grad.lerp(state["momentum"], _MOMENTUM).movedim(1, -1)  # as most weights lie in memory
            direction = orthogonal(gradient.flatten(1), self._dtype)
            length = 0.2 * math.sqrt(max(direction.shape))
            direction = direction.view(gradient.shape).movedim(-1, 1)
            weight.mul_(1 - matrices["lr"] * matrices["weight_decay"])
            weight.sub_(direction, alpha=matrices["lr"] * length)
            weight.grad = None  # AdamW leaves it alone then
        super().step()
        return loss


def orthogonal(matrix: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """About the orthogonal matrix nearest to `matrix` `(m, n)`: its singular values become 0.7 to 1.2, a zero stays.

    Those of less than a two-hundredth of the matrix's norm grow a hundredfold. Four Newton-Schulz iterations with
    Jordan's coefficients, which need nothing but products of matrices, in `dtype`.
    """
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = (x / x.norm().clamp_min(1e-7)).to(dtype)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _is_matrix(parameter: nn.Parameter) -> bool:
    return parameter.ndim > 2 and parameter.shape[1] > 1
