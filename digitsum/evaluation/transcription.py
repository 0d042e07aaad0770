"""The digits that a model found against those that were drawn, where a composed data set says what they were."""

import re
from pathlib import Path

import numpy as np
from torchmetrics.text import CharErrorRate

from digitsum.data.batches import Batch
from digitsum.data.glyphs import GLYPH_SIZE
from digitsum.errors import InputError
from digitsum.files import is_folder
from digitsum.models.base import Prediction

_MAX_BYTES = 2**28  # unpacked, of one file
_MAX_DIGITS = 1_000  # on one canvas
_NEAR = 8  # pixels


def find_truth(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Read what was drawn on each canvas of a split, from `truth0.npz`, ...; nothing that trains or selects calls this.

    Returns:
        `(M, D)` int8 digits from left to right, then -1, and `(M, D)` int16 left edges of their tiles in pixels; None
        where there is no folder with such files. A damaged one is an InputError.
    """
    if not is_folder(folder):
        return None
    found = {int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(r"truth(\d+)\.npz", path.name))}
    digits, left = [], []
    for _, path in sorted(found.items()):
        try:
            # opened here: numpy leaves a damaged file open
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                if sum(entry.file_size for entry in file.zip.infolist()) > _MAX_BYTES:
                    raise ValueError("its arrays are too large")
                drawn, edges = file["digits"], file["left"]
            if drawn.ndim != 2 or drawn.shape != edges.shape or drawn.shape[1] > _MAX_DIGITS:
                raise ValueError(f"its arrays have the shapes {drawn.shape} and {edges.shape}")
            if {drawn.dtype.kind, edges.dtype.kind} != {"i"}:
                raise ValueError("its arrays are not of whole numbers")
            digits.append(drawn)
            left.append(edges)
        except Exception as error:  # a damaged file raises whatever the parsers stumbled over
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{path}: expected the digits of a composed data set, but it is damaged ({reason})"
            ) from error
    try:
        return (np.concatenate(digits), np.concatenate(left)) if found else None
    except ValueError as error:
        raise InputError(f"{folder}: expected truth files of one width, found several") from error


class TranscriptionAccuracy:
    """Digit sequences against the truth that `find_truth` returns, added up batch by batch."""

    def __init__(self, digits: np.ndarray, left: np.ndarray) -> None:
        self._digits, self._left = digits, left
        self._errors = CharErrorRate()
        self._sequences = self._right = self._right_but_zeros = self._positions = self._near = 0
        self._offsets = 0.0

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Add a batch, whose `index` are rows of the truth."""
        index = batch["index"].cpu().numpy()
        truth = ["".join(str(digit) for digit in row if digit >= 0) for row in self._digits[index].tolist()]
        found, positions = prediction.sequence.texts(), prediction.sequence.positions.cpu().numpy()
        self._errors.update(found, truth)
        for row, read, drawn, place in zip(index, found, truth, positions, strict=True):
            self._sequences += 1
            self._right_but_zeros += read.replace("0", "") == drawn.replace("0", "")
            if read == drawn:
                offsets = place[: len(read)] - (self._left[row, : len(read)] + GLYPH_SIZE / 2)
                self._right += 1
                self._positions += len(read)
                self._near += int((np.abs(offsets) <= _NEAR).sum())
                self._offsets += float(offsets.sum())

    def report(self) -> dict[str, float]:
        """How well the digits were transcribed.

        Returns:
            `sequences` (share of images whose digits are all right), `sequences_but_zeros` (the same without the zeros:
            sums tell nothing of them where the number of digits is unknown), `char_error_rate` (digits to substitute,
            insert and delete, over the number of true digits), and of the images whose digits are all right `positions`
            (share of digits within 8 pixels of the middle of the tile) and `position_offset` (mean of predicted minus
            true position, pixels), both 0 where there is none.
        """
        sequences, positions = max(1, self._sequences), max(1, self._positions)
        return {
            "sequences": self._right / sequences,
            "sequences_but_zeros": self._right_but_zeros / sequences,
            "char_error_rate": self._errors.compute().item(),
            "positions": self._near / positions,
            "position_offset": self._offsets / positions,
        }
