"""Settings as words of a command line, and commands to paste."""

import pytest
from conftest import ROOT, pasted
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from digitsum.cli.overrides import command_line, shell_quote, shell_words, to_overrides

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
    script, settings = pasted(command_line("scripts/predict.py", ckpt_path=f"{folder}/best.ckpt", outputs_dir=folder))
    assert script == "scripts/predict.py"
    expected = folder if folder.startswith("/") else f"{ROOT}/{folder}"
    assert settings["ckpt_path"] == f"{folder}/best.ckpt"
    assert settings["outputs_dir"].endswith(expected if folder.startswith("/") else f"/{folder}")


@given(st.text(st.sampled_from("\\'\"$${}=,[]() ~é\na1e.-"), max_size=12))
def test_any_text_is_parsed_back_exactly(text):
    (word,) = to_overrides({"key": text})
    assert parsed(word) == text


def parsed(word):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([word])
    return OmegaConf.create({"key": override.value()}).key


def test_the_default_outputs_folder_is_not_named():
    assert shell_words(resume="/a", outputs_dir=f"{ROOT}/outputs") == "resume=/a"
    assert shell_words(resume="/a", outputs_dir="/tmp/x") == "resume=/a outputs_dir=/tmp/x"


def test_an_ordinary_command_has_no_quotes_and_one_with_a_space_is_legible():
    assert command_line("scripts/train.py", "data=mnist", seed=1) == "python scripts/train.py data=mnist seed=1"
    assert shell_words(input="my digits/a.npy") == "\"input='my digits/a.npy'\""
    assert shell_quote("/my digits") == "'/my digits'"
