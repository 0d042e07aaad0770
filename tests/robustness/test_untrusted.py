"""Attacks: what a stranger's file would have this machine do does not happen, and one line says why."""

import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import predict
import pytest
import torch
import train
import yaml
from conftest import TINY
from omegaconf import OmegaConf
from test_damaged import GLYPHS, LABELS, little_memory, one_line_of, put, refused, tree

import digitsum.training.run
from digitsum.cli.predict import open_input
from digitsum.cli.resume_config import recorded_config
from digitsum.cli.schemas import TrainConfig
from digitsum.data.composed import Composition, cached_dataset, write_dataset
from digitsum.data.datamodule import data_of
from digitsum.data.glyphs import load_glyph_pools
from digitsum.data.shards import open_shards, read_images, read_sums
from digitsum.models.checkpoints import WholeCheckpointIO, load_model
from digitsum.models.module import SumModule
from digitsum.models.reader import ReaderSettings


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def mark(tmp_path):
    """What every payload would make; it must not be there in the end."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def test_the_payload_works_where_a_file_is_trusted(tmp_path):
    content = pickle.dumps(Payload(tmp_path / "executed"))
    pickle.loads(content)
    assert (tmp_path / "executed").is_dir()


@pytest.fixture
def checkpoint(finished_run):
    return finished_run / "checkpoints" / "best.ckpt"


def changed(source, path, change):
    content = torch.load(source, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


@pytest.fixture
def stolen(finished_run, tmp_path):
    """A copy of the finished run, to be tampered with."""
    return Path(shutil.copytree(finished_run, tmp_path / "outputs" / "runs" / "stolen"))


@pytest.fixture
def resume(command, stolen, tmp_path):
    """Resume the tampered run, for one epoch more."""
    words = (f"outputs_dir={tmp_path}/outputs", "trainer.max_epochs=2", "trainer.enable_progress_bar=false")
    return lambda *more: command(train.main, f"resume='{stolen}'", *words, *more)


@pytest.fixture
def resuming(tmp_path):
    """The config of a resuming command."""
    return OmegaConf.merge(OmegaConf.structured(TrainConfig), {"outputs_dir": str(tmp_path), "debug": False})


@pytest.fixture
def predicted(command, tmp_path):
    words = ("trainer=cpu", f"outputs_dir={tmp_path}/outputs", f"hydra.run.dir={tmp_path}/out")
    return lambda *more: command(predict.main, *words, *more)


@pytest.fixture
def trained(command, tmp_path, datasets_dir):
    words = (f"outputs_dir={tmp_path}/outputs", f"hydra.run.dir={tmp_path}/out", f"data.datasets_dir={datasets_dir}")
    return lambda *more: command(train.main, *TINY, *words, *more)


# --- code in a checkpoint


def with_zip_pickle(path, payload, checkpoint):
    torch.save({"state_dict": {}, "hyper_parameters": payload}, path)


def with_payload_among_the_weights(path, payload, checkpoint):
    changed(checkpoint, path, lambda content: content["state_dict"].update({"net.extra": payload}))


def with_payload_in_a_callbacks_state(path, payload, checkpoint):
    changed(checkpoint, path, lambda content: content["callbacks"].update(Resumable=payload))


def with_bare_pickle(path, payload, checkpoint):
    path.write_bytes(pickle.dumps(payload))


def with_torchs_old_format(path, payload, checkpoint):
    torch.save({"state_dict": {}, "hyper_parameters": payload}, path, _use_new_zipfile_serialization=False)


def with_a_pickle_in_place_of_its_own(path, payload, checkpoint):
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            evil = entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, pickle.dumps(payload, protocol=2) if evil else source.read(entry))


PICKLES = [
    with_zip_pickle, with_payload_among_the_weights, with_payload_in_a_callbacks_state, with_bare_pickle,
    with_torchs_old_format, with_a_pickle_in_place_of_its_own,
]  # fmt: skip


@pytest.mark.parametrize("write", PICKLES)
@pytest.mark.parametrize("name", ["evil.ckpt", "evil.safetensors"])
def test_a_checkpoint_with_code_runs_none_when_it_is_loaded(tmp_path, mark, checkpoint, write, name):
    write(tmp_path / name, Payload(mark), checkpoint)
    with refused(tmp_path / name):
        load_model(tmp_path / name)


@pytest.mark.parametrize("write", PICKLES)
def test_a_checkpoint_with_code_runs_none_when_it_predicts(tmp_path, mark, checkpoint, predicted, write):
    write(tmp_path / "evil.ckpt", Payload(mark), checkpoint)
    assert "evil.ckpt" in one_line_of(predicted(f"ckpt_path='{tmp_path}/evil.ckpt'"))


@pytest.mark.parametrize("write", PICKLES[:4:3])
def test_a_checkpoint_with_code_runs_none_when_a_run_starts_from_it(tmp_path, mark, checkpoint, trained, write):
    write(tmp_path / "evil.ckpt", Payload(mark), checkpoint)
    assert "evil.ckpt" in one_line_of(trained(f"init_from='{tmp_path}/evil.ckpt'"))


@pytest.mark.parametrize("write", PICKLES)
def test_a_checkpoint_with_code_runs_none_when_its_run_is_resumed(stolen, mark, checkpoint, resume, write):
    write(stolen / "checkpoints" / "last.ckpt", Payload(mark), checkpoint)
    result = resume()
    assert result.code == 1
    assert "last.ckpt: expected a checkpoint" in result.text
    assert "Traceback" not in result.text


def test_the_newest_runs_checkpoint_is_trusted_no_more_than_another(stolen, mark, predicted, checkpoint):
    with_zip_pickle(stolen / "checkpoints" / "best.ckpt", Payload(mark), checkpoint)
    result = predicted()
    assert result.code == 1
    assert "best.ckpt: expected a checkpoint" in result.text


# --- code in an array


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("descr", ["'|O'", "[('a', '|O'), ('b', '<f8')]"])
def test_pickled_objects_in_an_array_are_never_loaded(tmp_path, mark, predicted, version, descr):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (20,), }}\n".encode()
    start = b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(header)) + header
    evil = put(tmp_path / "data0.npy", start + pickle.dumps([Payload(mark)] * 20).ljust(320, b"\0"))
    np.save(tmp_path / "glyphs.npy", GLYPHS)
    np.save(tmp_path / "labels.npy", LABELS)
    for read in (read_images, read_sums, lambda path: open_shards(path.parent, need_sums=False), open_input):
        with refused(evil, "pickled Python objects"):
            read(evil)
    for images, labels in ((evil, tmp_path / "labels.npy"), (tmp_path / "glyphs.npy", evil)):
        with refused(evil, "pickled Python objects"):
            load_glyph_pools("arrays", glyph_images=str(images), glyph_labels=str(labels))


def test_pickled_objects_in_arrays_run_nothing_in_the_scripts(tmp_path, mark, predicted, checkpoint, command):
    root = tmp_path / "root"
    root.mkdir()
    objects = np.array([Payload(mark)] * 20, dtype=object)
    np.save(root / "data0.npy", objects, allow_pickle=True)
    np.save(root / "lab0.npy", objects, allow_pickle=True)
    for place in (root, root / "data0.npy"):
        assert "data0.npy" in one_line_of(predicted(f"ckpt_path='{checkpoint}'", f"input='{place}'"))
    words = ("trainer=cpu", f"hydra.run.dir={tmp_path}/out", f"outputs_dir={tmp_path}/outputs")
    assert "data0.npy" in one_line_of(command(train.main, "data=arrays", f"data.root='{root}'", *words))
    np.save(root / "data0.npy", np.zeros((20, 20, 30), np.uint8))
    assert "lab0.npy" in one_line_of(command(train.main, "data=arrays", f"data.root='{root}'", *words))
    glyphs = (f"data.glyph_images='{root}/lab0.npy'", f"data.glyph_labels='{root}/lab0.npy'")
    places = (f"data.datasets_dir={tmp_path}/sets", *words)
    assert "lab0.npy" in one_line_of(command(train.main, "data=demo", "data.glyphs=arrays", *glyphs, *places))


# --- names of code in plain values


@pytest.mark.parametrize("change", [
    lambda values, mark: values.update(_target_="os.mkdir", path=str(mark)),
    lambda values, mark: values.update(_instantiator="os.mkdir"),
    lambda values, mark: values.update(network="os.mkdir"),
    lambda values, mark: values.update(network="digitsum.models.two_conv.TwoConv"),
    lambda values, mark: values.update(network={"_target_": "os.mkdir", "path": str(mark)}),
    lambda values, mark: values.update(network=["two_conv"]),
    lambda values, mark: values.update(options={"_target_": "os.mkdir", "path": str(mark)}),
    lambda values, mark: values["options"].update(pooling="os.mkdir"),
    lambda values, mark: values["options"].update(pooling={"_target_": "os.mkdir", "path": str(mark)}),
    lambda values, mark: values["optimizer"].update(_target_="os.mkdir"),
    lambda values, mark: values["optimizer"].update(schedule="os.mkdir"),
    lambda values, mark: values.update(image_size={"_target_": "os.mkdir", "path": str(mark)}),
    lambda values, mark: values.update(train_mean="__import__('os').mkdir('executed')"),
])  # fmt: skip
def test_hyperparameters_that_name_code_are_refused(tmp_path, monkeypatch, mark, checkpoint, change):
    monkeypatch.chdir(tmp_path)
    path = changed(checkpoint, tmp_path / "evil.ckpt", lambda content: change(content["hyper_parameters"], mark))
    with refused(path):
        load_model(path)


@pytest.mark.parametrize("description", [
    {"kind": "os.mkdir"}, {"kind": "composed", "_target_": "os.mkdir"}, {"_target_": "os.mkdir"},
    {"kind": "arrays", "root": {"_target_": "os.mkdir"}}, [["kind", "composed"], ["layout", 3]], "composed", None, 3,
])  # fmt: skip
def test_a_description_of_data_that_names_code_is_refused(tmp_path, description):
    with refused("x.ckpt"):
        data_of(description, {}, Path("x.ckpt"))


@pytest.mark.parametrize("values", [[1, 2], "data", 3])
def test_a_checkpoint_whose_data_are_no_description_predicts_nothing(tmp_path, checkpoint, predicted, values):
    path = changed(checkpoint, tmp_path / "x.ckpt", lambda content: content.update(datamodule_hyper_parameters=values))
    assert "x.ckpt" in one_line_of(predicted(f"ckpt_path='{path}'"))


# --- code in the config of a run


def nested(mark, target="os.mkdir"):
    return {"_target_": target, "_args_": [str(mark)]}


STOPPING = "lightning.pytorch.callbacks.EarlyStopping"
MONITOR = "lightning.pytorch.callbacks.LearningRateMonitor"

CONFIGS = {
    "callback os.mkdir": lambda c, m: c["callbacks"].update(x={"_target_": "os.mkdir", "path": str(m)}),
    "callback os.system": lambda c, m: c["callbacks"].update(x={"_target_": "os.system", "command": f"mkdir {m}"}),
    "callback Popen": lambda c, m: c["callbacks"].update(x={"_target_": "subprocess.Popen", "args": ["mkdir", str(m)]}),
    "callback eval": lambda c, m: c["callbacks"].update(
        x={"_target_": "builtins.eval", "_args_": [f"__import__('os').mkdir('{m}')"]}
    ),
    "callback by another path": lambda c, m: c["callbacks"].update(
        x={"_target_": "lightning.pytorch.callbacks.os.mkdir", "path": str(m)}
    ),
    "callback beside Lightning's": lambda c, m: c["callbacks"].update(
        x={"_target_": "lightning.pytorch.callbacks.model_checkpoint.os.mkdir", "path": str(m)}
    ),
    "callback that is a list": lambda c, m: c["callbacks"].update(x=[nested(m)]),
    "callbacks that are a list": lambda c, m: c.update(callbacks=[nested(m)]),
    "callbacks with a target": lambda c, m: c["callbacks"].update(nested(m)),
    "nested in a schema's callback": lambda c, m: c["callbacks"]["checkpoint"].update(save_last=nested(m)),
    "nested in a number": lambda c, m: c["callbacks"].update(x={"_target_": STOPPING, "patience": nested(m)}),
    "nested in Lightning's callback": lambda c, m: c["callbacks"].update(
        x={"_target_": MONITOR, "logging_interval": nested(m)}
    ),
    "nested twice": lambda c, m: c["callbacks"]["checkpoint"].update(save_last={"a": {"b": [nested(m)]}}),
    "nested in a list": lambda c, m: c["callbacks"]["checkpoint"].update(save_last=[nested(m)]),
    "callback _partial_": lambda c, m: c["callbacks"].update(x={"_target_": MONITOR, "_partial_": True}),
    "callback _args_": lambda c, m: c["callbacks"].update(x={"_target_": MONITOR, "_args_": [nested(m)]}),
    "callback _recursive_": lambda c, m: c["callbacks"].update(x={"_target_": MONITOR, "_recursive_": False}),
    "schema's callback _args_": lambda c, m: c["callbacks"]["checkpoint"].update(_args_=[nested(m)]),
    "schema's callback _partial_": lambda c, m: c["callbacks"]["checkpoint"].update(_partial_=True),
    "target that is no name": lambda c, m: c["callbacks"].update(x={"_target_": nested(m)}),
    "logger os.mkdir": lambda c, m: c.update(logger={"_target_": "os.mkdir", "path": str(m)}),
    "logger Popen": lambda c, m: c.update(logger={"_target_": "subprocess.Popen", "args": f"mkdir {m}", "shell": True}),
    "logger nested": lambda c, m: c["logger"].update(name=nested(m)),
    "logger _args_": lambda c, m: c["logger"].update(_args_=[nested(m)]),
    "logger unknown argument": lambda c, m: c["logger"].update(log_graph=nested(m)),
    "logger that is a list": lambda c, m: c.update(logger=[nested(m)]),
    "trainer os.mkdir": lambda c, m: c["trainer"].update(_target_="os.mkdir", path=str(m)),
    "trainer of the right arguments": lambda c, m: c["trainer"].update(_target_="builtins.dict"),
    "trainer nested in devices": lambda c, m: c["trainer"].update(devices=nested(m)),
    "trainer nested in a list": lambda c, m: c["trainer"].update(devices=[nested(m)]),
    "trainer nested in a deeper list": lambda c, m: c["trainer"].update(devices=[[nested(m)]]),
    "trainer nested in precision": lambda c, m: c["trainer"].update(precision=nested(m, "pathlib.Path.mkdir")),
    "trainer nested in a limit": lambda c, m: c["trainer"].update(limit_val_batches={"a": nested(m)}),
    "trainer nested in a string": lambda c, m: c["trainer"].update(profiler=nested(m)),
    "trainer plugins": lambda c, m: c["trainer"].update(plugins=[nested(m)]),
    "trainer callbacks": lambda c, m: c["trainer"].update(callbacks=[nested(m)]),
    "trainer _partial_": lambda c, m: c["trainer"].update(_partial_=True),
    "trainer as text": lambda c, m: c.update(trainer=f"{{_target_: os.mkdir, path: {m}}}"),
    "model _target_": lambda c, m: c["model"].update(nested(m)),
    "model network": lambda c, m: c["model"].update(network="os.mkdir"),
    "model dotted network": lambda c, m: c["model"].update(network="digitsum.models.two_conv.TwoConv"),
    "model nested": lambda c, m: c["model"].update(pooling=nested(m)),
    "data _target_": lambda c, m: c["data"].update(nested(m)),
    "data nested": lambda c, m: c["data"].update(glyphs=nested(m)),
    "data nested in a free value": lambda c, m: c["data"]["layout"].update(num_digits=nested(m)),
    "interpolated home": lambda c, m: c["data"].update(glyphs="${oc.env:HOME}"),
    "interpolated key": lambda c, m: c["callbacks"].update({"${oc.env:HOME}": None}),
    "interpolated seed": lambda c, m: c.update(seed="${oc.decode:1}"),
    "interpolation in pieces": lambda c, m: c.update(monitor="${monitor", init_from="}"),
    "interpolated run folder": lambda c, m: c.update(monitor=f"${{run_folder:{m},null}}"),
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_runs_config_that_names_code_is_refused_and_runs_none(stolen, mark, tmp_path, monkeypatch, resume, change):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((stolen / "config.yaml").read_text())
    change(config, mark)
    (stolen / "config.yaml").write_text(yaml.safe_dump(config))
    before = tree(stolen)
    result = resume()
    text = one_line_of(result)
    assert "config.yaml" in text or "layout.num_digits: expected" in text
    after = tree(stolen)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("line", [
    "x: !!python/object/apply:os.mkdir [{mark}]", "x: !!python/object/new:os.mkdir [{mark}]",
    "x: !!python/object/apply:os.system ['mkdir {mark}']", "x: !!python/name:os.mkdir", "x: !!python/module:os",
    "x: !!python/object:os.mkdir {{}}", "? !!python/object/apply:os.mkdir [{mark}]\n: 1", "x: !os.mkdir {mark}",
    "x: !!python/tuple [1, 2]", "x: &a {{y: *a}}", "<<: &a {{}}\nx: *a",
])  # fmt: skip
def test_tags_in_a_runs_config_make_nothing(stolen, mark, resume, line):
    with (stolen / "config.yaml").open("a") as file:
        file.write(line.format(mark=mark) + "\n")
    assert "config.yaml: expected a run's config, but it does not parse" in one_line_of(resume())


# --- places outside of the folder


def test_a_resumed_run_keeps_to_its_folder_whatever_its_config_says(stolen, resume, tmp_path):
    outside = tmp_path / "outside"
    config = yaml.safe_load((stolen / "config.yaml").read_text())
    config.update(run_dir=str(outside / "run"), outputs_dir=str(outside / "outputs"), init_from=str(outside / "x.ckpt"))
    config["callbacks"]["checkpoint"]["dirpath"] = str(outside / "checkpoints")
    config["callbacks"]["x"] = {
        "_target_": "lightning.pytorch.callbacks.OnExceptionCheckpoint", "dirpath": str(outside)
    }  # fmt: skip
    config["logger"]["save_dir"] = str(outside / "logs")
    (stolen / "config.yaml").write_text(yaml.safe_dump(config))
    result = resume()
    assert result.code == 0, result.text
    assert not outside.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    # composed data sets are kept where this machine keeps them, not where the record says
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"runs", "datasets"}
    assert torch.load(stolen / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    recorded = yaml.safe_load((stolen / "config.yaml").read_text())
    assert recorded["run_dir"] == str(stolen)
    assert str(outside) not in yaml.safe_dump({**recorded, "init_from": None})


@pytest.mark.parametrize("value", ["../../outside", "/outside", "..", "a/b", "a\\b", "C:outside", "{epoch:/>9}"])
@pytest.mark.parametrize(("group", "key"), [("checkpoint", "filename"), ("logger", "name"), ("logger", "version")])
def test_a_recorded_name_that_leads_out_of_the_folder_is_refused(stolen, resuming, group, key, value):
    config = yaml.safe_load((stolen / "config.yaml").read_text())
    (config["logger"] if group == "logger" else config["callbacks"][group])[key] = value
    (stolen / "config.yaml").write_text(yaml.safe_dump(config))
    with refused(stolen / "config.yaml", "expected a name"):
        recorded_config(resuming, stolen, [])


@pytest.mark.parametrize("value", ["best", "{epoch:02d}-{step}", "{epoch}-{val/mae:.2f}"])
def test_a_recorded_name_of_lightnings_form_is_taken(stolen, resuming, value):
    config = yaml.safe_load((stolen / "config.yaml").read_text())
    config["callbacks"]["checkpoint"]["filename"] = value
    (stolen / "config.yaml").write_text(yaml.safe_dump(config))
    cfg = recorded_config(resuming, stolen, [])
    assert cfg.callbacks.checkpoint.filename == value


def state_of(content):
    (state,) = (state for state in content["callbacks"].values() if "best_model_path" in state)
    return state


PATHS = [
    "{run}/checkpoints/../../victim.ckpt", "{run}/checkpoints/../..", "{run}/checkpoints/..", "{outside}/victim.ckpt",
    "file://{outside}/victim.ckpt", "../victim.ckpt", "..\\victim.ckpt", "memory://x", "", ".", "..", 3, None, "a\0b",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_the_checkpoints_that_a_checkpoint_names_are_beside_it(stolen, tmp_path, path):
    path = path.format(run=stolen, outside=stolen.parent) if isinstance(path, str) else path

    def change(content):
        state_of(content).update(
            best_model_path=path, kth_best_model_path=path, last_model_path=path, best_k_models={path: 1.0}
        )

    last = stolen / "checkpoints" / "last.ckpt"
    changed(last, last, change)
    state = state_of(WholeCheckpointIO().load_checkpoint(last, weights_only=True))
    found = [state[key] for key in ("best_model_path", "kth_best_model_path", "last_model_path")]
    for name in (*found, *state["best_k_models"]):
        assert name == "" or (Path(name).parent == last.parent and name.endswith(".ckpt"))
    assert state["dirpath"] == str(last.parent)


@pytest.mark.parametrize("score", [0.0, 1e9], ids=["read", "deleted"])
def test_a_file_outside_that_a_checkpoint_calls_the_best_is_neither_read_nor_deleted(
    stolen, resume, tmp_path, monkeypatch, score
):
    victim = Path(shutil.copy(stolen / "checkpoints" / "best.ckpt", stolen.parent / "victim.ckpt"))
    path = f"{stolen}/checkpoints/../../victim.ckpt"

    def change(content):
        state = state_of(content)
        state.update(
            dirpath=str(stolen / "checkpoints"), best_model_path=path, kth_best_model_path=path, last_model_path=path,
            best_k_models={path: torch.tensor(score)}, kth_value=torch.tensor(score),
            best_model_score=torch.tensor(score),
        )  # fmt: skip

    last = stolen / "checkpoints" / "last.ckpt"
    changed(last, last, change)
    original, read = victim.read_bytes(), []
    reader = digitsum.training.run.read_checkpoint
    monkeypatch.setattr(digitsum.training.run, "read_checkpoint", lambda path: read.append(path) or reader(path))
    result = resume()
    assert result.code == 0, result.text
    assert victim.read_bytes() == original
    assert all(path.resolve().parent == last.parent.resolve() for path in read)
    assert sorted(file.name for file in stolen.parent.iterdir()) == ["stolen", "victim.ckpt"]


def test_a_run_that_was_moved_is_resumed_with_its_own_best_checkpoint(stolen, resume, finished_run):
    last = stolen / "checkpoints" / "last.ckpt"

    def change(content):  # a best score that no later epoch reaches
        state = state_of(content)
        state.update(
            best_k_models=dict.fromkeys(state["best_k_models"], torch.tensor(0.0)), kth_value=torch.tensor(0.0),
            best_model_score=torch.tensor(0.0),
        )  # fmt: skip

    changed(last, last, change)
    assert str(finished_run) in state_of(torch.load(last, weights_only=True))["best_model_path"]
    original = (stolen / "checkpoints" / "best.ckpt").read_bytes()
    result = resume()
    assert result.code == 0, result.text
    assert "dirpath has changed" not in result.text
    assert (stolen / "checkpoints" / "best.ckpt").read_bytes() == original
    rows = [json.loads((folder / "metrics.json").read_text())["val"] for folder in (stolen, finished_run)]
    assert rows[0]["model"] == pytest.approx(rows[1]["model"])
    assert rows[0]["last"] != rows[1]["last"]


def test_a_link_in_the_place_of_the_last_checkpoint_is_followed_and_its_target_kept(stolen, resume, tmp_path):
    last, target = stolen / "checkpoints" / "last.ckpt", tmp_path / "elsewhere.ckpt"
    last.rename(target)
    last.symlink_to(target)
    original = target.read_bytes()
    result = resume()
    assert result.code == 0, result.text
    assert torch.load(last, weights_only=True)["epoch"] == 1
    assert target.read_bytes() == original


def test_names_in_a_data_sets_description_lead_nowhere(tmp_path):
    composition = Composition(num_train=10, num_val=10, num_test=10)
    folder = cached_dataset(composition, tmp_path / "sets")
    expected = open_shards(folder / "train").fingerprint()
    (folder / "dataset.json").write_text(
        '{"fingerprint": "../../x", "glyphs": "../../x", "shards": ["../../x.npy"], "train": "../../../outside"}'
    )
    before = tree(tmp_path)
    assert cached_dataset(composition, tmp_path / "sets") == folder
    assert open_shards(folder / "train").fingerprint() == expected
    with refused(folder):
        write_dataset(composition, folder)
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


@pytest.mark.parametrize("glyphs", ["../../outside", "/outside", "os.mkdir"])
def test_a_source_of_glyphs_that_is_a_path_makes_no_folder(tmp_path, glyphs):
    with refused(repr(glyphs)):
        cached_dataset(Composition(glyphs=glyphs, num_train=1, num_val=1, num_test=1), tmp_path / "a" / "sets")
    assert not list(tmp_path.iterdir())


# --- claims that would fill the memory


def test_tensors_that_claim_more_than_their_file_holds_take_no_memory(tmp_path, checkpoint):
    def change(content):
        # as large as the machine could just bear, so that this fails instead of the allocation
        content["hyper_parameters"]["options"]["hidden_units"] = 300_000
        features = content["state_dict"]["net.dense.weight"].shape[1]
        shapes = {"dense.weight": (300_000, features), "dense.bias": (300_000,), "output.weight": (1, 300_000)}
        for name, shape in shapes.items():
            content["state_dict"][f"net.{name}"] = torch.zeros(1).expand(shape)

    path = changed(checkpoint, tmp_path / "evil.ckpt", change)
    assert path.stat().st_size < 100_000
    with little_memory(), refused(path):
        load_model(path)


def without_memory(shape):
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize("tensor", [
    torch.zeros(1).expand(10**12), torch.zeros(1).as_strided((10**6, 10**6), (0, 0)), without_memory(10**12),
    torch.sparse_coo_tensor(size=(10**6, 10**6), check_invariants=True), torch.zeros(8, dtype=torch.complex64),
    torch.zeros(8, dtype=torch.int8), torch.zeros(0), "no tensor", None, [0.0] * 8,
], ids=["expanded", "strided", "meta", "sparse", "complex", "whole", "empty", "text", "none", "list"])  # fmt: skip
def test_a_tensor_of_an_absurd_kind_is_refused(tmp_path, checkpoint, tensor):
    path = changed(
        checkpoint, tmp_path / "evil.ckpt", lambda content: content["state_dict"].update({"net.dense.bias": tensor})
    )
    with little_memory(), refused(path):
        load_model(path)


@pytest.mark.parametrize("change", [
    lambda values: values["options"].update(hidden_units=10**9),
    lambda values: values["options"].update(hidden_units=300_000),
    lambda values: values["options"].update(hidden_units=10**30),
    lambda values: values["options"].update(conv1_channels=10**9, conv2_channels=10**9),
    lambda values: values["options"].update(kernel_size=10**9),
    lambda values: values["options"].update(kernel_size=float("nan")),
    lambda values: values["options"].update(conv_dropout=float("nan")),
    lambda values: values.update(image_size=[10**6, 10**6]), lambda values: values.update(image_size=[10**30, 10**30]),
    lambda values: values.update(image_size=[40]), lambda values: values.update(image_size=[]),
    lambda values: values.update(image_size=[-40, -168]), lambda values: values.update(image_size=[40.5, 168.5]),
    lambda values: values.update(image_size={0: 40}), lambda values: values.update(image_size=None),
    lambda values: values.update(train_mean=float("nan")), lambda values: values.update(train_mean=None),
    lambda values: values.update(train_mean="x"), lambda values: values.update(train_mean=10**400),
    lambda values: values["optimizer"].update(lr="x"), lambda values: values.clear(),
    lambda values: values.update({3: 4}), lambda values: values.update(options=[1]),
])  # fmt: skip
def test_hyperparameters_that_claim_absurd_sizes_are_refused_at_once(tmp_path, checkpoint, change):
    path = changed(checkpoint, tmp_path / "evil.ckpt", lambda content: change(content["hyper_parameters"]))
    with little_memory(), refused(path):
        load_model(path)


def test_weights_of_absurd_shapes_do_not_start_a_run(tmp_path, checkpoint, trained):
    path = changed(
        checkpoint,
        tmp_path / "evil.ckpt",
        lambda content: content["state_dict"].update({"net.dense.weight": torch.zeros(1).expand(10**6, 10**6)}),
    )
    result = trained(f"init_from='{path}'")
    assert result.code == 1
    assert "evil.ckpt do not fit" in result.text
    assert "Traceback" not in result.text


# --- a checkpoint of the network that reads digits


def write_reader(path, change):
    module = SumModule("reader", (40, 168), ReaderSettings(width=1))
    values = {**module.hparams, "options": dict(module.hparams["options"])}
    content = {"state_dict": module.state_dict(), "hyper_parameters": values}
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize("change", [
    lambda values: values["options"].update(width=10**9), lambda values: values["options"].update(width=10**30),
    lambda values: values["options"].update(width="x"), lambda values: values["options"].update(num_digits=[1, "x"]),
    lambda values: values["options"].update(length_penalty=1e300), lambda values: values.update(image_size=[40, 10**9]),
    lambda values: values.update(image_size=[40.5, 168]), lambda values: values.update(image_size=[40, float("nan")]),
])  # fmt: skip
def test_a_readers_absurd_hyperparameters_are_refused_at_once(tmp_path, change):
    write_reader(tmp_path / "evil.ckpt", lambda content: change(content["hyper_parameters"]))
    with little_memory(), refused(tmp_path / "evil.ckpt"):
        load_model(tmp_path / "evil.ckpt")


def test_a_reader_of_up_to_a_billion_digits_takes_no_more_memory_than_its_columns_need(tmp_path):
    def claim(content):
        content["hyper_parameters"]["options"]["num_digits"] = [1, 10**9]

    write_reader(tmp_path / "evil.ckpt", claim)
    with little_memory(), torch.inference_mode():
        prediction = load_model(tmp_path / "evil.ckpt").predict(torch.zeros(1, 40, 168))
    assert prediction.probs.shape == (1, 9 * 21 + 1)


def test_a_readers_weights_that_give_no_numbers_are_one_line(tmp_path, predicted):
    write_reader(tmp_path / "evil.ckpt", lambda content: content["state_dict"]["net.norm4.running_var"].fill_(-1))
    np.save(tmp_path / "images.npy", np.zeros((2, 40, 168), np.uint8))
    words = (f"input={tmp_path}/images.npy", "trainer.enable_progress_bar=false")
    result = predicted(f"ckpt_path='{tmp_path}/evil.ckpt'", *words)
    assert "no numbers" in one_line_of(result)
