"""What says `auto` follows the processor and the number of training images, and is recorded as what it was."""

import numpy as np
import pytest
import train
from conftest import TINY
from hydra import compose, initialize_config_dir

from digitsum.cli.auto_settings import settle_auto
from digitsum.cli.build import register
from digitsum.cli.project import PROJECT
from digitsum.errors import InputError
from digitsum.runs.locate import read_config


@pytest.fixture
def settled(tmp_path):
    def settle(*words):
        register()
        with initialize_config_dir(f"{PROJECT}/conf", version_base="1.3"):
            cfg = compose("train", [*words, f"run_dir={tmp_path}", f"outputs_dir={tmp_path}"])
        settle_auto(cfg)
        return cfg

    return settle


def sizes(cfg):
    return cfg.data.batch_size, cfg.trainer.max_epochs, cfg.trainer.check_val_every_n_epoch


def test_the_readers_recipe_follows_the_number_of_canvases(settled):
    assert sizes(settled("experiment=reader", "data.num_train=24000")) == (64, 10, 1)
    assert sizes(settled("experiment=reader", "data.num_train=3000")) == (32, 40, 2)


def test_weights_that_can_read_are_trained_half_as_long(settled):
    assert sizes(settled("experiment=reader", "data.num_train=1000", "init_from=reader")) == (32, 42, 2)
    assert sizes(settled("experiment=reader", "data.num_train=1000")) == (32, 80, 4)


def test_what_is_given_is_obeyed_and_the_rest_follows(settled):
    words = ("experiment=reader", "data.num_train=300")
    assert sizes(settled(*words, "trainer.max_epochs=60")) == (32, 60, 3)
    assert sizes(settled(*words, "data.batch_size=7", "trainer.check_val_every_n_epoch=1")) == (7, 180, 1)
    assert sizes(settled(*words, "trainer.max_epochs=-1", "trainer.max_steps=10")) == (32, -1, 1)


def test_images_of_ones_own_are_counted(settled, tmp_path):
    np.save(tmp_path / "data0.npy", np.full((375, 40, 64), 200, np.uint8))
    np.save(tmp_path / "lab0.npy", np.arange(375) % 37)
    assert sizes(settled("experiment=reader", "data=arrays", f"data.root={tmp_path}")) == (32, 180, 9)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("trainer.max_epochs=many", "trainer.max_epochs: expected a whole number or auto, got 'many'"),
        ("trainer.max_epochs=2.5", "trainer.max_epochs: expected a whole number or auto, got 2.5"),
        ("trainer.check_val_every_n_epoch=x", "trainer.check_val_every_n_epoch: expected a whole number or auto"),
    ],
)
def test_what_is_no_number_is_refused(settled, word, expected):
    with pytest.raises(InputError, match=f"^{expected}"):
        settled(word)


@pytest.mark.parametrize("value", ["many", "2.5", "0", "true"])
def test_a_batch_size_that_is_none_is_refused(command, tmp_path, value):
    result = command(train.main, *TINY, f"data.batch_size={value}", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 1
    assert "data.batch_size: expected 1 or more images, got" in result.text
    assert "Traceback" not in result.text


def test_what_was_chosen_is_printed_and_recorded(command, tmp_path, datasets_dir):
    words = (*TINY, f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.run.dir={tmp_path}/run")
    result = command(train.main, *words, "data.batch_size=auto", "trainer.check_val_every_n_epoch=auto")
    assert result.code == 0, result.text
    assert "training images: batches of 32, 1 epochs" in result.text
    recorded = read_config(tmp_path / "run")
    assert recorded["data"]["batch_size"] == 32
    assert recorded["trainer"]["check_val_every_n_epoch"] == 1


def test_a_network_of_one_width_refuses_cut_batches(command, tmp_path, datasets_dir):
    words = (*TINY, f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.run.dir={tmp_path}/run")
    result = command(train.main, *words, "data.bucket_by_width=true")
    assert result.code == 1
    assert "data.bucket_by_width: expected a network that takes images of any width, got two_conv" in result.text
