"""Every config composes into objects, and a wrong one is refused before anything starts."""

import inspect
from dataclasses import asdict, fields
from pathlib import Path

import export
import lightning as L
import make_data
import predict
import pytest
import train
import tune
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import OmegaConf

from digitsum.cli.auto_settings import settle_auto
from digitsum.cli.build import build_datamodule, build_parts, build_training, model_arguments
from digitsum.cli.lightning_schemas import TrainerSettings
from digitsum.cli.output_dirs import job_folder
from digitsum.cli.overrides import override_key
from digitsum.cli.resume_config import recorded_config
from digitsum.data.datamodule import ArraysData, ComposedData
from digitsum.errors import InputError
from digitsum.models.module import OptimizerSettings, SumModule
from digitsum.models.registry import NETWORKS
from digitsum.models.two_conv import TwoConvSettings
from digitsum.training.signals import Signals

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.fixture
def composed(tmp_path):
    """Compose the training config with overrides."""

    def compose_(*overrides):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("train", [f"run_dir={tmp_path}", *overrides])

    return compose_


def test_there_are_experiments():
    assert "smoke" in EXPERIMENTS


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_into_objects(composed, experiment):
    cfg = composed(f"experiment={experiment}", "trainer.accelerator=cpu")
    settle_auto(cfg)
    arguments = model_arguments(cfg)
    module = SumModule(image_size=(40, 168), **arguments)
    assert module.optimizer_settings.lr == cfg.model.lr
    assert isinstance(build_training(cfg, Signals(), in_sweep=False), L.Trainer)
    assert build_datamodule(cfg).data.batch_size == cfg.data.batch_size


