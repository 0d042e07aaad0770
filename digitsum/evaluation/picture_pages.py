"""Pages of pictures with what was read on them: the original beside what the model got, for a person to check."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from digitsum.figures import OWN_STYLE, write_figure
from digitsum.models.reading import Reading

_COLUMNS, _ROWS = 3, 8
_DOUBT = "#d55e00"  # vermilion, told from black by colour-blind readers


@dataclass(frozen=True)
class ReadPicture:
    """A row of digits of a picture with what was read on it."""

    name: str  # of the file
    original: np.ndarray  # (h, w) uint8, the row on the picture
    image: np.ndarray  # (H, W) uint8, what the model got
    reading: Reading


class PicturePages:
    """Collects pictures and writes a figure as soon as a page of 24 is full.

    The first page is `overlays.png`, the next `overlays-2.png` and so on.

    Args:
        folder: where to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pictures: list[ReadPicture] = []
        self._written = 0

    def add(self, picture: ReadPicture) -> None:
        """Put a picture on the page."""
        self._pictures.append(picture)
        if len(self._pictures) == _COLUMNS * _ROWS:
            self.close()

    def close(self) -> None:
        """Write a page that is not full."""
        if not self._pictures:
            return
        self._written += 1
        number = "" if self._written == 1 else f"-{self._written}"
        write_figure(self._folder / f"overlays{number}.png", pictures_figure(self._pictures, self._written))
        self._pictures.clear()


@style.context(OWN_STYLE)
def pictures_figure(pictures: list[ReadPicture], page: int = 1) -> Figure:
    """Each row of digits as it is on the picture, and beneath it as the model got it, the digits above their places.

    Args:
        pictures: 1 or more.
        page: the number of this page.
    """
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(max(4.6 * columns, 5), 2.4 * rows + 0.6), layout="constrained")
    figure.suptitle(f"Pictures (above) and what the model got of them (below), page {page}", fontsize=11)
    panels = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for number, picture in enumerate(pictures):
        above, below = panels[2 * (number // columns) : 2 * (number // columns) + 2, number % columns]
        reading = picture.reading
        answer = "no sum" if reading.sum is None else f"sum {reading.sum:.0f}"
        if reading.probability is not None:
            answer += f" ({reading.probability:.0%})"
        name = picture.name if reading.line == 1 else f"{picture.name}, line {reading.line}"
        title = f"{_shortened(name)}: {answer}"
        if reading.warnings:
            title += f"\n{', '.join(reading.warnings)}"
        above.set_title(title, fontsize=8, color=_DOUBT if reading.warnings else "black")
        above.imshow(picture.original, cmap="gray", vmin=0, vmax=255)
        below.imshow(picture.image, cmap="gray", vmin=0, vmax=255)
        for digit, position in zip(reading.digits or "", reading.positions or (), strict=True):
            below.text(position, -1, digit, ha="center", va="bottom", fontsize=8)
    return figure


def _shortened(name: str, longest: int = 34) -> str:
    """A name of at most `longest` characters that matplotlib does not take for a formula."""
    name = name.encode("utf-8", "replace").decode().replace("$", r"\$")
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"
