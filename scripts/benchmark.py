"""Measure training, prediction, loading, composing and start-up on this machine, beside what they are compared with.

    python scripts/benchmark.py                              everything but scaling: under 20 minutes on two cores
    python scripts/benchmark.py --quick                      one short round of training and prediction: it runs
    python scripts/benchmark.py --only training,prediction   some sections: training prediction loading composing
                                                             startup profile reader
    python scripts/benchmark.py --only scaling --sizes 1000,10000,100000,1000000
                                                             speed and memory against the size of the data set

Rows run in turns (A B C A B C ...), each in a fresh process and after steps that warm it up, so that whatever else the
machine does hits all of them. Ratios are taken within a round. Prints medians with the lowest and highest round, ratios
beside their targets, and writes benchmark.json and benchmark.png into outputs/benchmarks/<time>/. A target that is
missed is said to be missed; the exit code stays 0.

Keras and TensorFlow are measured where they can be imported (pip install -e '.[bench]'), or in an environment of their
own, for their GPU build say, which --keras-python names:

    python -m venv keras && keras/bin/pip install keras tensorflow
    python scripts/benchmark.py --keras-python keras/bin/python
"""

import argparse
import importlib
import importlib.util
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.clocks import Found, Job
from benchmarks.report import SECTIONS, Report

from digitsum.cli.console import ComposingBar
from digitsum.cli.project import PROJECT

SCRIPTS = Path(__file__).resolve().parent

KERAS = "in_keras"
ROWS = {  # name: what it is, where it is measured
    "training/ours": ("ours: what scripts/train.py runs", "trainers.train_ours"),
    "training/bare": ("ours in a bare loop, without a Trainer", "trainers.train_bare"),
    "training/textbook": ("textbook Lightning", "trainers.train_textbook"),
    "training/keras": ("Keras fit (TensorFlow)", KERAS),
    "training/limit": ("limit: this machine's matrix product", "parts.limit"),
    "prediction/ours": ("ours: what scripts/predict.py runs", "trainers.predict_ours"),
    "prediction/textbook": ("textbook Lightning", "trainers.predict_textbook"),
    "prediction/keras": ("Keras predict (TensorFlow)", KERAS),
    "loading/ours": ("ours: Batches", "parts.load_ours"),
    "loading/textbook": ("TensorDataset, DataLoader", "parts.load_textbook"),
    "loading/workers": ("the same with 2 workers", "parts.load_textbook_workers"),
    "composing/ours": ("canvases, on one core", "parts.compose_canvases"),
    "startup/help": ("scripts/train.py --help", "command"),
    "startup/imports": ("import torch, lightning", "command"),
    "startup/first_step": ("scripts/train.py until its first step is done", "command"),
    "profile/step": ("a step of the bare loop, with the profiler", "trainers.profile_bare"),
    "reader/step": ("the reader's training step", "parts.reader_step"),
}


def main() -> None:
    """Measure, print and write."""
    arguments = parse()
    from digitsum.data.composed import Composition, cached_dataset

    benchmarks = arguments.outputs_dir.absolute() / "benchmarks"
    benchmarks.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=benchmarks, prefix=".") as scratch:
        datasets = benchmarks.parent / "datasets"
        job = Job("", scratch, accelerator=arguments.accelerator)
        if arguments.quick:
            job = replace(job, warmup=2, steps=4, seconds=0.2)
        jobs: dict[str, Job] = {}
        if "scaling" in arguments.only:
            for size in arguments.sizes:
                composition = Composition(num_train=size, num_val=64, num_test=64)
                folder = cached_dataset(
                    composition, arguments.scaling_dir or Path(scratch), progress=ComposingBar(size + 128)
                )
                jobs[f"scaling/{size}"] = replace(job, data=str(folder), steps=job.steps * 4)
        if set(arguments.only) - {"scaling", "composing"}:
            composition = Composition(num_train=24_000, num_val=6_000, num_test=64)
            job = replace(job, data=str(cached_dataset(composition, datasets, progress=ComposingBar(30_064))))
        jobs |= {name: job for name in ROWS if name.partition("/")[0] in arguments.only}
        if not arguments.quick:  # a whole epoch, to tell what is between the steps from chance
            jobs |= {name: replace(jobs[name], steps=365) for name in jobs.keys() & {"training/ours", "training/bare"}}
        found = take_turns(jobs, arguments.rounds, datasets, arguments.keras_python)
    from digitsum.runs.environment import environment

    labels = {name: label for name, (label, _) in ROWS.items()}
    report = Report(found, labels, arguments.accelerator, environment())
    print(report.text())
    folder = benchmarks / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    report.write(folder)
    print(f"written to {folder}")


