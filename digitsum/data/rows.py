"""Pieces of ink that hang together, and the rows of digits that they stand in."""

import numpy as np
from scipy import ndimage

EIGHT = np.ones((3, 3), bool)
"""Pixels that touch at a corner hang together."""

_MAX_COMPONENTS = 3_000  # more are noise


class Components:
    """The connected components of a mask; those of a stroke that is broken from top to bottom count as one.

    Args:
        mask: `(H, W)` bool, where ink is.

    Attributes:
        labels: `(H, W)`, the number of each pixel's component, from 1; 0 where there is no ink.
        top, bottom, left, right, height, width, area: `(K,)` each, in pixels, of component 1 and on. Empty where there
            is no ink, and where there are too many components for anything but noise.
    """

    def __init__(self, mask: np.ndarray) -> None:
        stroke = round(np.median(run_lengths(mask))) if mask.any() else 0
        joined = ndimage.maximum_filter1d(mask.astype(np.uint8), 2 * stroke + 1, axis=0)
        self.labels, count = ndimage.label(joined, EIGHT)
        self.labels[~mask] = 0
        if count > _MAX_COMPONENTS:
            self.labels, count = np.zeros_like(self.labels), 0
        boxes = np.array([[[s.start, s.stop] for s in box] for box in ndimage.find_objects(self.labels)], int)
        (self.top, self.bottom), (self.left, self.right) = boxes.reshape(count, 2, 2).transpose(1, 2, 0)
        self.area = np.bincount(self.labels.ravel(), minlength=count + 1)[1:]
        self.height, self.width = self.bottom - self.top, self.right - self.left

    def __len__(self) -> int:
        return len(self.area)

    @property
    def stroke(self) -> float:
        """How broad strokes are: the median length in pixels of the runs of ink from left to right; specks left out."""
        large = np.append(False, self.height >= 0.25 * self.digit_height)
        return float(np.median(run_lengths(large[self.labels])))

    @property
    def digit_height(self) -> float:
        """The median height in pixels, each component counted by its ink, so that specks do not matter."""
        order = np.argsort(self.height)
        ink = np.cumsum(self.area[order])
        return float(self.height[order][np.searchsorted(ink, ink[-1] / 2)])

    def rows(self) -> list[np.ndarray]:
        """The rows of digits from top to bottom, each the numbers, from 0, of its components from left to right."""
        high = self.digit_height
        large = np.flatnonzero((self.height >= 0.4 * high) & (self.height <= 3 * high) & (self.width <= 15 * high))
        large = large[np.argsort(self.left[large] + self.right[large])]
        row = np.arange(len(large))
        middle = (self.top + self.bottom) / 2
        for place, one in enumerate(large):  # a component and the next one on its right, however the row slopes
            rest = large[place + 1 :]
            beside = (self.left[rest] - self.right[one] <= 2.5 * high) & (
                np.abs(middle[rest] - middle[one]) < 0.6 * np.maximum(self.height[rest], self.height[one])
            )
            if beside.any():
                row[row == row[place + 1 + beside.argmax()]] = row[place]
        rows: list[np.ndarray] = []
        for number in sorted(np.unique(row), key=lambda number: np.median(middle[large[row == number]])):
            members = large[row == number]
            if rows and self._side_by_side(rows[-1], members):
                rows[-1] = np.concatenate([rows[-1], members])
            else:
                rows.append(members)
        # what else lies on the table: much lower than the highest row, or less ink than a digit
        highest = max((np.median(self.height[members]) for members in rows), default=0)
        digit = np.median(self.area[large]) if len(large) else 0
        return [
            self._with_fragments(members[np.argsort(self.left[members])], high)
            for members in rows
            if np.median(self.height[members]) >= 0.5 * highest and self.area[members].sum() >= 0.3 * digit
        ]

    def pieces(self, members: np.ndarray) -> list[np.ndarray]:
        """Cut a row into what can be moved apart: components of which one stands above the other stay together."""
        low = self.height[members] < 0.4 * np.median(self.height[members])
        pieces: list[np.ndarray] = []
        large = members[~low]
        for one in large[np.argsort(self.left[large] + self.right[large])]:
            if pieces:
                left, _, right, _ = self.box(pieces[-1])
                shared = min(right, self.right[one]) - max(left, self.left[one])
                if shared > 0.6 * min(right - left, self.width[one]):
                    pieces[-1] = np.append(pieces[-1], one)
                    continue
            pieces.append(np.array([one]))
        for one in members[low].tolist():
            nearest = min(range(len(pieces)), key=lambda number: self._gap(pieces[number], one).min())
            pieces[nearest] = np.append(pieces[nearest], one)
        return pieces

    def box(self, members: np.ndarray) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of several components."""
        left, top = self.left[members].min(), self.top[members].min()
        return int(left), int(top), int(self.right[members].max()), int(self.bottom[members].max())

    def slope(self, members: np.ndarray) -> float:
        """The angle in degrees by which a row falls to the right: the median over pairs; 0 for fewer than three."""
        if len(members) < 3:
            return 0.0
        x, y = (self.left + self.right)[members] / 2, (self.top + self.bottom)[members] / 2
        first, second = np.triu_indices(len(members), 1)
        run, rise = x[second] - x[first], y[second] - y[first]
        apart = np.abs(run) > np.median(self.height[members])
        return float(np.degrees(np.arctan(np.median(rise[apart] / run[apart])))) if apart.any() else 0.0

    def _side_by_side(self, above: np.ndarray, below: np.ndarray) -> bool:
        """Whether two groups stand in one row, however far apart."""
        top = max(np.median(self.top[above]), np.median(self.top[below]))
        bottom = min(np.median(self.bottom[above]), np.median(self.bottom[below]))
        return bottom - top > 0.5 * min(np.median(self.height[above]), np.median(self.height[below]))

    def _with_fragments(self, members: np.ndarray, high: float) -> np.ndarray:
        """A row and the bits that are close to one of its components, such as the bar of a 5."""
        bits = np.flatnonzero((self.height < 0.4 * high) & (self.area >= 4))
        close = [bool(self._gap(members, bit).min() < 0.25 * high) for bit in bits.tolist()]
        return np.concatenate([members, bits[np.array(close, bool)]])

    def _gap(self, members: np.ndarray, one: int) -> np.ndarray:
        """How many pixels are between each of a row's components and another one."""
        x = np.maximum(self.left[members] - self.right[one], self.left[one] - self.right[members])
        y = np.maximum(self.top[members] - self.bottom[one], self.top[one] - self.bottom[members])
        return np.maximum(np.maximum(x, y), 0)


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """The lengths of all runs of pixels from left to right."""
    ends = np.flatnonzero(np.diff(np.pad(mask, ((0, 0), (1, 1))).view(np.int8).ravel()))
    return ends[1::2] - ends[::2]
