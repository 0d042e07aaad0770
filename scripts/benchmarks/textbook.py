"""The reference network and its batches as a tutorial has them, and what a training image costs."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def textbook_network(image_size: tuple[int, int]) -> nn.Sequential:
    """The reference network for images `(N, 1, H, W)` float; answers `(N, 1)`."""
    height, width = ((((side - 2) // 2) - 2) // 2 for side in image_size)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * height * width, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 1),
    )


def textbook_loader(images: torch.Tensor, sums: torch.Tensor, *, shuffle: bool, num_workers: int = 0) -> DataLoader:
    """Batches of 64 of images `(N, H, W)` uint8 and sums `(N,)`, both kept in memory as float."""
    dataset = TensorDataset(images.unsqueeze(1).float() / 255, sums.float())
    return DataLoader(dataset, 64, shuffle=shuffle, num_workers=num_workers, persistent_workers=num_workers > 0)


def training_flops(network: nn.Module, image_size: tuple[int, int]) -> int:
    """Floating-point operations that one training image costs in the convolutions and dense layers of `network`.

    A number that a layer puts out is a sum of K products: 2 K operations (its bias is left out). Forward a layer does
    them once; backward once for the gradient of its weights and once for that of its input, which the first layer does
    not need: 3 x (all layers) - (the first layer).

    Args:
        network: its convolutions and dense layers are each called once, in the order of `modules()`.
        image_size: `(H, W)` of the image, of one channel.
    """
    counts: list[int] = []

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        counts.append(2 * layer.weight[0].numel() * output[0].numel())

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network(torch.zeros(1, 1, *image_size))
    for hook in hooks:
        hook.remove()
    return 3 * sum(counts) - counts[0]
