"""Half precision only where the processor has it."""

import pytest
import torch
import train
from conftest import TINY

from digitsum.errors import InputError
from digitsum.runs.locate import read_config
from digitsum.training.precision import native_precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, "32-true"),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "32-true"),
        ({"avx512_f": True, "avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True}, "bf16-mixed"),
        ({}, "32-true"),  # a processor that torch asks nothing of
    ],
)
def test_a_cpu_without_bfloat16_units_computes_in_float32(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert native_precision("cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_without_bfloat16_units_computes_in_float32(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert native_precision("cuda") == expected


def test_auto_is_the_accelerator_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert native_precision("auto") == "bf16-mixed"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert native_precision("auto") == native_precision("gpu") == "32-true"


def test_an_unknown_accelerator_is_refused_with_one_line():
    with pytest.raises(InputError, match=r"^trainer\.precision: expected auto, cpu, gpu, cuda or mps .*, got tpu"):
        native_precision("tpu")


def test_the_precision_that_was_chosen_is_recorded_and_kept_on_another_machine(
    command, tmp_path, datasets_dir, monkeypatch
):
    words = (*TINY, f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}")
    chosen = native_precision("cpu")
    result = command(train.main, *words, "trainer.precision=auto", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 0, result.text
    assert f"precision: {chosen}" in result.text
    assert read_config(tmp_path / "run")["trainer"]["precision"] == chosen
    other = {"32-true": {"amx_bf16": True}, "bf16-mixed": {}}[chosen]  # the run goes on where another one is native
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: other)
    result = command(train.main, f"resume='{tmp_path}/run'", "trainer.max_epochs=2", f"outputs_dir={tmp_path}")
    assert result.code == 0, result.text
    assert f"precision: {chosen}" in result.text
