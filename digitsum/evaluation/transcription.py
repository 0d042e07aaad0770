"""The digits that a model read against those that were drawn, where a composed data set says what they were."""

import re
from pathlib import Path

import numpy as np

from digitsum.data.batches import Batch
from digitsum.data.glyphs import GLYPH_SIZE
from digitsum.errors import InputError
from digitsum.files import is_folder
from digitsum.models.base import Prediction

_MOST_BYTES = 2**28  # unpacked, of one file
_MOST_DIGITS = 1_000  # on one canvas
_NEAR = 8  # pixels


def find_truth(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Read what was drawn on each canvas of a split, from `truth0.npz`, ..., for evaluation only.

    Nothing that trains or selects a model comes here: `digitsum.evaluation.predict` alone does.

    Returns:
        `(M, D)` int8 digits from left to right, then -1, and `(M, D)` int16 left edges of their tiles in pixels; None
        where there is no folder with such files.

    Raises:
        InputError: a damaged file.
    """
    if not is_folder(folder):
        return None
    found = {int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(r"truth(\d+)\.npz", path.name))}
    digits, left = [], []
    for _, path in sorted(found.items()):
        try:
            # opened here: numpy leaves a damaged file open
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                if sum(entry.file_size for entry in file.zip.infolist()) > _MOST_BYTES:
                    raise ValueError("its arrays are too large")
                digits.append(file["digits"])
                left.append(file["left"])
            if digits[-1].ndim != 2 or digits[-1].shape != left[-1].shape:
                raise ValueError("its arrays do not fit one another")
            if {digits[-1].dtype.kind, left[-1].dtype.kind} != {"i"}:
                raise ValueError("its arrays are not of whole numbers")
            if digits[-1].shape[1] > _MOST_DIGITS:
                raise ValueError("it has too many digits")
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
    """Readings against the truth, added up batch by batch.

    Args:
        digits: `(M, D)`, see `find_truth`.
        left: `(M, D)`, see `find_truth`.
    """

    def __init__(self, digits: np.ndarray, left: np.ndarray) -> None:
        self._digits = digits
        self._left = left
        self._sequences = self._right_sequences = self._right_nonzero = self._true = self._matched = self._near = 0
        self._offsets = 0.0

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Add a batch, whose `index` are rows of the truth."""
        read, positions = prediction.sequence.digits.cpu().numpy(), prediction.sequence.positions.cpu().numpy()
        for number, row in enumerate(batch["index"].tolist()):
            truth, middle = self._digits[row], self._left[row] + GLYPH_SIZE / 2
            truth, middle = truth[truth >= 0], middle[truth >= 0]
            found, place = read[number], positions[number]
            found, place = found[found >= 0], place[found >= 0]
            pairs = match_digits(truth.tolist(), found.tolist())
            self._sequences += 1
            self._right_sequences += len(truth) == len(found) == len(pairs)
            self._right_nonzero += truth[truth > 0].tolist() == found[found > 0].tolist()
            self._true += len(truth)
            self._matched += len(pairs)
            for one, other in pairs:
                self._near += abs(middle[one] - place[other]) <= _NEAR
                self._offsets += place[other] - middle[one]

    def report(self) -> dict[str, float]:
        """What was read rightly.

        Returns:
            `sequences` (share of images whose digits are all right, none missing or too many), `sequences_but_zeros`
            (the same without the zeros: sums tell nothing of them where the number of digits is unknown), `digits`
            (share of the true digits that are in the reading, in their order), `positions` (share of those read within
            8 pixels of the middle of the tile), `position_offset` (mean of read minus true place, pixels).
        """
        matched = max(1, self._matched)
        return {
            "sequences": self._right_sequences / max(1, self._sequences),
            "sequences_but_zeros": self._right_nonzero / max(1, self._sequences),
            "digits": self._matched / max(1, self._true),
            "positions": self._near / matched,
            "position_offset": float(self._offsets / matched),
        }


def match_digits(truth: list[int], found: list[int]) -> list[tuple[int, int]]:
    """Pair equal digits of two sequences, in order, as many as possible (the longest common subsequence).

    Example:
        >>> match_digits([5, 3, 3], [4, 1, 3, 3])
        [(1, 2), (2, 3)]
    """
    if truth == found:
        return [(number, number) for number in range(len(truth))]
    best = [[0] * (len(found) + 1) for _ in range(len(truth) + 1)]
    for i in reversed(range(len(truth))):
        for j in reversed(range(len(found))):
            best[i][j] = best[i + 1][j + 1] + 1 if truth[i] == found[j] else max(best[i + 1][j], best[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(truth) and j < len(found):
        if truth[i] == found[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs
