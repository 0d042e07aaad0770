"""scripts/compare.py: a table and figures of many runs."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import compare
import predict
import pytest
import yaml
from conftest import ROOT, fake_run, metrics_row
from matplotlib.image import imread

from digitsum.errors import InputError
from digitsum.files import read_json
from digitsum.runs.comparison_figures import along_figure


@pytest.fixture
def comparing(tmp_path, capfd):
    """Run the script in this process: `comparing(folder, "--each")`; returns its output, rows of the CSV and folder."""

    def run(*words):
        out = tmp_path / "comparison"
        compare.main([*map(str, words), "--out", str(out), "--outputs-dir", str(tmp_path / "outputs")])
        with (out / "comparison.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        text = capfd.readouterr().out
        return SimpleNamespace(text=text, lines=text.splitlines(), rows=rows, out=out)

    return run


def cells(line):
    return [cell.strip() for cell in line.split("  ") if cell]


def test_a_column_for_each_setting_that_differs_and_the_best_run_first(tmp_path, comparing):
    fake_run(tmp_path / "runs" / "a", 3.0, model__lr=0.003)
    fake_run(tmp_path / "runs" / "b", 2.0, model__lr=1e-05)
    found = comparing(tmp_path / "runs")
    metrics = ["val/mae", "val/mse", "val/within_5", "val/exact"]
    assert cells(found.lines[0]) == ["rank", "model.lr", *metrics, "images/s", "fit s"]
    assert cells(found.lines[1]) == ["1 best", "1e-05", "2.000", "5.000", "33.3 %", "25.0 %", "500.0", "12.50"]
    assert found.lines[2].split()[:2] == ["2", "0.003"]
    assert f"the lowest val/mae (best checkpoint, validation set): {tmp_path / 'runs' / 'b'}" in found.text


def test_runs_that_differ_in_the_seed_alone_share_a_line_with_mean_and_standard_deviation(tmp_path, comparing):
    for seed, mae in enumerate((1.0, 2.0, 3.0)):
        fake_run(tmp_path / "runs" / f"x{seed}", mae, seed=seed)
    fake_run(tmp_path / "runs" / "y", 1.5, model__lr=0.1)
    found = comparing(tmp_path / "runs")
    assert found.lines[1].split()[:4] == ["1", "best", "0.1", "1"]
    assert found.lines[2].split()[:6] == ["2", "0.001", "3", "2.000", "±", "1.000"]
    assert [row["seed"] for row in found.rows] == ["0", "0", "1", "2"]  # the file has every run, in the table's order
    assert [row["rank"] for row in found.rows] == ["1", "2", "2", "2"]
    each = comparing(tmp_path / "runs", "--each")
    assert "seed" in each.lines[0]
    assert "±" not in each.text
    assert [row["val/mae"] for row in each.rows] == ["1.0", "1.5", "2.0", "3.0"]


@pytest.mark.parametrize(("sort", "first"), [("mae", "a"), ("mse", "b"), ("exact", "c")])
def test_errors_are_better_when_lower_and_shares_when_higher(tmp_path, comparing, sort, first):
    values = {"a": (1, 9, 0.1), "b": (2, 5, 0.2), "c": (3, 7, 0.3)}
    for number, (name, (mae, mse, exact)) in enumerate(values.items()):
        folder = fake_run(tmp_path / "runs" / name, model__lr=float(number))
        row = {"mae": mae, "mse": mse, "within_5": 0.5, "exact": exact}
        (folder / "metrics.json").write_text(json.dumps({"val": {"model": row}}))
    assert comparing(tmp_path / "runs", "--sort", sort).rows[0]["folder"].endswith(first)


def test_the_numbers_of_a_real_run_are_those_that_it_recorded(finished_run, comparing):
    found = comparing(finished_run)
    metrics, timing = read_json(finished_run / "metrics.json"), read_json(finished_run / "timing.json")
    (row,) = found.rows
    for split in ("train", "val", "test"):
        for name in ("mse", "mae", "within_5", "exact"):
            assert float(row[f"{split}/{name}"]) == metrics[split]["model"][name]
    assert float(row["images_per_second"]) == timing["epochs"][0]["train_images_per_second"]
    assert float(row["fit_seconds"]) == timing["fit_seconds"]
    assert found.lines[0].split()[4:7] == ["val/exact", "train/mae", "test/mae"]


def test_copies_of_a_run_in_other_folders_differ_in_nothing(tmp_path, finished_run, comparing):
    for name, seed in (("a", 0), ("b", 1)):
        shutil.copytree(finished_run, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("*.ckpt", "events*"))
        config = yaml.safe_load((finished_run / "config.yaml").read_text())
        text = yaml.safe_dump({**config, "seed": seed}).replace(str(finished_run), str(tmp_path / "runs" / name))
        (tmp_path / "runs" / name / "config.yaml").write_text(text)
    found = comparing(tmp_path / "runs")
    assert found.lines[0].split()[:3] == ["rank", "runs", "val/mae"]


def test_unfinished_and_damaged_runs_are_named_and_left_out(tmp_path, comparing):
    runs = tmp_path / "runs"
    fake_run(runs / "whole")
    (fake_run(runs / "unfinished") / "metrics.json").unlink()
    (fake_run(runs / "cut") / "metrics.json").write_text('{"val": ')
    (runs / "failed").mkdir()
    (runs / "failed" / "train.log").write_text("error: seed: expected 0 to 1\n")
    (runs / "no run at all").mkdir()
    found = comparing(runs)
    assert [line.partition(":")[2].split(":")[0].strip() for line in found.lines[:3]] == [
        str(runs / "cut" / "metrics.json"),
        str(runs / "failed"),
        str(runs / "unfinished"),
    ]
    assert "did not begin" in found.lines[1]
    assert "unfinished" in found.lines[2]
    assert len(found.rows) == 1
    assert (found.out / "comparison.md").read_text().count("left out: ") == 3


@pytest.mark.parametrize("words", [["nothing"], ["empty"], []])
def test_nothing_found_is_one_line_and_exit_code_1(tmp_path, words):
    (tmp_path / "empty").mkdir()
    command = [sys.executable, ROOT / "scripts" / "compare.py", *(tmp_path / word for word in words)]
    done = subprocess.run([*command, "--outputs-dir", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_without_a_folder_it_takes_the_newest_sweep(tmp_path, comparing):
    for age, (name, mae) in enumerate((("new", 2.0), ("old", 3.0))):
        sweep = fake_run(tmp_path / "outputs" / "sweeps" / name / "00", mae).parent
        os.utime(sweep, (10_000 - age, 10_000 - age))
    (row,) = comparing().rows
    assert float(row["val/mae"]) == 2.0


def test_the_table_is_written_as_markdown_that_shows_every_letter(tmp_path, comparing):
    fake_run(tmp_path / "runs" / "a", 2.0, data__root="a|b")
    fake_run(tmp_path / "runs" / "b", 3.0, data__root="<i>c\x1b[31m\n")
    found = comparing(tmp_path / "runs")
    lines = (found.out / "comparison.md").read_text().splitlines()
    assert lines[0].startswith("| rank | data.root | val/mae |")
    assert lines[2].startswith(r"| 1 best | a\|b | 2.000 |")
    assert lines[3].startswith(r"| 2 | \<i>c?\[31m? | 3.000 |")
    assert "\x1b" not in found.text


def test_figures_are_drawn_for_what_differs(tmp_path, comparing):
    def figures(count):
        for number in range(3):
            settings = {"model__lr": 10.0**-number, "model__hidden_units": number, "model__pooling": f"p{number}"}
            fake_run(tmp_path / f"runs{count}" / str(number), 2.0 + number, **dict(list(settings.items())[:count]))
        found = comparing(tmp_path / f"runs{count}")
        names = {path.name for path in found.out.glob("*.png")}
        for path in found.out.glob("*.png"):
            assert imread(path).std() > 0.05  # not blank
            path.unlink()
        return names

    assert figures(0) == {"curves.png"}
    assert figures(2) == {"curves.png", "settings.png"}
    assert figures(3) == {"curves.png", "settings.png", "parallel.png"}


def test_a_score_is_drawn_along_a_setting_with_a_line_for_each_value_of_another(tmp_path, comparing, monkeypatch):
    drawn = []
    monkeypatch.setattr(compare, "along_figure", lambda *arguments: drawn.append(arguments) or along_figure(*arguments))
    for number, (size, start) in enumerate(((300, "auto"), (300, "none"), (3000, "auto"), (3000, "none"))):
        fake_run(tmp_path / "runs" / str(number), 4.0 - number, data__num_train=size, warm_start=start)
    found = comparing(tmp_path / "runs", "--along", "data.num_train", "--lines", "warm_start")
    assert imread(found.out / "along.png").std() > 0.05
    ((settings, scores, _, title),) = drawn
    assert settings == {
        "data.num_train": ["300", "300", "3000", "3000"],
        "warm_start": ["auto", "none", "auto", "none"],
    }
    assert scores.tolist() == [4.0, 3.0, 2.0, 1.0]
    assert title.startswith("Validation set")
    for number in range(4):
        path = tmp_path / "runs" / str(number) / "metrics.json"
        metrics = json.loads(path.read_text())
        path.write_text(json.dumps({**metrics, "test": {"model": metrics_row(10.0 + number)}}))
    comparing(tmp_path / "runs", "--along", "data.num_train")
    assert drawn[1][1].tolist() == [10.0, 11.0, 12.0, 13.0]
    assert drawn[1][3].startswith("Test set")


@pytest.mark.parametrize("words", [["--along", "data.nun_train"], ["--along", "model.lr", "--lines", "warmstart"]])
def test_a_setting_that_no_run_has_is_one_line(tmp_path, comparing, words):
    fake_run(tmp_path / "runs" / "a")
    with pytest.raises(InputError, match=f"^expected a setting of these runs, like data.num_train, got {words[-1]}$"):
        comparing(tmp_path / "runs", *words)


def test_lines_along_nothing_are_one_line(tmp_path, comparing):
    fake_run(tmp_path / "runs" / "a")
    with pytest.raises(InputError, match=r"^--lines: expected --along SETTING beside it, got '?model\.lr'?$"):
        comparing(tmp_path / "runs", "--lines", "model.lr")


def test_the_best_run_is_evaluated_as_predict_does_it(tmp_path, finished_run, datasets_dir, comparing, command):
    recorded = read_json(finished_run / "metrics.json")
    folder = tmp_path / "sweep, it's a=[b]" / "00"
    shutil.copytree(finished_run, folder)
    (folder / "metrics.json").write_text(json.dumps({"val": recorded["val"]}))
    fake_run(folder.parent / "01", 1e6, model__lr=0.5)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "datasets").symlink_to(datasets_dir)
    found = comparing(folder.parent, "--test")
    assert float(found.rows[0]["test/mae"]) == pytest.approx(recorded["test"]["model"]["mae"], rel=1e-5)
    assert found.rows[1]["test/mae"] == ""
    assert "evaluated now, once, and of this run alone" in (found.out / "comparison.md").read_text()
    words = (f"ckpt_path='{finished_run}/checkpoints/best.ckpt'", "split=test", f"outputs_dir='{tmp_path}/outputs'")
    assert command(predict.main, *words, f"hydra.run.dir={tmp_path}/predicted").code == 0
    for name in ("metrics.json", "predictions.csv"):
        assert (found.out / "test" / name).read_text() == (tmp_path / "predicted" / name).read_text()


def test_a_test_set_that_was_evaluated_when_the_run_ended_is_not_looked_at_again(finished_run, comparing, monkeypatch):
    monkeypatch.setattr(compare, "evaluate", None)
    found = comparing(finished_run, "--test")
    assert "evaluated when the run ended" in found.text
    assert not (found.out / "test").exists()


def test_a_run_that_cannot_be_evaluated_is_one_line_with_the_reason(tmp_path, comparing):
    folder = fake_run(tmp_path / "runs" / "a")
    reason = (
        f"cannot be evaluated on its test set: {folder}/checkpoints/best.ckpt: expected a checkpoint, found nothing"
    )
    with pytest.raises(InputError, match=re.escape(reason)) as caught:
        comparing(tmp_path / "runs", "--test")
    assert "\n" not in str(caught.value)


def test_it_compares_without_importing_what_takes_seconds(tmp_path):
    fake_run(tmp_path / "runs" / "a")
    slow = {"torch", "lightning", "hydra", "matplotlib.pyplot"}
    code = f"import sys, compare; compare.main(sys.argv[1:]); print({slow} & set(sys.modules))"
    words = [tmp_path / "runs", "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT / "scripts")
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "set()"


def test_hundreds_of_runs_are_compared(tmp_path, comparing):
    first = fake_run(tmp_path / "runs" / "000")
    text, metrics = (first / "config.yaml").read_text(), read_json(first / "metrics.json")
    for number in range(1, 300):
        folder = tmp_path / "runs" / f"{number:03d}"
        shutil.copytree(first, folder)
        changed = text.replace("lr: 0.001", f"lr: {0.001 * 2 ** (number % 10)}")
        changed = changed.replace("seed: 0", f"seed: {number // 10}")
        (folder / "config.yaml").write_text(changed)
        metrics["val"]["model"]["mae"] = 2 + number % 10
        (folder / "metrics.json").write_text(json.dumps(metrics))
    found = comparing(tmp_path / "runs")
    assert len(found.rows) == 300
    assert [line.split()[0] for line in found.lines[1:11]] == [str(rank) for rank in range(1, 11)]
    assert found.text.count("±") == 10 * 6


def test_a_reader_of_the_table_that_has_seen_enough_meets_no_traceback(tmp_path):
    fake_run(tmp_path / "runs" / "a")
    command = [
        sys.executable,
        str(ROOT / "scripts" / "compare.py"),
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "o"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
