"""`scripts/benchmark.py` as people call it, and what its rows measure."""

import json
import subprocess
import sys
import threading

import benchmark
import pytest
from benchmarks import parts, trainers
from benchmarks.clocks import Job, PeakMemory, StepClock
from benchmarks.report import SECTIONS, TARGETS, Report
from benchmarks.textbook import textbook_network, training_flops
from hydra.core.global_hydra import GlobalHydra

from digitsum.data.composed import Composition, cached_dataset
from digitsum.errors import InputError
from digitsum.models.two_conv import TwoConv
from digitsum.training.signals import Signals

ENVIRONMENT = {
    "machine": {"processor": "a processor", "cores": 2, "gpu": None},
    "packages": dict.fromkeys(("digitsum", "torch", "lightning", "numpy"), "1.0"),
}


def report(**values):
    """A report over rows whose names have `_` for `/`."""
    found = {name.replace("_", "/", 1): [{"value": value} for value in row] for name, row in values.items()}
    return Report(found, {name: label for name, (label, _) in benchmark.ROWS.items()}, "cpu", ENVIRONMENT)


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    def run_(*words):
        monkeypatch.setattr("sys.argv", ["benchmark.py", *words, "--outputs-dir", str(tmp_path)])
        benchmark.main()
        return capfd.readouterr().out

    return run_


@pytest.fixture
def job(monkeypatch, tmp_path, datasets_dir):
    """As small as it can be: 4 batches, of which 2 are timed."""
    data = cached_dataset(Composition(num_train=256, num_val=64, num_test=64), datasets_dir)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # put back afterwards
    GlobalHydra.instance().clear()
    with Signals().listening():  # likewise
        yield Job(str(data), str(tmp_path), warmup=1, steps=2, seconds=0.01, split="val")


def test_the_operations_of_a_training_image_are_those_counted_by_hand():
    conv1, conv2 = 2 * 9 * 32 * 38 * 166, 2 * 9 * 32 * 64 * 17 * 81
    dense, output = 2 * 64 * 8 * 40 * 128, 2 * 128
    flops = training_flops(textbook_network((40, 168)), (40, 168))
    assert flops == 2 * conv1 + 3 * (conv2 + dense + output) == 175_281_408


def test_the_textbook_has_the_networks_parameters():
    ours, textbook = TwoConv((40, 168)), textbook_network((40, 168))
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, textbook)]
    assert counts == [2_640_513] * 2


def test_ratios_are_taken_within_a_round_and_set_beside_their_targets():
    (reached,) = report(training_ours=[10, 40, 20], training_textbook=[10, 10, 1]).targets()
    assert (reached["median"], reached["lowest"], reached["highest"]) == (4, 1, 20)
    assert reached["target"] == "training/ours : training/textbook"
    assert reached["verdict"] == "at least 2.2: met; goal 3.5: reached"
    (missed,) = report(training_ours=[2], training_textbook=[1]).targets()
    assert missed["verdict"] == "at least 2.2: MISSED; goal 3.5: not reached"


@pytest.mark.parametrize(("seconds", "verdict"), [(0.9, "met; goal 1: reached"), (2.1, "MISSED; goal 1: not reached")])
def test_where_less_is_better_a_target_is_an_upper_bound(seconds, verdict):
    (reached,) = report(startup_help=[seconds]).targets()
    assert reached["verdict"] == f"at most 2: {verdict}"


def test_targets_and_rows_name_each_other():
    for target in TARGETS:
        assert {target.row, target.against or target.row} <= benchmark.ROWS.keys()
    assert {name.partition("/")[0] for name in benchmark.ROWS} | {"scaling"} == SECTIONS.keys()


def test_the_text_shows_medians_their_range_and_rows_that_were_not_measured():
    whole = report(training_ours=[500, 520, 900])
    whole.found["training/keras"] = [{"skipped": "needs keras"}]
    text = Report(whole.found, whole.labels, "cpu", ENVIRONMENT).text()
    (line,) = [line for line in text.splitlines() if "train.py runs" in line]
    assert line.split()[-4:] == ["520", "(500", "to", "900)"]
    assert "not measured: needs keras" in text
    assert "a processor, 2 cores" in text
    assert "torch 1.0" in text
    assert "3 round(s)" in text


def test_the_report_leaves_figures_and_plain_values(tmp_path):
    whole = report(training_ours=[500.0], training_limit=[1400.0], scaling_128=[400.0], scaling_256=[410.0])
    for name in ("scaling/128", "scaling/256"):
        whole.found[name][0]["peak_mb"] = 300.0
    whole.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "benchmark.json", "benchmark.png", "scaling.json", "scaling.png"
    ]  # fmt: skip
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["rows"]["training/ours"]["rounds"] == [{"value": 500}]
    assert content["targets"][0]["target"] == "training/ours : training/limit"
    assert json.loads((tmp_path / "scaling.json").read_text())["images"] == [128, 256]


