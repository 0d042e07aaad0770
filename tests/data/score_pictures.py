"""How many pictures of digits were read right, and what each step of their preparation is worth.

    python tests/data/score_pictures.py FOLDER predictions.csv      what scripts/predict.py wrote, or another reader
    python tests/data/score_pictures.py FOLDER --steps CHECKPOINT   read with ever more steps of the preparation

FOLDER has pictures and `truth.csv` with the columns `file`, `digits` and `kind`, or pictures that are named by a number
and their digits, like `007_1234.png` (hard_lines.py writes such). The table needs the columns `file` and `digits`, a
line for each row of digits; with `warnings` and `probability` it says how well these tell right from wrong. Halves are
every other picture, in the order of their names.
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchmetrics.functional.text import char_error_rate

from digitsum.data import preparation
from digitsum.data.grey import read_grey
from digitsum.data.ink import find_ink, is_light_on_dark
from digitsum.data.pictures import find_pictures
from digitsum.data.preparation import Picture
from digitsum.models.checkpoints import load_model


def truth_of(folder: Path) -> dict[str, dict[str, str]]:
    """What is on each picture, by the file's name: `digits` and `kind`."""
    if (folder / "truth.csv").exists():
        with (folder / "truth.csv").open(encoding="utf-8", newline="") as file:
            return {row["file"]: row for row in sorted(csv.DictReader(file), key=lambda row: row["file"])}
    return {path.name: {"digits": path.stem.split("_")[1], "kind": "picture"} for path in find_pictures(folder)}


def score(truth: dict[str, dict[str, str]], rows: dict[str, list[dict[str, Any]]]) -> str:
    """A table: for each kind and half the sums and the digits that are right, and the character error rate."""
    groups: dict[str, list[str]] = defaultdict(list)
    for number, (name, true) in enumerate(truth.items()):
        for group in (true["kind"], f"half {'AB'[number % 2]}", "all"):
            groups[group].append(name)
    read = {name: [row["digits"] or "" for row in rows.get(name, [])] for name in truth}
    sums = {name: [sum(map(int, true["digits"]))] == [sum(map(int, one)) for one in read[name]] for name, true in
            truth.items()}  # fmt: skip
    lines = [f"{'':<10}{'pictures':>9}{'sums right':>12}{'digits right':>14}{'character errors':>18}"]
    for group, names in sorted(groups.items(), key=lambda one: (one[0] == "all", one[0].startswith("half"), one[0])):
        whole = sum(read[name] == [truth[name]["digits"]] for name in names)
        errors = char_error_rate(["".join(read[name]) for name in names], [truth[name]["digits"] for name in names])
        right = sum(sums[name] for name in names)
        lines.append(f"{group:<10}{len(names):>9}{right:>12}{whole:>14}{errors:>18.1%}")
    if all("warnings" in row for found in rows.values() for row in found):
        warned = {name for name in truth if len(rows.get(name, [])) != 1 or rows[name][0]["warnings"]}
        wrong = {name for name in truth if not sums[name]}
        sure = [name for name in wrong if any(float(row["probability"] or 0) > 0.9 for row in rows.get(name, []))]
        lines.append(f"warned of: {len(wrong & warned)} of {len(wrong)} wrong, {len(warned - wrong)} of "
                     f"{len(truth) - len(wrong)} right; wrong with a probability above 0.9: {len(sure)}")  # fmt: skip
    return "\n".join(lines)


def levels_alone(grey: np.ndarray, height: int) -> list[Picture]:
    """The whole picture with its paper brought to 0, scaled to the height of a canvas."""
    ink = find_ink(grey if not is_light_on_dark(grey) else 255 - grey)
    if not ink:
        return []
    image = Image.fromarray((255 * np.clip(ink.dark / ink.level, 0, 1)).astype(np.uint8))
    width = max(1, round(image.width * height / image.height))
    return [Picture(np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)), "")]


def steps() -> Iterator[tuple[str, Any]]:
    """The preparation with ever more of its steps, and what the last one is."""
    yield "as they are", None
    yield "levels", levels_alone
    kept = {name: getattr(preparation, name) for name in ("_EVENNESS", "_MIN_GAP", "_MAX_GAP", "without_rules")}
    off = {"_EVENNESS": 0.0, "_MIN_GAP": -15, "_MAX_GAP": 10_000, "without_rules": lambda *_: None}
    vars(preparation).update(off, _MIN_STROKE=0)
    yield "rows, size", preparation.prepare_rows
    vars(preparation).update(without_rules=kept["without_rules"], _MIN_STROKE=1.5)
    yield "rules, hairlines", preparation.prepare_rows
    vars(preparation).update(kept)
    yield "evenness, distance", preparation.prepare_rows


def main() -> None:
    """Print the tables."""
    folder, truth = Path(sys.argv[1]), truth_of(Path(sys.argv[1]))
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    if sys.argv[2] != "--steps":
        with Path(sys.argv[2]).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows[Path(row["file"]).name].append(row)
        print(score(truth, rows))
        return
    module = load_model(sys.argv[3])
    module.net.set_decoding(num_digits=None, tta=6)
    for what, prepare in steps():
        rows.clear()
        for name in truth:
            pixels = np.asarray(read_grey(folder / name, 3_000)[0])
            if prepare is None:
                images: list[Any] = [str(folder / name)]
                found = module.read(images, prepare="none")
            else:
                images = [np.pad(row.image, ((0, 0), (0, 40)))[None] for row in prepare(pixels, module.image_size[0])]
                found = [module.read(image)[0] for image in images]
            rows[name] = [{"digits": reading.digits} for reading in found]
        print(f"\n{what}\n{score(truth, rows)}", flush=True)


if __name__ == "__main__":
    main()
