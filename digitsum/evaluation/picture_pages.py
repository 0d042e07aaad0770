"""Pages of pictures with what was read on them: the original beside what the model got, for a person to check."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from digitsum.figures import OWN_STYLE, write_figure

_COLUMNS, _ROWS = 3, 8
_DOUBT = "#d55e00"  # vermilion, told from black by colour-blind readers


@dataclass(frozen=True)
class Reading:
    """What was read on one row of digits of a picture.

    Attributes:
        name: of the file, with the row's number where there are several.
        original: `(h, w)` uint8, the row on the picture.
        image: `(H, W)` uint8, what the model got.
        pred: the sum, or None where there are no digits.
        probability: of the sum, if the network has it.
        digits: as they were read, if the network predicts digits.
        positions: how far to the right the middle of each is, in pixels.
        warnings: why the reading may be wrong.
    """

    name: str
    original: np.ndarray
    image: np.ndarray
    pred: float | None
    probability: float | None = None
    digits: tuple[int, ...] = ()
    positions: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()


class PicturePages:
    """Collects readings and writes a figure as soon as a page of 24 is full.

    The first page is `overlays.png`, the next `overlays-2.png` and so on.

    Args:
        folder: where to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readings: list[Reading] = []
        self._written = 0

    def add(self, reading: Reading) -> None:
        """Put a reading on the page."""
        self._readings.append(reading)
        if len(self._readings) == _COLUMNS * _ROWS:
            self.close()

    def close(self) -> None:
        """Write a page that is not full."""
        if not self._readings:
            return
        self._written += 1
        number = "" if self._written == 1 else f"-{self._written}"
        write_figure(self._folder / f"overlays{number}.png", readings_figure(self._readings, self._written))
        self._readings.clear()


@style.context(OWN_STYLE)
def readings_figure(readings: list[Reading], page: int = 1) -> Figure:
    """Each row of digits as it is on the picture, and beneath it as the model got it, the digits above their places.

    Args:
        readings: 1 or more.
        page: the number of this page.
    """
    columns = min(_COLUMNS, len(readings))
    rows = -(-len(readings) // columns)
    figure = Figure(figsize=(max(4.6 * columns, 5), 2.4 * rows + 0.6), layout="constrained")
    figure.suptitle(f"Pictures (above) and what the model got of them (below), page {page}", fontsize=11)
    panels = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for number, reading in enumerate(readings):
        above, below = panels[2 * (number // columns) : 2 * (number // columns) + 2, number % columns]
        answer = "no sum" if reading.pred is None else f"sum {reading.pred:.0f}"
        if reading.probability is not None:
            answer += f" ({reading.probability:.0%})"
        title = f"{_shortened(reading.name)}: {answer}"
        if reading.warnings:
            title += f"\n{', '.join(reading.warnings)}"
        above.set_title(title, fontsize=8, color=_DOUBT if reading.warnings else "black")
        above.imshow(reading.original, cmap="gray", vmin=0, vmax=255)
        below.imshow(reading.image, cmap="gray", vmin=0, vmax=255)
        for digit, position in zip(reading.digits, reading.positions, strict=True):
            below.text(position, -1, str(digit), ha="center", va="bottom", fontsize=8)
    return figure


def _shortened(name: str, longest: int = 34) -> str:
    """A name of at most `longest` characters that matplotlib does not take for a formula."""
    name = name.encode("utf-8", "replace").decode().replace("$", r"\$")
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"
