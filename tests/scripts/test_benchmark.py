"""`scripts/benchmark.py` as people call it, and what its rows measure."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import benchmark
import pytest
import train
from benchmarks import in_torch, report, turns

from digitsum.data.composed import Composition, cached_dataset
from digitsum.errors import InputError

ENVIRONMENT = {
    "machine": {"processor": "a processor", "cores": 2, "gpu": None},
    "packages": dict.fromkeys(("digitsum", "torch", "lightning", "numpy"), "1.0"),
}


def summary(**values):
    """A summary of rows whose names have `_` for `/`."""
    found = {name.replace("_", "/", 1): [{"value": value} for value in row] for name, row in values.items()}
    return report.summary(found, ENVIRONMENT)


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    def run_(*words):
        monkeypatch.setattr("sys.argv", ["benchmark.py", *words, "--outputs-dir", str(tmp_path)])
        benchmark.main()
        return capfd.readouterr().out

    return run_


@pytest.fixture
def job(tmp_path, datasets_dir):
    """As small as it can be: 4 batches, of which 2 are timed."""
    data = cached_dataset(Composition(num_train=256, num_val=64, num_test=64), datasets_dir)
    return {"data": str(data), "scratch": str(tmp_path), "device": "cpu", "warmup": 1, "steps": 2, "seconds": 0.01}


def printed(text):
    """What a row printed."""
    (line,) = [line for line in text.splitlines() if line.startswith("{")]
    return json.loads(line)


def test_the_operations_of_a_training_image_are_those_counted_by_hand(job):
    conv1, conv2 = 2 * 9 * 32 * 38 * 166, 2 * 9 * 32 * 64 * 17 * 81
    dense, output = 2 * 64 * 8 * 40 * 128, 2 * 128
    flops = in_torch.Rows(**job).training_limit(sides=(64,))["gflop_per_image"] * 1e9
    assert round(flops) == 2 * conv1 + 3 * (conv2 + dense + output) == 175_281_408


def test_ratios_are_taken_within_a_round_and_set_beside_their_targets():
    (reached,) = summary(training_ours=[10, 40, 20], training_textbook=[10, 10, 1])["targets"]
    assert (reached["median"], reached["lowest"], reached["highest"]) == (4, 1, 20)
    assert reached["target"] == "training/ours : training/textbook"
    assert reached["verdict"] == "at least 2.2: met; goal 3.5: reached"
    (missed,) = summary(training_ours=[2], training_textbook=[1])["targets"]
    assert missed["verdict"] == "at least 2.2: MISSED; goal 3.5: not reached"


@pytest.mark.parametrize("share", [0.95, 1])
def test_a_target_is_met_by_the_bound_itself(share):
    (reached,) = summary(training_ours=[share], training_bare=[1])["targets"]
    assert reached["verdict"] == f"at least 0.95: met; goal 1: {'reached' if share == 1 else 'not reached'}"


@pytest.mark.parametrize("seconds", [0.9, 1.5, 2.1])
def test_where_less_is_better_a_target_is_an_upper_bound(seconds):
    (reached,) = summary(startup_help=[seconds])["targets"]
    met, goal = "MISSED" if seconds > 2 else "met", "not reached" if seconds > 1 else "reached"
    assert reached["verdict"] == f"at most 2: {met}; goal 1: {goal}"


def test_targets_rows_and_sections_name_each_other():
    for row, against, *_ in report.TARGETS:
        assert {row, against or row} <= turns.ROWS.keys()
    assert {name.partition("/")[0] for name in turns.ROWS} | {"scaling"} == turns.SECTIONS.keys()


def test_the_text_shows_medians_their_range_what_stands_beside_and_rows_that_were_not_measured():
    found = {"training/ours": [{"value": value, "threads": 2, "peak_mb": None} for value in (500, 520, 900)]}
    found["training/keras"] = [{"skipped": "needs keras"}]
    found["prediction/keras"] = [{"value": 10, "versions": {"keras": "3.0"}}]
    text = report.text_of(report.summary(found, ENVIRONMENT))
    (line,) = [line for line in text.splitlines() if "train.py runs" in line]
    assert line.split()[-6:] == ["520", "(500", "to", "900)", "threads", "2"]
    assert "not measured: needs keras" in text
    assert "a processor, 2 cores" in text
    assert "torch 1.0" in text
    assert "keras 3.0" in text
    assert "3 round(s)" in text


def test_the_report_leaves_figures_and_plain_values(tmp_path):
    whole = summary(training_ours=[500.0], training_limit=[1400.0], scaling_128=[400.0], scaling_256=[410.0])
    for name in ("scaling/128", "scaling/256"):
        whole["rows"][name]["rounds"][0]["peak_mb"] = 300.0
    report.write(whole, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmark.json", "benchmark.png", "scaling.png"]
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["rows"]["training/ours"]["rounds"] == [{"value": 500}]
    assert content["targets"][0]["target"] == "training/ours : training/limit"
    assert content["rows"]["scaling/256"]["median"] == 410


def test_the_clock_counts_from_the_end_of_the_warm_up_and_not_between_epochs(monkeypatch, capsys):
    times = iter([9.0, 10.0, 12.0, 14.0, 100.0, 101.0, 105.0])
    monkeypatch.setattr(in_torch.time, "time", lambda: next(times))
    clock = in_torch.step_clock(warmup=2)
    trainer = SimpleNamespace(num_training_batches=4)
    for number in (0, 1, 2, 3, 0, 1):  # the first epoch has four steps, the next two
        clock.on_train_batch_end(trainer, None, None, {"images": range(64 if number < 3 else 40)}, number)
    clock.on_fit_end(trainer, None)
    found = printed(capsys.readouterr().out)
    # neither the two that warm up, nor the first after the end of an epoch
    assert found["value"] == (64 + 40 + 64) / ((14 - 10) + (101 - 100))
    assert found["end_of_epoch_seconds"] == 105 - 101
    assert found["first_step"] == 9


def test_a_processs_own_memory_is_what_linux_says(tmp_path):
    (tmp_path / "status").write_text("VmHWM:\t 9000 kB\nRssAnon:\t    3000 kB\nRssFile:\t 6000 kB\n")
    assert in_torch.own_memory(tmp_path / "status") == 3.072


def test_where_the_system_does_not_say_the_memory_is_unknown(tmp_path):
    assert in_torch.own_memory(tmp_path / "status") is None


@pytest.mark.parametrize("name", ["training/ours", "scaling/256", "startup/first_step"])
def test_the_clock_in_scripts_train_finds_its_speed(name, job, command):
    done = command(train.main, *turns.command(name, {**job, "steps": 5 if name == "scaling/256" else 2}, "")[2:])
    assert done.code == 0, done.text
    found = printed(done.out)
    assert found["value"] > 0
    assert found["end_of_epoch_seconds"] > 0
    if sys.platform == "linux":
        assert 10 < found["peak_mb"] < 100_000


def test_the_first_step_is_timed_from_the_command_on(monkeypatch, job):
    said = f"log\n{json.dumps({'value': 9, 'first_step': 115.5})}\nlog\n"
    monkeypatch.setattr(turns.time, "time", lambda: 100.0)
    monkeypatch.setattr(turns.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 0, said, ""))
    assert turns.measure("startup/first_step", job, None) == {"value": 15.5}


def test_the_textbook_is_timed_by_the_same_clock(job, capsys):
    in_torch.Rows(**job).training_textbook()
    assert printed(capsys.readouterr().out)["value"] > 0


@pytest.mark.parametrize("row", ["training/bare", "reader/float32", "reader/of_0_4"])
def test_a_row_finds_its_speed(row, job):
    assert in_torch.Rows(**job).measure(row)["value"] > 0


def test_the_limit_is_a_speed(job):
    assert in_torch.Rows(**job).training_limit(sides=(256,))["value"] > 0


def test_a_published_model_answers_in_batches_and_one_by_one(job):
    found = in_torch.Rows(**job).measure("formats/torch")
    assert found["value"] > 0
    assert found["one_by_one"] > 0


def test_predictions_are_timed_until_their_table_is_complete(job):
    found = in_torch.Rows(**job).measure("prediction/ours")
    assert found["value"] > 0
    assert found["figures_seconds"] > 0


def test_it_measures_in_a_process_of_its_own_and_leaves_results_alone(run, tmp_path):
    text = run("--only", "composing", "--quick")
    (folder,) = (tmp_path / "benchmarks").iterdir()
    content = json.loads((folder / "benchmark.json").read_text())
    assert content["rows"]["composing/ours"]["median"] > 0
    assert content["machine"]["cores"] >= 1
    assert f"written to {folder}" in text
    assert "at least 10,000" in text


def test_a_row_that_fails_ends_it_with_its_reason_and_nothing_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        turns, "command", lambda name, *_: [sys.executable, "-c", "raise SystemExit('error: no')", name]
    )
    with pytest.raises(InputError, match=r"^no\nwhile running: .*composing/ours"):
        run("--only", "composing", "--quick")
    assert list((tmp_path / "benchmarks").iterdir()) == []


def test_an_interruption_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(turns, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("--only", "composing", "--quick")
    assert list((tmp_path / "benchmarks").iterdir()) == []


def test_a_signal_ends_it_and_the_process_that_measures_and_leaves_nothing(tmp_path):
    words = [sys.executable, benchmark.__file__, "--only", "composing", "--rounds", "100"]
    process = subprocess.Popen([*words, "--outputs-dir", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while "composing/ours" not in said:  # the bar names what is measured now
        said += process.stderr.read(1)
        assert process.poll() is None, said
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert list((tmp_path / "benchmarks").iterdir()) == []


def test_keras_is_left_out_where_it_is_not_installed(job, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "keras" in turns.measure("training/keras", job, None)["skipped"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--rounds", "0"], "expected 1 or more, got 0"),
        (["--only", "training,nothing"], "expected some of training, prediction"),
        (["--sizes", "1000,many"], "expected numbers of 128 or more"),
        (["--sizes", "5"], "expected numbers of 128 or more"),
        (["--keras-python", "nowhere/python"], "expected a Python, found none at nowhere/python"),
    ],
)
def test_a_mistake_on_the_command_line_is_named_before_anything_is_made(run, tmp_path, words, reason):
    with pytest.raises(InputError, match=reason):
        run(*words)
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_are_refused_before_anything_is_measured(run, tmp_path):
    (tmp_path / "benchmarks").touch()
    with pytest.raises(InputError, match=r"cannot write .*benchmarks: .*; choose another folder with --outputs-dir"):
        run("--only", "composing")


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_help_comes_without_torch_and_where_python_does_not_look_beside_the_script(safe_path):
    words = [sys.executable, "-X", "importtime", benchmark.__file__, "--help"]
    environment = {**os.environ, "PYTHONSAFEPATH": safe_path}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: benchmark.py")
    assert "torch" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sections", [["training", "composing"], ["prediction", "startup"], ["reader", "scaling"]])
def test_every_row_that_needs_no_keras_is_measured_by_the_quick_benchmark(tmp_path, sections):
    words = ["--quick", "--only", ",".join(sections), "--sizes", "128,256", "--outputs-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, benchmark.__file__, *words], capture_output=True, text=True, check=True)
    (folder,) = (tmp_path / "benchmarks").iterdir()
    rows = json.loads((folder / "benchmark.json").read_text())["rows"]
    measured = {name for name in turns.ROWS if name.partition("/")[0] in sections}
    assert measured | ({"scaling/128", "scaling/256"} if "scaling" in sections else set()) == rows.keys()
    assert all(row["median"] > 0 for name, row in rows.items() if "keras" not in name)
    assert f"written to {folder}" in done.stdout
    assert (folder / ("scaling.png" if "scaling" in sections else "benchmark.png")).is_file()
