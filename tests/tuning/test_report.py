"""What a study leaves: its tables and figures."""

import csv
import io
import json

import pytest
from PIL import Image

from digitsum.tuning.report import best_of, write_report


def rows_of(folder):
    return list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_a_report_has_the_figures_that_there_are_trials_enough_for(search, tmp_path, count):
    opened, folder = search(), tmp_path / "study"
    for number in range(count):
        with opened.next_trial(count) as trial:
            trial.report(9.0, 1)
            trial.report(5.0 - number, 2)
            opened.tell(trial, 5.0 - number)
    with opened.next_trial(count + 1) as trial:
        opened.tell(trial, reason="too hot")
    write_report(opened.study, folder, "val/mae", "python")
    figures = ["history.png", "slices.png", "importances.png"][: 0 if count == 0 else 2 if count == 1 else 3]
    assert {path.name for path in folder.glob("*.png")} == {*figures}
    for name in figures:
        with Image.open(folder / name) as picture:
            assert min(picture.size) >= 500
    rows = rows_of(folder)
    assert [row["state"] for row in rows] == ["complete"] * count + ["failed"]
    assert rows[-1]["reason"] == "too hot"
    content = json.loads((folder / "study.json").read_text())
    assert len(content["trials"]) == count + 1
    if count:
        assert content["best"]["trial"] == best_of(opened.study).number == count - 1
        assert content["best"]["val/mae"] == float(rows[count - 1]["val/mae"]) == 6.0 - count
        assert (content["best"]["epochs"], content["best"]["command"]) == (2, "python")
    else:
        assert content["best"] is None
