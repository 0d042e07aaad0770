"""Predictions for a set of images: a table, and where the sums are known metrics and figures."""

import csv
import functools
import io
from pathlib import Path
from typing import Any

import lightning as L

from digitsum.data.batches import Batch, Batches
from digitsum.data.pictures import PictureBatches
from digitsum.evaluation.calibration import Calibration
from digitsum.evaluation.evaluate import Evaluation, example_from_batch, predict
from digitsum.evaluation.picture_pages import PicturePages, ReadPicture
from digitsum.evaluation.transcription import TranscriptionAccuracy
from digitsum.figures import Example, examples_figure, reliability_figure, scatter_figure, write_figure
from digitsum.files import write_json, written_whole
from digitsum.metrics import round_sums
from digitsum.models.base import Prediction
from digitsum.models.module import SumModule
from digitsum.models.reading import readings_of
from digitsum.runs.locate import METRICS_FILE

_NUM_SHOWN = 12


def write_predictions(
    trainer: L.Trainer,
    module: SumModule,
    parts: dict[str, Batches | PictureBatches],
    folder: Path,
    truths: dict[str, TranscriptionAccuracy] | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Predict every image of every part and write the results into `folder`.

    Writes `predictions.csv` (`part`, `index` or for pictures `file` and `line`, `predicted`, `rounded`, for pictures
    `changes` and `warnings`, and where the sums are known `actual` and `error`), and where they are known
    `metrics.json`, `scatter.png` and `worst.png`. A picture without digits has a row without numbers.

    From a network that predicts digits the table also gets `probability` (of the rounded sum), `low` and `high` (the
    ends of the central 90 % interval) and `digits`, and `overlays.png` shows the first images, where the sums are known
    the first whose sum is right and the first whose sum is wrong. Of pictures it shows all, on as many pages as it
    takes (see `digitsum.evaluation.picture_pages`). `metrics.json` then has the rows `calibration` and,
    where the digits are known as well, `transcription`; `reliability.png` shows whether confidence is accuracy.

    Memory grows with the number of images by 5 bytes each, and only for the calibration.

    Args:
        trainer: see `digitsum.evaluation.evaluate.predict`.
        module: the trained model.
        parts: batches by name, either all with sums or all without.
        folder: where to; the files in it are replaced.
        truths: by part, what compares the digits with those that were drawn, where these are known.

    Returns:
        What `metrics.json` has: for each part, and for `all` where there are several, rows of figures; empty without
        sums.
    """
    digits = module.net.predicts_digits
    total, total_calibration, overlays = Evaluation(module.train_mean, _NUM_SHOWN), Calibration(), _Overlays()
    pages = PicturePages(folder)
    rows: dict[str, dict[str, Any]] = {}
    with written_whole(folder / "predictions.csv") as file:
        text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        for number, (part, batches) in enumerate(parts.items()):
            listeners: list[Any] = [_Table(writer, part, batches, pages, header=number == 0, digits=digits)]
            if digits and isinstance(batches, Batches):
                listeners.append(functools.partial(overlays.update, part=part))
            if isinstance(batches, Batches) and batches.dataset.sums is not None:
                rows[part] = {"model": Evaluation(module.train_mean)}
                listeners.append(functools.partial(total.update, part=part))
                if digits:
                    rows[part]["calibration"] = Calibration()
                    listeners.append(total_calibration.update)
                    if truths and part in truths:
                        rows[part]["transcription"] = truths[part]
                listeners += [row.update for row in rows[part].values()]
            predict(trainer, module, batches, *listeners, title=f"predicting {part}")
        text.detach()
    pages.close()
    names = ", ".join(parts)
    if overlays.images:
        write_figure(folder / "overlays.png", examples_figure(overlays.images, overlays.title(names)))
    if not rows:
        return {}

    if len(rows) > 1:
        rows["all"] = {"model": total, **({"calibration": total_calibration} if digits else {})}
    results = {
        part: {**found.pop("model").row(), **{name: row.report() for name, row in found.items()}}
        for part, found in rows.items()
    }
    target, preds = total.points.T
    title = f"Actual against predicted sums: {names}"
    write_figure(folder / "scatter.png", scatter_figure(target, preds, title, total=total.count))
    worst = total.worst
    write_figure(folder / "worst.png", examples_figure(worst, f"The {len(worst)} largest errors: {names}"))
    if digits:
        curves = (*total_calibration.reliability(), *total_calibration.selective())
        write_figure(folder / "reliability.png", reliability_figure(*curves, f"Confidence: {names}"))
    write_json(folder / METRICS_FILE, results)
    return results


class _Overlays:
    """The first images of a pass: so many right and so many wrong ones, or twice as many of unknown sums."""

    def __init__(self) -> None:
        self._right: list[Example] = []
        self._wrong: list[Example] = []
        self._unknown: list[Example] = []

    @property
    def images(self) -> list[Example]:
        """The right ones, then the wrong ones."""
        return self._right + self._wrong + self._unknown

    def title(self, names: str) -> str:
        """What the images are."""
        if self._unknown:
            return f"The first {len(self._unknown)} images: {names}"
        right, wrong = len(self._right), len(self._wrong)
        return f"The first {right} images with the right sum and the first {wrong} with a wrong one: {names}"

    def update(self, batch: Batch, prediction: Prediction, part: str) -> None:
        """Keep what is still wanted of a batch."""
        known = "sums" in batch
        missing = min(len(self._right), len(self._wrong)) < _NUM_SHOWN if known else len(self._unknown) < 2 * _NUM_SHOWN
        if not missing:
            return
        right = (prediction.estimate.cpu() == batch["sums"].cpu()).tolist() if known else []
        for row in range(len(batch["index"])):
            kept = (self._right if right[row] else self._wrong) if known else self._unknown
            if len(kept) < (_NUM_SHOWN if known else 2 * _NUM_SHOWN):
                kept.append(example_from_batch(batch, prediction, row, part))


class _Table:
    """Writes a part's rows as its batches are predicted."""

    def __init__(
        self,
        writer: Any,
        part: str,
        batches: Batches | PictureBatches,
        pages: PicturePages,
        *,
        header: bool,
        digits: bool,
    ) -> None:
        self._writer = writer
        self._pages = pages
        self._part = part
        self._paths = batches.paths if isinstance(batches, PictureBatches) else None
        if header:
            known = isinstance(batches, Batches) and batches.dataset.sums is not None
            writer.writerow(
                ["part", *(["file", "line"] if self._paths else ["index"]), "predicted", "rounded"]
                + (["probability", "low", "high", "digits"] if digits else [])
                + (["changes", "warnings"] if self._paths else [])
                + (["actual", "error"] if known else [])
            )

    def __call__(self, batch: Batch, prediction: Prediction) -> None:
        preds: list[float] = prediction.estimate.float().tolist()
        rounded = round_sums(prediction.estimate.float()).long().tolist()
        sums = batch["sums"].tolist() if "sums" in batch else None
        for row, reading in enumerate(readings_of(batch, prediction, self._paths or ())):
            numbers: list[Any] = [f"{preds[row]:.4f}", rounded[row]]
            if reading.sum is None:  # a picture without digits
                numbers = [""] * (2 if prediction.probs is None else 6)
            elif prediction.probs is not None:
                numbers += [f"{reading.probability:.4f}", reading.low, reading.high, reading.digits]
            cells = [self._part, reading.index, *numbers]
            if reading.file is not None:
                name, original = Path(reading.file).name, batch["originals"][row]
                assert original is not None
                self._pages.add(ReadPicture(name, original, batch["images"][row].cpu().numpy(), reading))
                cells = [self._part, name, reading.line, *numbers, reading.changes, ", ".join(reading.warnings)]
            if sums is not None:
                cells += [sums[row], f"{preds[row] - sums[row]:.4f}"]
            self._writer.writerow(cells)
