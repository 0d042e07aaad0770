"""What scripts/benchmark.py measures, row by row in turns, each time in a process of its own."""

import importlib.util
import json
import shlex
import subprocess
import sys
import time
from typing import Any

from tqdm import tqdm

from digitsum.cli.project import PROJECT
from digitsum.errors import InputError

Found = dict[str, Any]

SECTIONS = {  # the first part of a row's name: what it measures in which unit
    "training": "training, images/s",
    "prediction": "prediction, images/s",
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
    "prediction/keras": "Keras predict (TensorFlow)",
    "composing/ours": "canvases, on one core",
    "startup/help": "scripts/train.py --help",
    "startup/imports": "import torch, lightning",
    "startup/first_step": "scripts/train.py until its first step is done",
    "reader/float32": "batches cut behind their ink, float32",
    "reader/bfloat16": "batches cut behind their ink, bfloat16",
    "reader/uncut": "whole images, float32",
    "reader/of_0_4": "that of version 0.4, whole images, float32",
    "formats/torch": "torch, batches of 64",
    "formats/torch_export": "torch.export, batches of 64",
    "formats/onnx": "onnxruntime, batches of 64",
}


def take_turns(jobs: dict[str, dict[str, Any]], rounds: int, keras: str | None) -> dict[str, list[Found]]:
    """What each row of `jobs` found in each round; `keras` is the Python that has Keras, None for this one."""
    if "startup/first_step" in jobs:  # the first run of all compiles the loops
        measure("startup/first_step", jobs["startup/first_step"], None)
    found: dict[str, list[Found]] = {name: [] for name in jobs}
    for name in (bar := tqdm(list(jobs) * rounds, unit=" measurements", dynamic_ncols=True)):
        bar.set_description(name)
        found[name].append(measure(name, jobs[name], keras))
    return found


def measure(name: str, job: dict[str, Any], keras: str | None) -> Found:
    """What a row finds once: `value` and numbers beside it, or `skipped`, why not; an InputError where it fails."""
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


def command(name: str, job: dict[str, Any], keras: str) -> list[str]:
    """The command that measures a row: it prints what it found as a line of JSON, or is timed as a whole."""
    section, _, row = name.partition("/")
    python, scripts = sys.executable, f"{PROJECT}/scripts"
    train = [python, f"{scripts}/train.py", "test=false", f"outputs_dir='{job['scratch']}'"]
    train += ["data=arrays", f"data.root='{job['data']}'", f"trainer.accelerator={job['device']}"]
    train += ["+callbacks.clock._target_=benchmarks.in_torch.step_clock", f"+callbacks.clock.warmup={job['warmup']}"]
    train += ["trainer.limit_predict_batches=1"]  # of the evaluations at the end
    length = job["warmup"] + (1 if section == "startup" else job["steps"])
    epoch = ["trainer.max_epochs=1", f"trainer.limit_train_batches={length}"]
    commands = {
        "training/ours": [*train, *epoch],
        "startup/first_step": [*train, *epoch, "trainer.limit_val_batches=1"],
        "scaling": [*train, "trainer.max_epochs=-1", f"trainer.max_steps={length}"],
        "startup/imports": [python, "-c", "import torch, lightning"],
        "startup/help": [python, f"{scripts}/train.py", "--help"],
        "keras": [keras, f"{scripts}/benchmarks/in_keras.py", name, json.dumps(job)],
    }
    in_torch = [python, f"{scripts}/benchmarks/in_torch.py", name, json.dumps(job)]
    return next((commands[key] for key in (name, section, row) if key in commands), in_torch)
