"""Predictions for a set of images: a table, and where the sums are known metrics and figures."""

import csv
import functools
import io
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from digitsum.batches import Batch, Batches
from digitsum.evaluation import Evaluation, predict
from digitsum.figures import answers_figure, scatter_figure
from digitsum.files import write_json, written_whole
from digitsum.metrics import round_sums
from digitsum.module import SumModule
from digitsum.pictures import PictureBatches
from digitsum.records import write_figure
from digitsum.runs import METRICS_FILE

_NUM_WORST = 12


def write_predictions(
    trainer: L.Trainer, module: SumModule, parts: dict[str, Batches | PictureBatches], folder: Path
) -> dict[str, dict[str, dict[str, float]]]:
    """Predict every image of every part and write the results into `folder`.

    Writes `predictions.csv` (`part`, `index` or `file`, `predicted`, `rounded`, for pictures `changes`, and where the
    sums are known `actual` and `error`), and where they are known `metrics.json`, `scatter.png` and `worst.png`.
    Memory does not grow with the number of images.

    Args:
        trainer: runs the passes.
        module: the trained model.
        parts: batches by name, either all with sums or all without.
        folder: where to; the files in it are replaced.

    Returns:
        For each part, and for `all` where there are several, the rows `model` and `constant`; empty without sums.
    """
    total = Evaluation(module.train_mean, num_worst=_NUM_WORST)
    evaluations: dict[str, Evaluation] = {}
    with written_whole(folder / "predictions.csv") as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        for number, (part, batches) in enumerate(parts.items()):
            table = _Table(writer, part, batches, header=number == 0)
            listeners: list[Any] = [table]
            if isinstance(batches, Batches) and batches.arrays.sums is not None:
                evaluations[part] = Evaluation(module.train_mean)
                listeners += [evaluations[part].update, functools.partial(total.update, part=part)]
            predict(trainer, module, batches, *listeners)
        text.detach()
    if not evaluations:
        return {}

    results = {part: evaluation.row() for part, evaluation in evaluations.items()}
    if len(evaluations) > 1:
        results["all"] = total.row()
    target, preds = total.points.T
    write_figure(
        folder / "scatter.png",
        scatter_figure(target, preds, f"Actual against predicted sums: {', '.join(parts)}", total=total.count),
    )
    worst = total.worst
    write_figure(
        folder / "worst.png",
        answers_figure(
            np.stack([answer.image for answer in worst]),
            np.array([answer.pred for answer in worst]),
            np.array([answer.target for answer in worst]),
            f"The {len(worst)} largest errors: {', '.join(parts)}",
            names=[f"{answer.part} {answer.index}" for answer in worst],
        ),
    )
    write_json(folder / METRICS_FILE, results)
    return results


class _Table:
    """Writes a part's rows as its batches are answered."""

    def __init__(self, writer: Any, part: str, batches: Batches | PictureBatches, *, header: bool) -> None:
        self._writer = writer
        self._part = part
        self._paths = batches.paths if isinstance(batches, PictureBatches) else None
        if header:
            known = isinstance(batches, Batches) and batches.arrays.sums is not None
            writer.writerow(
                ["part", "file" if self._paths else "index", "predicted", "rounded"]
                + (["changes"] if self._paths else [])
                + (["actual", "error"] if known else [])
            )

    def __call__(self, batch: Batch, preds: torch.Tensor) -> None:
        preds = preds.float().cpu()
        rounded = round_sums(preds).long().tolist()
        sums = batch["sums"].tolist() if "sums" in batch else None
        for row, (index, pred) in enumerate(zip(batch["index"].tolist(), preds.tolist(), strict=True)):
            cells = [self._part, self._paths[index].name if self._paths else index, f"{pred:.4f}", rounded[row]]
            if self._paths:
                cells.append(batch["changes"][row])
            if sums is not None:
                cells += [sums[row], f"{pred - sums[row]:.4f}"]
            self._writer.writerow(cells)
