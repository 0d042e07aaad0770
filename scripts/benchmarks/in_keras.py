"""The reference network in Keras 3 on TensorFlow, measured for scripts/benchmark.py; knows nothing of digitsum.

    PYTHON scripts/benchmarks/in_keras.py training/keras '{"data": "FOLDER", ...}'     (see Job in clocks.py)

Runs in any environment that has keras and tensorflow, and prints what it found as one line of JSON.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # its greetings

import keras
import numpy as np
import tensorflow as tf


def network(image_size: tuple[int, int]) -> Any:
    """The reference network, which was written in these terms, with its loss and optimiser."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((*image_size, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    return model


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The shards of `folder`: images `(N, H, W, 1)` and sums `(N,)`, float32 in memory."""
    count = len(list(folder.glob("data*.npy")))
    images, sums = (
        np.concatenate([np.load(folder / f"{name}{number}.npy") for number in range(count)]) for name in ("data", "lab")
    )
    return images[..., None].astype(np.float32) / 255, sums.astype(np.float32)


class StepClock(keras.callbacks.Callback):
    """Times the steps after `warmup` of the only epoch; reading the epoch's loss waits for the device."""

    def __init__(self, warmup: int) -> None:
        super().__init__()
        self.warmup = warmup
        self.begin = self.end = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Begin after the last step that warms up."""
        if batch + 1 == self.warmup:
            self.begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End with the epoch."""
        self.end = time.perf_counter()


def training(job: dict[str, Any]) -> dict[str, float]:
    """Images per second of `fit`, without validation, metrics and progress bar."""
    images, sums = read(Path(job["data"], "train"))
    clock = StepClock(job["warmup"])
    count = (job["warmup"] + job["steps"]) * 64
    network(images.shape[1:3]).fit(images[:count], sums[:count], batch_size=64, verbose=0, callbacks=[clock])
    return {"value": job["steps"] * 64 / (clock.end - clock.begin)}


def prediction(job: dict[str, Any]) -> dict[str, float]:
    """Images per second of `predict`, at the best of three batch sizes: the default, the reference's, a large one."""
    images, _ = read(Path(job["data"], job["split"]))
    model = network(images.shape[1:3])
    rates = {}
    for batch_size in (32, 64, 256):
        model.predict(images[: 2 * batch_size], batch_size=batch_size, verbose=0)
        begin = time.perf_counter()
        model.predict(images, batch_size=batch_size, verbose=0)
        rates[batch_size] = len(images) / (time.perf_counter() - begin)
    best = max(rates, key=lambda size: rates[size])
    return {"value": rates[best], "batch_size": best, **{f"at_{size}": rate for size, rate in rates.items()}}


def main() -> None:
    """Measure what the command names."""
    name, job = sys.argv[1], json.loads(sys.argv[2])
    found: dict[str, Any]
    if job["accelerator"] == "cpu":
        tf.config.set_visible_devices([], "GPU")
    if job["accelerator"] == "gpu" and not tf.config.list_physical_devices("GPU"):
        found = {"skipped": "TensorFlow finds no GPU"}
    else:
        found = {"training/keras": training, "prediction/keras": prediction}[name](job)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()  # 0: as many as there are cores
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
    print(json.dumps({**found, "threads": threads, "versions": versions}))


if __name__ == "__main__":
    main()