def test_the_clock_counts_from_the_end_of_the_warm_up_and_not_between_epochs(monkeypatch):
    times = iter([10.0, 14.0, 100.0, 101.0])
    monkeypatch.setattr(Job, "now", lambda job: next(times))
    clock = StepClock(Job("", "", warmup=2))
    for epoch_end in (False, False, False, True, False, True):  # the first epoch has four steps, the next two
        clock.step(64, last=epoch_end)
    assert clock.images == 3 * 64  # not the two that warm up, nor the first after the end of an epoch
    assert clock.seconds == (14 - 10) + (101 - 100)
    assert clock.stopped == 101


def test_the_peak_of_the_memory_is_the_highest_that_was_seen():
    sizes, seen = iter([1_000, 3_000, 2_000]), threading.Event()

    def read():
        size = next(sizes, None)
        if size is None:
            seen.set()
        return f"Name:\tpython\nRssAnon:\t{size or 2_000} kB\n"

    with PeakMemory(read) as peak:
        assert seen.wait(10)
    assert peak.megabytes == 3.072


def test_where_the_system_does_not_say_the_peak_is_unknown():
    def read():
        raise FileNotFoundError

    with PeakMemory(read) as peak:
        pass
    assert peak.megabytes is None


@pytest.mark.parametrize(
    "row", [trainers.train_ours, trainers.train_bare, trainers.train_textbook, trainers.predict_textbook]
)
def test_a_row_that_trains_or_predicts_finds_its_speed(row, job):
    found = row(job)
    assert found["value"] > 0
    assert found.get("end_of_epoch_seconds", 1) > 0


def test_predictions_are_timed_until_their_table_is_complete(job, finished_run):
    found = trainers.predict_ours(Job(**{**vars(job), "checkpoint": str(finished_run / "checkpoints/best.ckpt")}))
    assert found["value"] > 0
    assert found["figures_seconds"] > 0
    assert found["batch_size"] >= 1


def test_training_over_several_epochs_says_its_peak_of_memory(job):
    found = trainers.train_many(Job(**{**vars(job), "steps": 5}))
    assert found["value"] > 0
    if sys.platform == "linux":
        assert 10 < found["peak_mb"] < 100_000


@pytest.mark.parametrize("row", [parts.limit, parts.load_ours, parts.load_textbook])
def test_a_part_alone_finds_its_speed(row, job, monkeypatch):
    monkeypatch.setattr(parts, "MATRICES", (256,))
    assert row(job)["value"] > 0


def test_the_readers_loss_is_a_share_of_its_step(job):
    found = parts.reader_step(job)
    assert 0 < found["loss_ms"] < found["step_ms"]
    assert found["loss_share"] == pytest.approx(found["loss_ms"] / found["step_ms"])


def test_it_measures_in_a_process_of_its_own_and_leaves_results_alone(run, tmp_path):
    text = run("--only", "composing", "--quick")
    (folder,) = (tmp_path / "benchmarks").iterdir()
    content = json.loads((folder / "benchmark.json").read_text())
    assert content["rows"]["composing/ours"]["median"] > 0
    assert content["machine"]["cores"] >= 1
    assert f"written to {folder}" in text
    assert "at least 10,000" in text


def test_a_row_that_fails_ends_it_with_its_reason_and_nothing_written(run, tmp_path, monkeypatch):
    monkeypatch.setitem(benchmark.ROWS, "composing/ours", ("", "parts.nothing"))
    with pytest.raises(InputError, match=r"no attribute 'nothing'\nwhile running: .*--measure parts\.nothing"):
        run("--only", "composing", "--quick")
    assert list((tmp_path / "benchmarks").iterdir()) == []


def test_an_interruption_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "measure_row", interrupted)
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


def test_keras_is_left_out_where_it_is_not_installed(job, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "keras" in benchmark.measure_row("training/keras", job, tmp_path, None)["skipped"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--rounds", "0"], "expected 1 or more, got 0"),
        (["--only", "training,nothing"], "expected some of training, prediction"),
        (["--sizes", "1000,many"], "expected numbers of 128 or more"),
        (["--sizes", "5"], "expected numbers of 128 or more"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(run, capfd, words, reason):
    with pytest.raises(SystemExit) as stop:
        run(*words)
    assert stop.value.code == 2
    assert reason in capfd.readouterr().err


@pytest.mark.slow
def test_every_row_that_needs_no_keras_is_measured_by_the_quick_benchmark(tmp_path):
    only = ",".join(SECTIONS)
    words = ["--quick", "--only", only, "--sizes", "128,256", "--outputs-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, benchmark.__file__, *words], capture_output=True, text=True, check=True)
    (folder,) = (tmp_path / "benchmarks").iterdir()
    rows = json.loads((folder / "benchmark.json").read_text())["rows"]
    assert {"scaling/128", "scaling/256", *benchmark.ROWS} == rows.keys()
    assert all(row["median"] > 0 for name, row in rows.items() if "keras" not in name)
    assert f"written to {folder}" in done.stdout
    assert (folder / "benchmark.png").is_file()
    assert (folder / "scaling.png").is_file()
