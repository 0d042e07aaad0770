"""The reference network in Keras 3 on TensorFlow, measured for scripts/benchmark.py.

Runs in any environment that has keras and tensorflow, and knows nothing of digitsum. Told as in_torch.py what to do.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}  # 3: without its greetings

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def network(image_size: tuple[int, int]) -> Any:
    """The reference network, which was written in these terms, with its loss and optimiser."""
    convolutions = [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D()]
    convolutions += [layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(), layers.Dropout(0.25)]
    dense = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.5), layers.Dense(1)]
    model = keras.Sequential([layers.Input((*image_size, 1)), *convolutions, *dense])
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    return model


def read(folder: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The shards of a split: images `(N, H, W, 1)` and sums `(N,)`, float32 in memory."""
    files = (sorted(Path(folder, split).glob(f"{name}*.npy")) for name in ("data", "lab"))  # both in the same order
    images, sums = (np.concatenate([np.load(path) for path in paths]).astype(np.float32) for paths in files)
    return images[..., None] / 255, sums


def training(job: dict[str, Any]) -> dict[str, float]:
    """Images per second of `fit` after warming up, without validation, metrics and progress bar."""
    images, sums = read(job["data"], "train")
    ends: list[float] = []  # of the steps, and of the epoch, whose loss is read: that waits for the device

    def note(*_: Any, **__: Any) -> None:
        ends.append(time.perf_counter())

    count = (job["warmup"] + job["steps"]) * 64
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=note, on_epoch_end=note)
    network(images.shape[1:3]).fit(images[:count], sums[:count], batch_size=64, verbose=0, callbacks=[clock])
    return {"value": job["steps"] * 64 / (ends[-1] - ends[job["warmup"] - 1])}


def prediction(job: dict[str, Any]) -> dict[str, float]:
    """Images per second of `predict`, at the best of three batch sizes: the default, the reference's, a large one."""
    images, _ = read(job["data"], "val")
    model, found = network(images.shape[1:3]), {}
    for batch_size in (32, 64, 256):
        model.predict(images[: 2 * batch_size], batch_size=batch_size, verbose=0)
        begin = time.perf_counter()
        model.predict(images, batch_size=batch_size, verbose=0)
        found[len(images) / (time.perf_counter() - begin)] = batch_size
    return {"value": max(found), "batch_size": found[max(found)]}


if __name__ == "__main__":
    job = json.loads(sys.argv[2])
    if job["device"] == "cpu":
        tf.config.set_visible_devices([], "GPU")
    elif not tf.config.list_physical_devices("GPU"):
        print('{"skipped": "TensorFlow finds no GPU"}')
        sys.exit()
    found = {"training/keras": training, "prediction/keras": prediction}[sys.argv[1]](job)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()  # 0: as many as there are cores
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
    print(json.dumps({**found, "threads": threads, "versions": versions}))
