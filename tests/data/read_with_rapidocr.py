"""Read pictures of digits with RapidOCR, to be compared by score_pictures.py; knows nothing of digitsum.

    PYTHON tests/data/read_with_rapidocr.py FOLDER readings.csv                recognition alone, of the whole picture
    PYTHON tests/data/read_with_rapidocr.py FOLDER readings.csv --detection    with its own detection of lines

Runs in any environment that has rapidocr-onnxruntime, whose weights are in the package.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Write a line for each picture."""
    from rapidocr_onnxruntime import RapidOCR  # here: nothing else of the project needs it

    folder, detection = Path(sys.argv[1]), "--detection" in sys.argv
    engine = RapidOCR(intra_op_num_threads=1)
    with Path(sys.argv[2]).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "digits"])
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif"):
                picture = np.asarray(Image.open(path).convert("RGB"))
                found, _ = engine(picture, use_det=detection, use_cls=detection, use_rec=True)
                texts = [line[1] if detection else line[0] for line in found or []]
                # what is no digit cannot be meant: it is dropped, in the reader's favour
                digits = "".join(letter for letter in "".join(texts) if letter in "0123456789")
                table.writerow([path.name, digits])


if __name__ == "__main__":
    main()