def parse() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="how often each row is measured (default 3)")
    parser.add_argument("--quick", action="store_true", help="one round of a few steps: it runs, no more")
    parser.add_argument("--only", help="sections, separated by commas (default: all but scaling)")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="where to compute")
    parser.add_argument(
        "--keras-python", type=Path, help="the Python of another environment, with keras and tensorflow"
    )
    parser.add_argument("--outputs-dir", type=Path, default=Path(PROJECT, "outputs"), help="where results go")
    parser.add_argument("--sizes", default="1000,10000,100000", help="scaling: numbers of training images")
    parser.add_argument("--scaling-dir", type=Path, help="scaling: where to keep the data sets (default: nowhere)")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds if arguments.rounds is not None else 1 if arguments.quick else 3
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {arguments.rounds}")
    default = ["training", "prediction"] if arguments.quick else [name for name in SECTIONS if name != "scaling"]
    arguments.only = arguments.only.split(",") if arguments.only is not None else default
    for section in arguments.only:
        if section not in SECTIONS:
            parser.error(f"--only: expected some of {', '.join(SECTIONS)}, got {section!r}")
    try:
        arguments.sizes = [int(size) for size in arguments.sizes.split(",")]
    except ValueError:
        arguments.sizes = []
    if min(arguments.sizes, default=0) < 128:
        parser.error("--sizes: expected numbers of 128 or more, separated by commas")
    import torch

    if arguments.accelerator == "auto":
        arguments.accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    elif arguments.accelerator == "gpu" and not torch.cuda.is_available():
        parser.error("--accelerator: expected a GPU that torch can use, found none; use cpu")
    return arguments


def take_turns(jobs: dict[str, Job], rounds: int, datasets: Path, keras: Path | None) -> dict[str, list[Found]]:
    """What each row found in each round; a row that cannot be measured here says why under `skipped`."""
    from tqdm import tqdm

    prepared = any(name.startswith(("prediction/", "startup/")) for name in jobs)
    found: dict[str, list[Found]] = {name: [] for name in jobs}
    with tqdm(total=rounds * len(jobs) + prepared, unit=" measurements", dynamic_ncols=True) as bar:
        if prepared:  # a short run leaves a checkpoint to predict with, and files in the system's cache
            bar.set_description("preparing")
            scratch = next(iter(jobs.values())).scratch
            words = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_predict_batches=2"]
            run(train_command(scratch, datasets, "test=false", *words))
            (checkpoint,) = map(str, Path(scratch, "runs").glob("*/checkpoints/best.ckpt"))
            jobs = {name: replace(job, checkpoint=checkpoint) for name, job in jobs.items()}
            bar.update()
        for _ in range(rounds):
            for name, job in jobs.items():
                bar.set_description(name)
                found[name].append(measure_row(name, job, datasets, keras))
                bar.update()
    return found


def measure_row(name: str, job: Job, datasets: Path, keras: Path | None) -> Found:
    """Measure a row once, in a process of its own."""
    python, text = sys.executable, json.dumps(asdict(job))
    place = "trainers.train_many" if name.startswith("scaling/") else ROWS[name][1]
    if place == "command":
        commands = {
            "startup/help": [python, str(SCRIPTS / "train.py"), "--help"],
            "startup/imports": [python, "-c", "import torch, lightning"],
            "startup/first_step": train_command(
                job.scratch,
                datasets,
                f"trainer.accelerator={job.accelerator}",
                "+callbacks.first_step._target_=benchmarks.clocks.first_step",
            ),
        }
        begin = time.perf_counter()
        run(commands[name])
        return {"value": time.perf_counter() - begin}
    if place != KERAS:
        return json.loads(run([python, __file__, "--measure", place, text]).splitlines()[-1])
    if keras is None and not all(importlib.util.find_spec(package) for package in ("keras", "tensorflow")):
        return {"skipped": "needs keras and tensorflow; --help says how to get them"}
    words = [str(keras or python), str(SCRIPTS / "benchmarks/in_keras.py"), name, text]
    return json.loads(run(words).splitlines()[-1])


def train_command(scratch: str, datasets: Path, *words: str) -> list[str]:
    """`scripts/train.py` on the demo set that is there already."""
    folders = (f"outputs_dir='{scratch}'", f"data.datasets_dir='{datasets}'")
    return [sys.executable, str(SCRIPTS / "train.py"), *folders, *words]


def run(words: list[str]) -> str:
    """Run a command to its end; returns what it printed.

    Raises:
        InputError: it failed, with the last line that it said.
    """
    from digitsum.errors import InputError

    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip() or f"exit code {error.returncode}").splitlines()[-1]
        raise InputError(f"{said.removeprefix('error: ')}\nwhile running: {shlex.join(words)}") from error
    except OSError as error:
        raise InputError(f"cannot run {words[0]}: {error.strerror or error}") from error


def measure(place: str, text: str) -> None:
    """Measure one row in this process and print what it found, the last line of all."""
    module, _, function = place.partition(".")
    found = getattr(importlib.import_module(f"benchmarks.{module}"), function)(Job(**json.loads(text)))
    import torch

    print(json.dumps({**found, "threads": torch.get_num_threads()}))


def stop(signum: int, _: Any) -> None:
    """End on SIGTERM as on Ctrl-C: the process that measures is ended, and nothing is left behind."""
    sys.exit(128 + signum)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
        sys.exit()
    from digitsum.errors import InputError

    signal.signal(signal.SIGTERM, stop)
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
