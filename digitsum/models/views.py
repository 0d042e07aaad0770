"""Views: the copies of an image over which test-time augmentation averages."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class View:
    """How a copy differs from its image: moved by whole pixels, grown by factors, leaning to the right upwards."""

    right: int = 0
    down: int = 0
    wider: float = 1.0
    higher: float = 1.0
    lean: float = 0.0  # pixels to the right for each pixel up, of the image

    def width(self, width: int) -> int:
        """How many pixels of a copy hold an image of `width` pixels."""
        return self.right + math.ceil(self.wider * width)

    def of(self, images: torch.Tensor, width: int) -> torch.Tensor:
        """Copies `(N, H', width)` of images `(N, H, W)`, both float, 0 where the images do not reach."""
        count, old_height, old_width = images.shape
        height = self.down + math.ceil(self.higher * old_height)
        # Where the middle of a copy's pixel (x, y) comes from, in pixels: up and down (y - down) / higher, and across
        # (x - right) / wider, and as much further as it is below the middle of the height times `lean`. Torch has all
        # four as shares of their image, from -1 to 1.
        y = height / self.higher / 2, (height / 2 - self.down) / self.higher  # times the share, and where it is 0
        x = width / self.wider / 2, (width / 2 - self.right) / self.wider - self.lean * old_height / 2
        across = [x[0], self.lean * y[0], x[1] + self.lean * y[1] - old_width / 2]
        along = [0.0, y[0], y[1] - old_height / 2]
        shares = [[2 * n / old_width for n in across], [2 * n / old_height for n in along]]
        grid = F.affine_grid(images.new_tensor([shares]), [1, 1, height, width], align_corners=False)
        return F.grid_sample(images[:, None], grid.expand(count, -1, -1, -1), align_corners=False)[:, 0]


# Where the frames fall among the strokes is chance, and how large a digit is, and how it leans.
VIEWS = (
    View(),
    View(4, 2),
    View(4, 2, 0.93, 0.95),
    View(2, 3, 1.07, 1.04),
    View(4, 4, 0.93, 1.05, -0.08),
    View(1, 3, 1.06, 0.95, 0.08),
)
