"""What a model says of a picture, as HTML: the sum, the digits above the ink, the sum's distribution, the doubts."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from digitsum.data.pictures import PictureBatches
from digitsum.models.module import SumModule
from digitsum.models.reading import Reading, distributions_of, readings_of

_MIN_BARS, _MAX_BARS = 9, 41  # sums that a chart shows


@dataclass(frozen=True)
class Answer:
    """A row of digits of a picture with all that was found out about it."""

    reading: Reading
    original: np.ndarray  # (h, w) uint8, the row on the picture
    image: np.ndarray  # (H, W) uint8, what the model got
    probs: np.ndarray | None  # (S,) float, of each sum from 0 on, of a model that has them
    others: dict[str, float | None]  # what other models say of it, by their names; None if it is too large for one


def answers_of(
    module: SumModule, picture: Path | Image.Image, others: dict[str, SumModule] | None = None
) -> list[Answer]:
    """Read the rows of digits of one picture, from top to bottom; several threads may at once.

    Args:
        module: the model, in evaluation mode.
        picture: the file, or a picture that is open.
        others: more models by the names that their sums are to have.

    Raises:
        InputError: a picture that cannot be read.
    """
    batches = PictureBatches(
        [picture], module.image_size, 16, variable_width=module.net.variable_width, leave_out=False
    )
    answers = []
    with torch.inference_mode():
        for batch in batches:
            prediction = module.predict(batch["images"])
            probs: Any = [None] * len(batch["lines"])
            if prediction.probs is not None:
                probs = distributions_of(batch, prediction).numpy()
            readings = readings_of(batch, prediction, [picture])
            sums = {name: _sums(other, batch["images"]) for name, other in (others or {}).items()}
            rows: Any = zip(readings, batch["originals"], batch["images"].numpy(), probs, strict=True)
            for row, (reading, original, image, distribution) in enumerate(rows):
                beside = {} if reading.sum is None else {name: values[row] for name, values in sums.items()}
                answers.append(Answer(reading, original, image, distribution, beside))
    return answers


def _sums(module: SumModule, images: torch.Tensor) -> list[float | None]:
    """What a model says of images that were prepared for another one, padded to its size; None of what is too large."""
    height, width = module.image_size
    if module.net.variable_width:
        width = max(width, images.shape[2])
    padded = torch.nn.functional.pad(images, (0, width - images.shape[2], 0, height - images.shape[1]))
    cut = images.sum((1, 2)) > padded.sum((1, 2))
    return [None if lost else value for value, lost in zip(module(padded).tolist(), cut.tolist(), strict=True)]


def answers_html(answers: Sequence[Answer], title: str) -> str:
    """The answers to a picture, one below the other, under its title."""
    several = len(answers) > 1
    rows = [_row(answer, f"row {number}" if several else "") for number, answer in enumerate(answers, 1)]
    return f'<div class="answer"><p class="of">{html.escape(title)}</p>{"".join(rows)}</div>'


def message_html(words: str, kind: str = "note") -> str:
    """A message where the answer would stand."""
    return f'<div class="answer"><p class="{kind}">{html.escape(words)}</p></div>'


def _row(answer: Answer, name: str) -> str:
    reading = answer.reading
    parts = [f"<h3>{name}</h3>" if name else ""]
    if reading.sum is None:
        parts.append('<p class="note">No digits found: nothing here looks like ink.</p>')
    else:
        parts.append(f'<p class="sum">{_number(reading.sum)}</p>')
        if reading.digits is not None:
            terms = " + ".join(reading.digits) or "no digits"
            parts.append(f'<p class="terms">{terms} <span>with probability {_percent(reading.probability)}</span></p>')
        parts += [f'<p class="warning">⚠ {html.escape(warning)}</p>' for warning in reading.warnings]
    for other, value in answer.others.items():
        says = "takes no row as wide as this" if value is None else f"says {value:.1f}"
        parts.append(f'<p class="other"><b>{html.escape(other)}</b> {says}</p>')
    if answer.probs is not None and reading.sum is not None:
        between = f"90 % lie between {reading.low} and {reading.high}" if reading.low != reading.high else ""
        parts.append(_figure("How probable each sum is", _chart(answer.probs, int(reading.sum)), between))
    if reading.file is not None:
        parts.append(_figure("On the picture", f'<img alt="the row" src="{_png(answer.original)}">', ""))
    parts.append(_figure("What the model saw", _ink(answer), reading.changes or ""))
    return f"<section>{''.join(parts)}</section>"


def _figure(title: str, content: str, caption: str) -> str:
    small = f"<small>{html.escape(caption)}</small>" if caption else ""
    return f"<figure><figcaption>{title}</figcaption>{content}{small}</figure>"


def _ink(answer: Answer) -> str:
    """The image that the model got, cut behind its ink, with the digits above their places."""
    height, width = answer.image.shape
    inked = np.flatnonzero(answer.image.max(0))
    width = min(width, max(width if not len(inked) else int(inked[-1]) + 9, 3 * height))
    digits = zip(answer.reading.digits or "", answer.reading.positions or (), strict=True)
    labels = "".join(f'<text x="{x:.1f}" y="-3">{digit}</text>' for digit, x in digits)
    return (
        f'<svg class="ink" viewBox="0 -16 {width} {height + 16}" preserveAspectRatio="xMinYMid" role="img" '
        f'aria-label="prepared image"><image href="{_png(answer.image[:, :width])}" width="{width}" height="{height}"/>'
        f"{labels}</svg>"
    )


def _png(pixels: np.ndarray) -> str:
    """Grey pixels `(h, w)` uint8 as the address of a picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _chart(probs: np.ndarray, best: int) -> str:
    """The distribution `(S,)` as bars, those of the sums around the best one that are worth showing."""
    shown = np.flatnonzero(probs >= probs.max() / 80)  # what is a pixel high
    low, high = (int(shown[0]), int(shown[-1])) if len(shown) else (best, best)
    low, high = min(low, best), max(high, best)
    low = max(0, min(low - max(0, _MIN_BARS - 1 - high + low) // 2, len(probs) - _MIN_BARS), best - _MAX_BARS // 2)
    high = min(len(probs) - 1, max(high, low + _MIN_BARS - 1), low + _MAX_BARS - 1)
    every = 1 + (high - low) // 14  # numbers stay apart
    step, top = 320 / (high - low + 1), float(probs.max()) or 1.0
    bars = []
    for sum_ in range(low, high + 1):
        x, tall, share = (sum_ - low) * step, 80 * float(probs[sum_]) / top, float(probs[sum_])
        mark = ' class="best"' if sum_ == best else ""
        place = f'x="{x + 0.1 * step:.1f}" y="{90 - tall:.1f}" width="{0.8 * step:.1f}" height="{tall:.1f}"'
        bars.append(f"<rect{mark} {place}><title>{sum_}: {share:.1%}</title></rect>")
        middle = f'x="{x + step / 2:.1f}"'
        if (sum_ - best) % every == 0:
            bars.append(f'<text{mark} {middle} y="104">{sum_}</text>')
        if share >= 0.05 and every == 1:
            bars.append(f'<text {middle} y="{86 - tall:.1f}">{_percent(share)}</text>')
    return (
        '<svg class="chart" viewBox="0 -6 320 114" role="img" aria-label="distribution of the sum">'
        f'{"".join(bars)}<line x1="0" x2="320" y1="90" y2="90"/></svg>'
    )


def _number(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) and not value.is_integer() else f"{value:.0f}"


def _percent(share: float | None) -> str:
    """A share in whole percent that says 100 only of certainty."""
    share = share or 0.0
    return "over 99 %" if share > 0.995 else f"{share:.0%}".replace("%", " %")
