"""Fixtures that several tests share."""

import copy
import json
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from digitsum.cli import console
from digitsum.training.signals import Signals

ROOT = Path(__file__).resolve().parent.parent

# as small as a run can be that still has several batches and an uneven last one; figures take longer than its steps
TINY_RUN = (
    "data.num_train=40",
    "data.num_val=20",
    "data.num_test=10",
    "data.batch_size=16",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "callbacks.prediction_logger.num_images=1",
)
TINY = (*TINY_RUN, "model.hidden_units=8", "model.conv1_channels=2", "model.conv2_channels=3")
TINY_READER = ("experiment=reader", *TINY_RUN, "model.width=2")


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, default=20, help="how many times to kill runs (tests/test_faults.py)")


@pytest.fixture(scope="session")
def datasets_dir(tmp_path_factory):
    """One folder for the composed sets of all tests, so that each is composed once."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture
def command(monkeypatch, capfd):
    """Run a script's `main` in this process as the console would: `command(train.main, "seed=1", ...)`.

    Returns exit code and output. What Hydra, Lightning and our console leave behind in the process (logging, seeds in
    the environment, filters) is put back.
    """
    environment, handlers = dict(os.environ), logging.getLogger().handlers[:]

    def run(main, *words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, words)])
        code = 0
        try:
            console.run_script(main, main.__module__)
        except SystemExit as stop:
            if isinstance(stop.code, str):  # what the interpreter does with it
                print(stop.code, file=sys.stderr)
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, text=out + err)

    yield run
    GlobalHydra.instance().clear()
    for handler in logging.getLogger().handlers:
        if handler not in handlers:
            handler.close()
    logging.getLogger().handlers[:] = handlers
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, datasets_dir):
    """The folder of a tiny run on the bundled digits, trained once for all tests; only to be read."""
    return trained(tmp_path_factory.mktemp("outputs"), datasets_dir, TINY)


@pytest.fixture(scope="session")
def finished_reader(tmp_path_factory, datasets_dir):
    """The same with the network that reads digits."""
    return trained(tmp_path_factory.mktemp("outputs"), datasets_dir, TINY_READER)


@pytest.fixture
def published_tiny(tmp_path, monkeypatch, finished_reader):
    """The weights of the tiny reader, published as `tiny-1` in a folder that stands for the package's."""
    from digitsum.models import published
    from digitsum.models.checkpoints import load_model, save_safetensors

    monkeypatch.setattr(published, "FOLDER", tmp_path / "published")
    path = tmp_path / "published" / "tiny-1.safetensors"
    save_safetensors(load_model(finished_reader / "checkpoints" / "best.ckpt"), path)
    return path


def trained(outputs, datasets_dir, words):
    """Train a run outside of any command and return its folder."""
    from hydra import compose, initialize_config_dir

    from digitsum.cli import train
    from digitsum.cli.build import register

    register()

    folder = outputs / "runs" / "first"
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "train", [*words, f"run_dir={folder}", f"outputs_dir={outputs}", f"data.datasets_dir={datasets_dir}"]
        )
    seeded = os.environ.get("PL_GLOBAL_SEED")
    train.run(cfg, Signals(), in_sweep=False, hparams={"seed": 0})
    if seeded is None:
        os.environ.pop("PL_GLOBAL_SEED", None)
    return folder


RECORDED_CONFIG = {
    "data": {"num_train": 40, "datasets_dir": "/somewhere", "batch_size": 16},
    "model": {"hidden_units": 8, "lr": 0.001, "network": "two_conv"},
    "trainer": {"_target_": "lightning.pytorch.Trainer", "max_epochs": 3},
    "callbacks": {"checkpoint": {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "/x"}},
    "logger": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": "/x"},
    "seed": 0,
    "run_dir": "/x",
}


def metrics_row(mae):
    return {"mae": mae, "mse": mae**2 + 1, "within_5": 1 / (1 + mae), "exact": 1 / (2 + mae), "count": 20}


def fake_run(folder, mae=2.0, *, curve=None, **settings):
    """A run's folder as scripts/train.py leaves it, without checkpoints; settings as `model__lr=0.1`."""
    config = copy.deepcopy(RECORDED_CONFIG)
    config["callbacks"]["checkpoint"]["dirpath"] = config["run_dir"] = str(folder)
    for name, value in settings.items():
        *groups, key = name.split("__")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[key] = value
    folder.mkdir(parents=True)
    curve = [3 * mae, 2 * mae, mae] if curve is None else curve
    rows = [f"{epoch},{3 * epoch},{error}\n" for epoch, error in enumerate(curve, 1)]
    (folder / "history.csv").write_text("epoch,step,val/mae\n" + "".join(rows))
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    speeds = [{"train_images_per_second": speed} for speed in (100.0, 500.0, 520.0)]
    (folder / "timing.json").write_text(json.dumps({"fit_seconds": 12.5, "epochs": speeds}))
    (folder / "metrics.json").write_text(json.dumps({"val": {"model": metrics_row(mae)}}))
    return folder


STRANGE = "Bob's digits (1) a=b, x,y [é] {$HOME} `#` \\"
"""A folder's name with whatever a shell or Hydra takes for its own."""


def pasted(command):
    """The words that a program gets of a printed command."""
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    stubs = (f'{name}() {{ {shlex.join([sys.executable, "-c", code])} "$@"; }}' for name in ("python", "tensorboard"))
    script = "\n".join([*stubs, command])
    return json.loads(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)


def parsed(words):
    """What Hydra makes of words, by key."""
    overrides = OverridesParser.create().parse_overrides(words)
    return dict(OmegaConf.create({override.key_or_group: override.value() for override in overrides}))


SPACE = {
    "model.lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "model.conv_dropout": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.05},
    "model.hidden_units": {"type": "int", "low": 8, "high": 64},
    "model.pooling": {"type": "categorical", "choices": ["max", "average"]},
}


@pytest.fixture
def optuna():
    """The package, or the test is skipped."""
    return pytest.importorskip("optuna", reason="needs Optuna, which the extra `tune` installs")


@pytest.fixture
def search(optuna, tmp_path):
    """Open a search in one folder: each time as another process would."""
    from digitsum.tuning.search import Search
    from digitsum.tuning.space import build_space

    def open_(settings=None, space=SPACE, **more):
        return Search(tmp_path / "study", build_space(space), settings or {"seed": 0}, **more)

    return open_
