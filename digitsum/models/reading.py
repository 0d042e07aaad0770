"""What a model reads on each image or row of digits, as plain values, and why it may be wrong."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from digitsum.data.batches import Batch
from digitsum.data.pictures import NO_DIGITS, PictureBatches, find_pictures
from digitsum.data.pixels import checked_images
from digitsum.errors import InputError, check
from digitsum.models.base import Prediction, interval_of, probability_of

_SURE = 0.93  # of each digit, the mean probability below which a picture's reading is called unsure
# The odds of a picture's sum are raised to one over this. On photos there is what no training image has, and a few
# wrong readings look as sure as right ones: 1.5 keeps nearly all of these below 0.9 (docs/pictures.md).
_PICTURE_TEMPERATURE = 1.5


@dataclass(frozen=True)
class Reading:
    """What was read on one image, or on one row of digits of a picture.

    A network that answers with a number alone leaves `probability`, `low`, `high`, `digits` and `positions` None; where
    a picture has nothing like ink, `sum` is None as well.
    """

    index: int  # which of the images or pictures, from 0
    sum: float | None  # a whole number where there is a distribution, whose most probable sum it is
    probability: float | None = None  # of the sum; see `distributions_of` for that of a picture
    low: int | None = None  # the ends of the central 90 % interval
    high: int | None = None
    digits: str | None = None  # from left to right
    positions: tuple[float, ...] | None = None  # of the middle of each digit, in pixels of the model's image
    warnings: tuple[str, ...] = ()  # of a picture: why the reading may be wrong
    file: str | None = None  # of a picture that was a file: its path
    line: int | None = None  # of a picture: which row of digits, from 1
    changes: str | None = None  # of a picture: what was done to it


def readings_of(batch: Batch, prediction: Prediction, sources: Sequence[Any] = ()) -> list[Reading]:
    """The readings of a batch's images, in their order.

    Args:
        batch: with `index`; of pictures with all that `digitsum.data.pictures.PictureBatches` gives.
        prediction: what the model says of them.
        sources: of pictures: what `index` counts.
    """
    preds = prediction.estimate.float().cpu()
    index, pictures = batch["index"].tolist(), "lines" in batch
    numbers: list[dict[str, Any]] = [{"sum": pred} for pred in preds.tolist()]
    if prediction.probs is not None:
        probs, sequence = distributions_of(batch, prediction), prediction.sequence
        probability, (low, high) = probability_of(probs, preds).tolist(), interval_of(probs)
        sure = probability_of(prediction.probs.float().cpu(), preds).tolist()
        columns = zip(preds.long().tolist(), probability, low.tolist(), high.tolist(), sequence.texts(), strict=True)
        names = ("sum", "probability", "low", "high", "digits")
        numbers = [dict(zip(names, values, strict=True)) for values in columns]
        for number, row in zip(numbers, sequence.positions.tolist(), strict=True):
            number["positions"] = tuple(row[: len(number["digits"])])
    if not pictures:
        return [Reading(at, **number) for at, number in zip(index, numbers, strict=True)]

    readings = []
    for row, (at, number) in enumerate(zip(index, numbers, strict=True)):
        warnings = batch["warnings"][row]
        if NO_DIGITS in warnings:
            number = {"sum": None}
        elif "digits" in number:
            warnings += doubts_of(number["digits"], sure[row], batch["num_components"][row])
        file = str(sources[at]) if isinstance(sources[at], Path) else None
        place: dict[str, Any] = {"file": file, "line": batch["lines"][row], "changes": batch["changes"][row]}
        readings.append(Reading(at, **number, warnings=warnings, **place))
    return readings


def distributions_of(batch: Batch, prediction: Prediction) -> torch.Tensor:
    """How probable each sum is, `(N, S)` float32 on the CPU: the model's, and less sure of pictures that were prepared.

    The odds of such a picture's most probable sum are raised to 1 / 1.5, as a temperature of 1.5 does to a logit; all
    other sums keep their proportions. What is below one half stays as it is, and so does a picture like a canvas.

    Args:
        batch: see `readings_of`.
        prediction: of a network that predicts digits.
    """
    assert prediction.probs is not None
    probs = prediction.probs.float().cpu()
    best = prediction.estimate.float().cpu()
    before = probability_of(probs, best)[:, None]
    odds = (before / (1 - before)) ** (1 / _PICTURE_TEMPERATURE)
    after = torch.where(before < 1, odds / (1 + odds), before)
    # only the preparation counts pieces of ink
    prepared = torch.tensor([count is not None for count in batch.get("num_components", [None] * len(probs))])
    after = torch.where(prepared[:, None] & (before > 0.5), after, before)
    scaled = probs * torch.where(after < before, (1 - after) / (1 - before), 1)
    return scaled.scatter(1, best.long()[:, None], after)


def doubts_of(digits: str, probability: float, num_components: int | None) -> tuple[str, ...]:
    """Why a reading of a picture may be wrong, in words.

    Args:
        digits: that were read.
        probability: of their sum, as the model has it.
        num_components: pieces of ink that there are, if they were counted.

    Example:
        >>> doubts_of("407", 0.99, 3), doubts_of("407", 0.6, 2)
        ((), ('digits unlike the pieces of ink', 'low probability'))
    """
    unlike = num_components is not None and len(digits) != num_components
    unsure = probability < _SURE ** max(1, len(digits))
    return ("digits unlike the pieces of ink",) * unlike + ("low probability",) * unsure


def read_with(
    predict: Callable[[torch.Tensor], Prediction],
    x: Any,
    image_size: tuple[int, int],
    *,
    variable_width: bool,
    prepare: str,
    batch_size: int,
) -> list[Reading]:
    """Read whatever images these are; see `digitsum.models.module.SumModule.read`.

    Args:
        predict: what answers images `(N, H, W)`, of one image or more.
        x: arrays, tensors, paths or open pictures.
        image_size: `(H, W)` that the model was made for.
        variable_width: whether it takes images of any width.
        prepare: of pictures: see `digitsum.data.pictures.read_rows`.
        batch_size: images at once.
    """
    check("batch_size", batch_size, type(batch_size) is int and batch_size >= 1, "1 or more images")
    sources = _pictures(x)
    if sources is None:
        batches: Any = _image_batches(x, image_size, batch_size, variable_width=variable_width)
    else:
        batches = PictureBatches(
            sources, image_size, batch_size, prepare=prepare, variable_width=variable_width, leave_out=False
        )
        batches = batches if sources else []
    with torch.inference_mode():
        return [reading for batch in batches for reading in readings_of(batch, predict(batch["images"]), sources or ())]


def _pictures(x: Any) -> list[Path | Image.Image] | None:
    """The pictures that `x` names or holds; None where it is an array of images."""
    if isinstance(x, str | os.PathLike):
        return list(find_pictures(Path(x)))
    if isinstance(x, Image.Image):
        return [x]
    if isinstance(x, list | tuple) and all(isinstance(one, str | os.PathLike | Image.Image) for one in x):
        return [one if isinstance(one, Image.Image) else Path(one) for one in x]
    return None


def _image_batches(x: Any, image_size: tuple[int, int], batch_size: int, *, variable_width: bool) -> Iterator[Batch]:
    if not isinstance(x, torch.Tensor):
        try:
            x = np.asarray(x)
            x = torch.as_tensor(x if x.flags.writeable else x.copy())
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                "read: expected a path, a picture, an array (H, W) or (N, H, W), or a list of paths or pictures, got "
                f"{type(x).__name__} that is none of these"
            ) from error
    images = checked_images(x[None] if x.ndim == 2 else x, image_size, variable_width=variable_width)
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        yield {"images": part, "index": torch.arange(start, start + len(part))}
