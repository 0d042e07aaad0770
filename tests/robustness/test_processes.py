"""Threads, forked processes and compiled code that was kept: what a process finds, or leaves to others."""

import os
import subprocess
import sys

import pytest

LOAD = """
import os, sys, torch
from digitsum.models.fast_layers import ConvPool
from digitsum.models.module import SumModule
before = torch.get_num_threads()
torch.manual_seed(0)
module = SumModule("two_conv", (12, 20)).eval()
images = torch.randint(2, 256, (40, 12, 20), dtype=torch.uint8)
"""


def ran(code, **environment):
    """What a new process prints that runs `code` after `LOAD`."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD + code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_keeps_the_number_of_threads_that_it_was_given(threads):
    step = "module.net(images).sum().backward(); print(before, torch.get_num_threads())"
    before, after = ran(step, OMP_NUM_THREADS=str(threads), NUMBA_NUM_THREADS="2")
    assert before == after  # which is less than what was given on a machine of fewer cores
    assert int(before) <= threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs an operating system with fork")
def test_a_process_forked_from_one_that_has_predicted_predicts_the_same(finished_run):
    code = f"""
import digitsum
model = digitsum.load_model({str(finished_run / "checkpoints" / "best.ckpt")!r})
images = torch.randint(2, 256, (64, *model.image_size), dtype=torch.uint8)
expected = model(images)
(torch.randn(600, 600) @ torch.randn(600, 600)).sum()  # torch has started its threads, too
child = os.fork()
if child == 0:
    os._exit(0 if torch.allclose(model(images), expected, atol=1e-4) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert ran(code, OMP_NUM_THREADS="2") == ["0"]


def test_several_threads_may_predict_at_once():
    code = """
from concurrent.futures import ThreadPoolExecutor
with torch.no_grad():
    expected = module(images)
    with ThreadPoolExecutor(4) as pool:
        print(all(torch.equal(found, expected) for found in pool.map(lambda _: module(images).detach(), range(40))))
"""
    assert ran(code, OMP_NUM_THREADS="1") == ["True"]


def test_damaged_compiled_code_is_compiled_anew_and_named(tmp_path):
    kept = {"NUMBA_CACHE_DIR": str(tmp_path)}
    predict = "print(module(images).sum().item())"
    expected = ran(predict, **kept)
    indices = list(tmp_path.rglob("*.nbi"))
    assert indices
    for path in indices:
        path.write_bytes(path.read_bytes()[:20])
    done = subprocess.run(
        [sys.executable, "-c", LOAD + predict], env=os.environ | kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected
    assert str(tmp_path) in done.stderr
    assert "delete it" in done.stderr


def test_no_assertion_or_docstring_is_needed_to_train_and_predict():
    code = "module.net.loss(module.net(images), images[:, 0, 0]).backward(); print(module.net.training)"
    done = subprocess.run([sys.executable, "-OO", "-c", LOAD + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
