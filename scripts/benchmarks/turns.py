"""What scripts/benchmark.py measures, and how: row by row in turns, each time in a process of its own.

A row is told its job, plain values that travel as JSON: `data`, a folder with `train/` and `val/`, each with shards;
`scratch`, a folder for what it writes; `device`, `cpu` or `cuda`; `warmup` and `steps`, how many steps of a training
come before the clock starts and how many are timed, 1 or more each; `seconds`, for how long to do anything else. It
prints what it found as a line of JSON: `value`, and numbers to report beside it.
"""

import importlib.util
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from digitsum.errors import InputError

Job = dict[str, Any]
Found = dict[str, Any]

SECTIONS = {  # the first part of a row's name: what it measures in which unit
    "training": "training, images/s",
    "prediction": "prediction, images/s",
    "loading": "loading batches of 64, images/s",
    "composing": "composing, canvases/s",
    "startup": "from the command on, seconds",
    "reader": "the reader's training step, images/s",
    "formats": "the published reader's answers, images/s",
    "scaling": "training on so many images, images/s",
}
ROWS = {  # scaling has a row for each number of images
    "training/ours": "ours: what scripts/train.py runs",
    "training/bare": "ours in a bare loop, without a Trainer",
    "training/textbook": "textbook Lightning",
    "training/keras": "Keras fit (TensorFlow)",
    "training/limit": "limit: this machine's matrix product",
    "prediction/ours": "ours: what scripts/predict.py runs",
    "prediction/reader": "ours: the reader",
    "prediction/textbook": "textbook Lightning",
    "prediction/keras": "Keras predict (TensorFlow)",
    "loading/ours": "ours: Batches",
    "loading/textbook": "TensorDataset, DataLoader",
    "loading/workers": "the same with 2 workers",
    "composing/ours": "canvases, on one core",
    "startup/help": "scripts/train.py --help",
    "startup/imports": "import torch, lightning",
    "startup/first_step": "scripts/train.py until its first step is done",
    "reader/float32": "batches cut behind their ink, float32",
    "reader/bfloat16": "batches cut behind their ink, bfloat16",
    "reader/uncut": "whole images, float32",
    "reader/plain": "whole images, torch's own layers, float32",
    "formats/torch": "torch, batches of 64",
    "formats/torch_export": "torch.export, batches of 64",
    "formats/onnx": "onnxruntime, batches of 64",
}

SCRIPTS = Path(__file__).resolve().parent.parent


def take_turns(jobs: dict[str, Job], rounds: int, keras: str | None) -> dict[str, list[Found]]:
    """What each row of `jobs` found in each round; `keras` is the Python that has Keras, None for this one.

    Raises:
        InputError: a row failed.
    """
    if "startup/first_step" in jobs:  # the first run of all compiles the loops
        measure("startup/first_step", jobs["startup/first_step"], None)
    found: dict[str, list[Found]] = {name: [] for name in jobs}
    bar = tqdm(list(jobs) * rounds, unit=" measurements", dynamic_ncols=True)
    for name in bar:
        bar.set_description(name)
        found[name].append(measure(name, jobs[name], keras))
    return found


def measure(name: str, job: Job, keras: str | None) -> Found:
    """What a row finds once; where it cannot be measured here, the reason under `skipped`."""
    if name.endswith("/keras") and not (keras or all(map(importlib.util.find_spec, ("keras", "tensorflow")))):
        return {"skipped": "needs keras and tensorflow; --help says how to get them"}
    words, begin = command(name, job, keras or sys.executable), time.time()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(f"{said.removeprefix('error: ')}\nwhile running: {shlex.join(words)}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: Found = json.loads(lines[-1]) if lines else {"value": time.time() - begin}
    first_step = found.pop("first_step", None)
    return {"value": first_step - begin} if name == "startup/first_step" else found


def command(name: str, job: Job, keras: str) -> list[str]:
    """The command that measures a row."""
    python, text, length = sys.executable, json.dumps(job), job["warmup"] + job["steps"]

    def train(**limits: int) -> list[str]:
        places = ["data=arrays", f"data.root='{job['data']}'", f"outputs_dir='{job['scratch']}'"]
        clock = ["+callbacks.clock._target_=benchmarks.in_torch.step_clock", f"+callbacks.clock.warmup={job['warmup']}"]
        limits = {"limit_predict_batches": 1, **limits}  # of the evaluations at the end
        trainer = [f"trainer.{key}={value}" for key, value in {"accelerator": job["device"], **limits}.items()]
        return [python, f"{SCRIPTS}/train.py", "test=false", *places, *clock, *trainer]

    section, _, row = name.partition("/")
    commands = {
        "training/ours": train(max_epochs=1, limit_train_batches=length),
        "startup/first_step": train(max_epochs=1, limit_train_batches=job["warmup"] + 1, limit_val_batches=1),
        "startup/imports": [python, "-c", "import torch, lightning"],
        "startup/help": [python, f"{SCRIPTS}/train.py", "--help"],
        "scaling": train(max_epochs=-1, max_steps=length, limit_val_batches=1),
        "keras": [keras, f"{SCRIPTS}/benchmarks/in_keras.py", name, text],
    }
    in_torch = [python, f"{SCRIPTS}/benchmarks/in_torch.py", name, text]
    return next((commands[key] for key in (name, section, row) if key in commands), in_torch)
