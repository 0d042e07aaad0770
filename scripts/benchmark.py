"""Measure training, prediction, composing and start-up on this machine, beside what they are compared with.

    python scripts/benchmark.py                              everything but scaling: some 20 minutes on two cores
    python scripts/benchmark.py --quick                      one short round of training and prediction: it runs
    python scripts/benchmark.py --only training,prediction   some sections
    python scripts/benchmark.py --only scaling --sizes 1000,10000,100000,1000000      the size of the data set

Rows run in turns (A B C A B C ...), each in a fresh process and after steps that warm it up, so that whatever else the
machine does hits all of them. Prints medians with the lowest and highest round, ratios within a round beside their
targets, met or missed, and writes benchmark.json and its figures into outputs/benchmarks/<time>/.
CUDA_VISIBLE_DEVICES= measures the CPU where there is a GPU.

Keras and TensorFlow are measured where they can be imported (pip install -e '.[bench]'), or in an environment of their
own, for their GPU build say, which --keras-python=keras/bin/python names.
"""

import argparse
import os
import sys

if __name__ == "__main__" and sys.flags.safe_path:  # then Python does not look beside this file, where the parts are
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONSAFEPATH": ""})

from benchmarks.turns import ROWS, SECTIONS, take_turns

from digitsum.cli.console import print_help_and_exit, run_script
from digitsum.cli.project import PROJECT


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, help="how often each row is measured (default 3)")
    made.add_argument("--quick", action="store_true", help="one round of a few steps: it runs, no more")
    made.add_argument("--only", help=f"some of {','.join(SECTIONS)} (default: all but scaling)")
    made.add_argument("--keras-python", help="the Python of another environment, with keras and tensorflow")
    made.add_argument("--outputs-dir", default=f"{PROJECT}/outputs", help="where results go")
    made.add_argument("--sizes", default="1000,10000,100000", help="scaling: numbers of training images")
    return made


if __name__ == "__main__":
    print_help_and_exit(parser().format_help())  # before the imports below

import shutil
import tempfile
from datetime import datetime
from pathlib import Path

from benchmarks.report import summary, text_of, write

from digitsum.cli.output_dirs import writable
from digitsum.data.composed import Composition, cached_dataset
from digitsum.errors import InputError, check
from digitsum.runs.environment import environment
from digitsum.training.signals import Signals


def main() -> None:
    """Measure, print and write."""
    options = parser().parse_args()
    rounds = (1 if options.quick else 3) if options.rounds is None else options.rounds
    default = ["training", "prediction"] if options.quick else [name for name in SECTIONS if name != "scaling"]
    sections = default if options.only is None else options.only.split(",")
    sizes = [int(size) if size.isdecimal() else 0 for size in options.sizes.split(",")]
    check("--rounds", rounds, rounds >= 1, "1 or more")
    check("--only", options.only, set(sections) <= SECTIONS.keys(), f"some of {', '.join(SECTIONS)}")
    check("--sizes", options.sizes, min(sizes) >= 128, "numbers of 128 or more, separated by commas")
    if options.keras_python and not shutil.which(options.keras_python):
        raise InputError(f"--keras-python: expected a Python, found none at {options.keras_python}")

    amounts = {"warmup": 2, "steps": 4, "seconds": 0.2} if options.quick else {"warmup": 10, "steps": 50, "seconds": 2}
    outputs, about = Path(options.outputs_dir).absolute(), environment()
    folder = Path(writable(outputs / "benchmarks", "choose another folder with --outputs-dir"))
    with Signals().listening(), tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        job = {"data": "", "scratch": scratch, "device": "cuda" if about["machine"]["gpu"] else "cpu", **amounts}
        if set(sections) - {"scaling", "composing"}:
            images = Composition(num_train=24_000, num_val=6_000, num_test=64)
            job["data"] = str(cached_dataset(images, outputs / "datasets"))
        jobs = {name: job for name in ROWS if name.partition("/")[0] in sections}
        if "training/ours" in jobs and not options.quick:
            jobs["training/ours"] = {**job, "steps": 365}  # a whole epoch tells what is between its steps from chance
        for size in sizes if "scaling" in sections else []:
            data = cached_dataset(Composition(num_train=size, num_val=64, num_test=64), Path(scratch))
            jobs[f"scaling/{size}"] = {**job, "data": str(data), "steps": 4 * job["steps"]}
        content = summary(take_turns(jobs, rounds, options.keras_python), about)
    print(text_of(content))
    folder /= f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    write(content, folder)
    print(f"written to {folder}")


if __name__ == "__main__":
    run_script(main)
