"""The trunks that a reader may have: its convolutions, from the image to a row of frames."""

from typing import NamedTuple


class Layer(NamedTuple):
    """A convolution: its channels, in those of the first one, and what makes its output smaller."""

    channels: float
    stride: int = 1
    pool: bool = False
    norm: bool = True


# Full of pixels and poor in channels, the first layers cost memory's time, not arithmetic: batch norm after the first
# convolution and pooling after the second one took a third of a step, and five layers do as well without.
TRUNKS = {
    4: (Layer(1, stride=2), Layer(2, pool=True), Layer(3, pool=True), Layer(5)),
    5: (Layer(1, stride=2, norm=False), Layer(2, stride=2), Layer(4, pool=True), Layer(5), Layer(8)),
    # about as much arithmetic as five, more of it where a stroke is still a line
    7: (
        Layer(1, stride=2, norm=False),
        Layer(2, stride=2),
        Layer(2),
        Layer(7 / 3),
        Layer(3, pool=True),
        Layer(13 / 3),
        Layer(6),
    ),
}
"""The convolutions by how many there are (`model.depth`)."""
