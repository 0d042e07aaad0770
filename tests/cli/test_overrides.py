"""Settings as words of a command line, and commands to paste."""

import re
import signal
from pathlib import Path

import make_data
import predict
import pytest
import train
from conftest import ROOT, STRANGE, TINY, parsed, pasted
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from digitsum.cli.overrides import command_line, shell_quote, shell_words, to_overrides
from digitsum.cli.sweep_callback import SweepReport
from digitsum.cli.tune import conclude
from digitsum.training.signals import Interrupted

FOLDERS = [
    "/home/Bob's digits",
    "/home/digitsum-main (1)",
    "/home/a=b",
    "/home/x,y",
    "/home/josé",
    "/home/$HOME",
    "/home/${oc.env:HOME}",
    "/home/back\\slash",
    "/home/ends so\\",
    "/home/\\'",
    "/home/[a] {b} <c>",
    "/home/`id`; id & id | id > x",
    '/home/"quoted"',
    "/home/~/!!/*?/#/%/:@+",
    "/home/line\nand tab\t",
    "relative 1e3",
    "/home/plain-1.0_a/2026-11-25_10-00-00",
]


@pytest.mark.parametrize(
    "value",
    [1e-05, 0.3, 2.5e20, -1, 64, True, False, None, "max", "true", "null", "1e-3", "a b", "it's", "a,b", "", "[1"],
)
def test_a_setting_is_the_same_on_the_command_line(value):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [word.replace("key", "+data.key") for word in to_overrides({"key": value})])
    assert cfg.data.key == value
    assert type(cfg.data.key) is type(value) or value == 2.5e20


def test_numbers_are_rounded_to_what_people_can_type():
    (word,) = to_overrides({"model.lr": 0.0011781448719376517})
    assert word == "model.lr=0.00117814"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_command_that_is_pasted_gives_hydra_the_folder_that_was_meant(folder):
    command = command_line("scripts/predict.py", ckpt_path=f"{folder}/best.ckpt", outputs_dir=folder)
    script, *words = pasted(command)
    assert script == "scripts/predict.py"
    assert parsed(words) == {"ckpt_path": f"{folder}/best.ckpt", "outputs_dir": str(Path(folder).absolute())}


@given(st.text(st.sampled_from("\\'\"$${}=,[]() ~é\na1e.-"), max_size=12))
def test_any_text_is_parsed_back_exactly(text):
    assert parsed(to_overrides({"key": text})) == {"key": text}


def test_the_default_outputs_folder_is_not_named():
    assert shell_words(resume="/a", outputs_dir=f"{ROOT}/outputs") == "resume=/a"
    assert shell_words(resume="/a", outputs_dir="/there") == "resume=/a outputs_dir=/there"


def test_an_ordinary_command_has_no_quotes_and_one_with_a_space_is_legible():
    assert command_line("scripts/train.py", "data=mnist", seed=1) == "python scripts/train.py data=mnist seed=1"
    assert shell_words(input="my digits/a.npy") == "\"input='my digits/a.npy'\""
    assert shell_quote("/my digits") == "'/my digits'"


# what commands print


def printed(text):
    return re.findall(r"(?:^  |go on with: )((?:python|tensorboard) .*)$", text, re.MULTILINE)


def test_the_commands_at_the_end_of_a_run_can_be_pasted(command, tmp_path, datasets_dir):
    outputs = tmp_path / STRANGE
    result = command(train.main, *TINY, f"data.datasets_dir={datasets_dir}", *to_overrides({"outputs_dir": outputs}))
    assert result.code == 0, result.text
    predicting, looking = printed(result.out)
    script, *words = pasted(predicting)
    assert script == "scripts/predict.py"
    assert Path(parsed(words)["ckpt_path"]).is_file()
    assert parsed(words)["outputs_dir"] == str(outputs)
    assert pasted(looking) == ["--logdir", str(outputs)]
    result = command(predict.main, *words)
    assert result.code == 0, result.text
    assert (outputs / "predictions").is_dir()


def test_the_commands_after_a_stop_can_be_pasted(command, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(train, "run", stopped)
    (outputs,) = to_overrides({"outputs_dir": tmp_path / STRANGE})
    result = command(train.main, outputs)
    assert result.code == 143
    script, *words = pasted(*printed(result.out))
    assert script == "scripts/train.py"
    (run,) = (tmp_path / STRANGE / "runs").iterdir()
    assert parsed(words) == {"resume": str(run), "outputs_dir": str(tmp_path / STRANGE)}
    monkeypatch.setattr(SweepReport, "on_multirun_start", lambda *_, **__: None)
    result = command(train.main, "-m", outputs, "seed=0,1")
    (word,) = re.findall(r"go on with the same command and (.*)", result.out)
    (sweep,) = (tmp_path / STRANGE / "sweeps").iterdir()
    assert parsed(pasted(f"python {word}")) == {"hydra.sweep.dir": str(sweep)}


@pytest.mark.parametrize("default", [True, False])
def test_the_commands_at_the_end_of_a_sweep_can_be_pasted(tmp_path, capfd, default):
    sweep = tmp_path / STRANGE / "sweep"
    (sweep / "00").mkdir(parents=True)
    report = SweepReport()
    report.count, report._monitor = 1, "val/mae"
    report._outputs_dir = f"{ROOT}/outputs" if default else str(tmp_path / STRANGE)
    job = {"num": 0}
    hydra = {"hydra": {"runtime": {"output_dir": str(sweep / "00")}, "job": job, "overrides": {"task": []}}}
    report.on_job_end(OmegaConf.create(hydra), JobReturn(status=JobStatus.COMPLETED, _return_value=2.0))
    comparing, looking = printed(capfd.readouterr().out)
    more = [] if default else ["--outputs-dir", str(tmp_path / STRANGE)]
    assert pasted(comparing) == ["scripts/compare.py", str(sweep), *more]
    assert pasted(looking) == ["--logdir", str(sweep)]


def test_the_command_that_trains_a_winner_again_can_be_pasted(search, caplog):
    found = search(space={"init_from": {"type": "categorical", "choices": [f"/{STRANGE}", "/"]}})
    with found.next_trial(1) as trial:
        found.tell(trial, 1.0)
    with caplog.at_level("INFO", logger="digitsum"):
        conclude(found, to_overrides({"data.root": f"/data/{STRANGE}"}), "val/mae")
    script, *words = pasted(*printed(caplog.text))
    assert script == "scripts/train.py"
    assert parsed(words) == {"data.root": f"/data/{STRANGE}", **trial.params}


def test_the_command_that_trains_on_a_new_data_set_can_be_pasted(command, tmp_path):
    sizes = ("data.num_train=30", "data.num_val=10", "data.num_test=10")
    result = command(make_data.main, *to_overrides({"out": tmp_path / STRANGE}), *sizes)
    assert result.code == 0, result.text
    script, *words = pasted(*printed(result.out))
    assert script == "scripts/train.py"
    assert parsed(words) == {"data": "arrays", "data.root": str(tmp_path / STRANGE)}