# an experiment of this size is one on composed images; the others are recipes
RECIPES = [
    name for name in EXPERIMENTS if "num_train" not in (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
]


@pytest.mark.parametrize("experiment", RECIPES)
def test_every_recipe_can_be_used_with_ones_own_arrays(composed, experiment):
    assert composed(f"experiment={experiment}", "data=arrays", "data.root=here").data.root == "here"


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_are_built_and_checked_once(composed, monkeypatch, name):
    settings, built = NETWORKS[name][1], []
    check = settings.__post_init__
    monkeypatch.setattr(settings, "__post_init__", lambda self: built.append(self) or check(self))
    module = SumModule(image_size=(40, 168), **model_arguments(composed(f"model={name}")))
    assert len(built) == 1
    assert module.hparams["options"] == asdict(built[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_says_whether_it_takes_the_number_of_digits(composed, name):
    cfg = composed(f"model={name}", "data.layout.num_digits=[2,3]")
    if name == "reader":
        with pytest.raises(InputError, match=r"model.num_digits=4: the canvases hold \[2,3\] digits"):
            build_parts(cfg)
    else:
        build_parts(cfg)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_config_that_builds_it(composed, name):
    assert model_arguments(composed(f"model={name}"))["network"] == name


REFERENCE = {
    "conv1_channels": 32, "conv2_channels": 64, "kernel_size": 3, "pooling": "max", "conv_dropout": 0.25,
    "hidden_units": 128, "dense_dropout": 0.5, "fast": True,
    "optimizer": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7, "weight_decay": 0.0,
    "schedule": "constant", "warmup": 0.3, "network": "two_conv",
}  # fmt: skip


def test_the_defaults_are_the_reference(composed):
    cfg = composed()
    assert cfg.model == REFERENCE
    arguments = model_arguments(cfg)
    assert (arguments["network"], arguments["settings"]) == ("two_conv", TwoConvSettings())
    assert arguments["optimizer"] == OptimizerSettings()
    assert (cfg.trainer.max_epochs, cfg.data.batch_size) == (10, 64)
    assert "early_stopping" not in cfg.callbacks


def test_each_source_of_data_becomes_its_settings(composed, monkeypatch):
    monkeypatch.setenv("DIGITSUM_MNIST", "/somewhere/mnist")
    demo, mnist = (build_datamodule(composed(f"data={name}")).data for name in ("demo", "mnist"))
    arrays = build_datamodule(composed("data=arrays", "data.root=/x")).data
    assert isinstance(demo, ComposedData)
    assert (demo.glyphs, demo.num_train, demo.num_val, demo.num_test) == ("bundled", 9600, 1200, 1200)
    assert (mnist.glyphs, mnist.num_train, mnist.num_val, mnist.num_test) == ("mnist", 24000, 3000, 3000)
    assert mnist.mnist_root == "/somewhere/mnist"
    assert arrays == ArraysData("/x")


def test_mnist_is_looked_for_below_outputs_without_the_environment_variable(composed, monkeypatch):
    monkeypatch.delenv("DIGITSUM_MNIST", raising=False)
    assert build_datamodule(composed("data=mnist")).data.mnist_root == str(ROOT / "outputs" / "datasets" / "mnist")


@pytest.mark.parametrize(
    ("choice", "kind"), [("tensorboard", TensorBoardLogger), ("csv", CSVLogger), ("none", type(None))]
)
def test_each_logger_is_built(composed, choice, kind):
    trainer = build_training(composed(f"logger={choice}", "trainer=cpu"), Signals(), in_sweep=False)
    assert isinstance(trainer.logger, kind)


def test_callbacks_can_be_added_changed_and_dropped(composed):
    def names(*overrides):
        trainer = build_training(composed("trainer=cpu", *overrides), Signals(), in_sweep=False)
        return {type(callback).__name__: callback for callback in trainer.callbacks}

    assert "EarlyStopping" not in names()
    stopping = names("callbacks=early_stopping", "callbacks.early_stopping.patience=7")["EarlyStopping"]
    assert (stopping.patience, stopping.monitor) == (7, "val/mae")
    assert names("callbacks.prediction_logger.num_images=5")["PredictionLogger"].num_images == 5
    assert "PredictionLogger" not in names("~callbacks.prediction_logger")


def test_a_sweep_has_no_progress_bar_unless_asked_for(composed):
    assert build_training(composed("trainer=cpu"), Signals(), in_sweep=True).progress_bar_callback is None
    assert build_training(composed("trainer=cpu"), Signals(), in_sweep=False).progress_bar_callback is not None
    asked = composed("trainer=cpu", "trainer.enable_progress_bar=true")
    assert build_training(asked, Signals(), in_sweep=True).progress_bar_callback is not None


def test_every_plain_argument_of_the_trainer_can_be_given():
    # these take objects, or are made by this project from other settings
    # limit_test_batches: a test set is evaluated whole or not at all
    objects = {"self", "limit_test_batches", "logger", "callbacks", "default_root_dir", "plugins", "model_registry"}
    ours = {field.name for field in fields(TrainerSettings)} - {"_target_"}
    assert ours == set(inspect.signature(L.Trainer.__init__).parameters) - objects


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        (["model.lr=3e-4", "seed=1"], "03_lr-3e-4_seed-1"),
        (["model.lr=0.0003", "model.dense_dropout=0.25"], "03_lr-3e-4_dense_dropout-0.25"),
        (["model.lr=0.0"], "03_lr-0.0"),
        (["+data.layout.num_digits=[2,6]"], "03_num_digits-2-6"),
        (["data.root=/some where/ü=x"], "03_root-some-where-x"),
        ([], "03"),
    ],
)
def test_job_folders_have_letters_digits_and_marks_that_hydra_can_parse(overrides, folder):
    assert job_folder(3, overrides) == folder


def test_job_folders_stay_within_what_a_file_system_takes():
    assert len(job_folder(3, [f"data.root={'x' * 500}"])) <= 120


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.lr=abc", ["model.lr", "abc"]),
        ("data.batch_size=12.5", ["data.batch_size", "12.5"]),
        ("model.lr=-1", ["model.lr", "-1"]),
        ("model.lr=nan", ["model.lr", "nan"]),
        ("model.dense_dropout=1.5", ["model.dense_dropout", "1.5"]),
        ("model.pooling=median", ["model.pooling", "median", "max, average"]),
        ("model.schedule=steps", ["model.schedule", "steps", "one_cycle"]),
        ("model.lrr=1", ["lrr"]),
        ("modle=two_conv", ["modle"]),
        ("model=three_conv", ["three_conv"]),
        ("data.batch_size=0", ["data.batch_size", "0"]),
        ("data.num_val=0", ["data.num_val", "0"]),
        ("data.layout.width=100", ["layout.width", "168"]),
        ("data.layout.num_digits=0", ["layout.num_digits"]),
        ("data.glyphs=fonts", ["data.glyphs", "fonts"]),
        ("data=arrays", ["data.root"]),
        ("seed=-1", ["seed", "-1"]),
        ("recompose=2", ["recompose", "[0, 1]", "2"]),
        ("hard_glyphs=0.5", ["hard_glyphs", "1 to 100", "0.5"]),
        ("recompose=0.5", ["recompose", "reads digits", "two_conv"]),
        ("trainer.max_epochs=ten", ["trainer.max_epochs", "ten"]),
        ("trainer.accelerator=abacus", ["trainer", "abacus"]),
        ("callbacks.checkpoint.moniter=x", ["moniter"]),
        ("callbacks.prediction_logger.num_images=0", ["num_images"]),
        ("logger=paper", ["paper"]),
        ("experiment=none_such", ["none_such"]),
    ],
)
def test_a_wrong_setting_is_refused_in_a_line_or_two_before_anything_starts(command, tmp_path, override, words):
    result = command(train.main, override, f"outputs_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    assert result.code != 0
    assert all(word in result.text for word in words), result.text
    assert "Traceback" not in result.text
    # a misspelt group lists the choices, one on a line; everything else is a line or two
    assert len(result.text.strip().splitlines()) <= 2, result.text
    assert not list(Path(tmp_path).rglob("*.ckpt"))
    assert not (tmp_path / "datasets").exists()


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("model.lrr=1", "model.lr"),
        ("modle=two_conv", "model"),
        ("model=two_convs", "model=two_conv"),
        ("trainer.max_epoch=1", "trainer.max_epochs"),
        ("callbacks.checkpoint.moniter=x", "callbacks.checkpoint.monitor"),
        ("experiment=smok", "experiment=smoke"),
        ("experiment=reader model.num_digit=3", "model.num_digits"),
        ("model=reader model.length_penality=3", "model.length_penalty"),
        ("data.layout.num_digit=3", "data.layout.num_digits"),
        ("sead=1", "seed"),
    ],
)
def test_a_misspelt_name_gets_the_one_that_was_meant(command, tmp_path, override, meant):
    result = command(train.main, *override.split(), f"outputs_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 1
    assert result.text.strip().endswith(f"did you mean {meant}?"), result.text


@pytest.mark.parametrize("override", ["seed=x", "trainer.max_epochs=many", "augmentation.stroke=wide", "hard_glyphs=x"])
def test_a_right_name_with_a_wrong_value_gets_no_other_one(command, tmp_path, override):
    result = command(train.main, override, f"outputs_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 1
    assert override.partition("=")[0] in result.text
    assert "did you mean" not in result.text


OLDER = [
    (train, "model.digit_cost=0.5", "model.length_penalty"),
    (train, "model=reader model.digit_cost=0.5", "model.length_penalty"),
    (train, "+model.digit_cost=0.5", "model.length_penalty"),
    (train, "~model.digit_cost", "model.length_penalty"),
    (train, "-m model=reader model.digit_cost=0,0.5", "model.length_penalty"),
    (train, "augmentation.slant=0.2", "augmentation.shear"),
    (train, "augmentation.warp=1", "augmentation.elastic"),
    (train, "augmentation.warp_spacing=9", "augmentation.elastic_spacing"),
    (train, "callbacks.pictures.num_images=6", "callbacks.prediction_logger.num_images"),
    (train, "~callbacks.pictures", "callbacks.prediction_logger"),
    (predict, "views=6", "tta"),
    (tune, "search.augmentation.warp.high=3", "search.augmentation.elastic.high"),
    (tune, "~search.augmentation.warp", "search.augmentation.elastic"),
    (tune, "+search.model.digit_cost={}", "search.model.length_penalty"),
]


@pytest.mark.parametrize(("script", "words", "now"), OLDER)
def test_a_key_of_an_older_version_gets_the_one_that_it_is_now(command, tmp_path, script, words, now):
    result = command(script.main, *words.split(), f"outputs_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 1
    older = override_key(words.split()[-1])
    assert result.text.strip() == f"error: {older}: expected {now}, its name since version 0.5"
    assert list(tmp_path.iterdir()) == []


def test_an_older_key_inside_an_experiment_gets_the_one_that_it_is_now(command, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "older.yaml").write_text("# @package _global_\naugmentation:\n  slant: 1\n")
    words = (f"hydra.searchpath=[file://{tmp_path}/conf]", "experiment=older", f"hydra.run.dir={tmp_path}/run")
    result = command(train.main, *words)
    assert result.code == 1
    assert result.text.strip().endswith("did you mean augmentation.shear?"), result.text


def test_a_run_that_an_older_version_recorded_is_not_resumed(composed, tmp_path):
    record = OmegaConf.to_container(composed("data.mnist_root=here", "outputs_dir=here"), resolve=True)
    record["augmentation"]["slant"] = record["augmentation"].pop("shear")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(InputError, match=r"config.yaml: found augmentation.slant, which is augmentation.shear since"):
        recorded_config(composed(), tmp_path, [])


def test_a_name_like_no_other_gets_no_proposal(command, tmp_path):
    result = command(train.main, "xyzzy=1", f"outputs_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 1
    assert "did you mean" not in result.text


def test_a_misspelt_key_inside_an_experiment_is_refused(command, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "typo.yaml").write_text("# @package _global_\nmodel:\n  lrr: 1\n")
    result = command(
        train.main, f"hydra.searchpath=[file://{tmp_path}/conf]", "experiment=typo", f"hydra.run.dir={tmp_path}/run"
    )
    assert result.code != 0
    assert "lrr" in result.text
    assert "Traceback" not in result.text


@pytest.mark.parametrize("script", [train, predict, make_data, export])
def test_help_is_a_screenful_that_names_the_main_options(script):
    lines = script.__doc__.strip().splitlines()
    assert 15 <= len(lines) <= 45
    assert all(len(line) <= 120 for line in lines)
