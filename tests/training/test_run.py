"""A training as a whole: what is said on the way, and what does not end it."""

import json

import pytest
import train
from conftest import TINY

from digitsum.errors import InputError


@pytest.fixture
def run(command, tmp_path, datasets_dir):
    places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.run.dir={tmp_path}/run")
    return lambda *words: command(train.main, *TINY, *places, *words)


def fail(*_, **__):
    raise ValueError("no such font")


def test_figures_that_cannot_be_drawn_are_a_line_each_and_the_training_goes_on(run, tmp_path, monkeypatch):
    for figure in ("callbacks.scatter_figure", "callbacks.examples_figure", "run.loss_figure", "run.scatter_figure"):
        monkeypatch.setattr(f"digitsum.training.{figure}", fail)
    result = run("trainer.max_epochs=2")
    assert result.code == 0, result.text
    counts = {"val/scatter": 2, "val/answers": 2, "loss.png": 1, "scatter.png": 1}
    for name, count in counts.items():
        assert result.text.count(f"{name} cannot be drawn: ValueError: no such font") == count
    assert set(json.loads((tmp_path / "run" / "metrics.json").read_text())) == {"train", "val", "test"}


def test_each_progress_bar_says_what_is_predicted(run):
    result = run()
    for split in ("train", "val", "test"):
        assert f"predicting {split}, last epoch" in result.err
    assert "Predicting" not in result.text


def test_processes_that_wait_for_a_failed_evaluation_are_ended(run, monkeypatch):
    def damaged(*_, **__):
        raise InputError("the images are damaged")

    ended = []
    monkeypatch.setattr("digitsum.training.run.predict", damaged)
    monkeypatch.setattr("digitsum.training.run.end_processes", ended.append)
    result = run()
    assert result.code == 1
    assert "the images are damaged" in result.text
    assert len(ended) == 1


def test_a_limit_that_nothing_obeys_is_refused(run):
    result = run("trainer.limit_test_batches=1")
    assert result.code == 1
    assert "limit_test_batches" in result.text
    assert len(result.text.strip().splitlines()) == 1, result.text
