"""Dropout whose random numbers cost a byte for each feature instead of a number."""

import torch
import torch.nn.functional as F
from torch import nn


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, several times as fast on a CPU where `256 * p` is whole, as for 0.25 and 0.5.

    A feature is dropped where a random byte is less than `256 * p`, which has the probability `p` exactly.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop features of `x` in training mode and scale the others by `1 / (1 - p)`; any shape."""
        threshold = 256 * self.p
        if not self.training or self.p == 0 or x.device.type != "cpu" or threshold % 1 or torch.compiler.is_compiling():
            return F.dropout(x, self.p, self.training)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
        noise = words.view(torch.uint8)[: x.numel()].view(x.shape)
        return x * (noise >= int(threshold)).to(x.dtype).mul_(1 / (1 - self.p))
