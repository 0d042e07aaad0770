"""The clusters of a warm start, with the digits that the sums give them."""

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from digitsum.figures import OWN_STYLE

_COLUMNS = 10
_UNSURE, _UNSURE_BELOW = "#d55e00", 0.9  # vermilion, told from black by colour-blind readers


@style.context(OWN_STYLE)
def clusters_figure(means: np.ndarray, probs: np.ndarray, sizes: np.ndarray) -> Figure:
    """Each cluster's mean glyph with its most probable digit, in the order of the digits, the largest first.

    Args:
        means: `(K, 28, 28)` in [0, 1].
        probs: `(K, 10)`, the clusters' distributions over the digits.
        sizes: `(K,)`, how many glyphs each has.
    """
    order = np.lexsort((-sizes, probs.argmax(1)))
    rows = -(-len(order) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * 0.95, rows * 1.25 + 0.8), layout="constrained")
    figure.suptitle(
        f"{len(order)} clusters of {sizes.sum():,} glyphs: the digit that the sums give each, its probability\n"
        f"(orange below {_UNSURE_BELOW:.0%}), and how many glyphs it has",
        fontsize=10,
    )
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for axes in panels:
        axes.axis("off")
    for axes, cluster in zip(figure.axes, order, strict=False):
        axes.imshow(means[cluster], cmap="gray_r", vmin=0, vmax=1)
        digit, probability = int(probs[cluster].argmax()), float(probs[cluster].max())
        colour = "black" if probability >= _UNSURE_BELOW else _UNSURE
        axes.set_title(f"{digit}  {probability:.0%}\nn = {sizes[cluster]}", fontsize=8, color=colour)
    return figure
