"""The README's own commands and its Python, as a newcomer types them, at the size of the smallest run."""

import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, TINY, TINY_READER, TINY_RUN
from markdown_it import MarkdownIt
from PIL import Image

NOT_RUN = {
    "pip install -e . -c constraints.txt": "it would change the environment that the tests run in; .ci/run does it",
    "pip install -e .[dev] -c constraints.txt": "it would change the environment, too",
    "python -m pytest": "it would run itself",
    "python scripts/demo.py": "it serves until Ctrl-C; tests/scripts/test_demo.py starts it",
}


def blocks(page="README.md"):
    """The page's code blocks, those of Python apart."""
    tokens = MarkdownIt("commonmark").parse((ROOT / page).read_text())
    python = [token.content for token in tokens if token.type == "fence" and token.info == "python"]
    return python, [token.content for token in tokens if token.type == "code_block"]


def commands():
    """The README's commands as lists of words, those joined by `&&` apart; its tree of files is none."""
    for block in blocks()[1]:
        for line in block.splitlines() if not block.startswith("digitsum/") else ():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                yield words[: words.index("&&")]
                words = words[words.index("&&") + 1 :]
            yield words


def made_small(words, tmp_path, datasets_dir):
    """A command in this environment, with what makes it small; results go below `tmp_path`."""
    program, *rest = words
    if program == "tensorboard":  # else it would serve for ever
        return [sys.executable, "-m", "tensorboard.main", *rest, "--inspect"]
    assert program == "python"
    script, *rest = rest
    places = [f"outputs_dir={tmp_path / 'outputs'}", f"data.datasets_dir={datasets_dir}"]
    more = {
        "scripts/train.py": [*(TINY_READER[1:] if "experiment=reader" in rest else TINY), *places],
        "scripts/predict.py": ["trainer=cpu", places[0]],
        "scripts/compare.py": ["--outputs-dir", str(tmp_path / "outputs")],
        "scripts/tune.py": [*(word for word in TINY_RUN if "batch_size" not in word), "num_trials=1", *places],
    }
    return [sys.executable, str(ROOT / script), *rest, *more[script]]


def test_a_command_that_is_not_run_is_one_of_the_readme():
    assert NOT_RUN.keys() <= {" ".join(words) for words in commands()}


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_another(tmp_path, datasets_dir):
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.pad(np.zeros((40, 12), np.uint8), 30, constant_values=220)).save(tmp_path / "photos" / "one.png")
    for words in commands():
        if " ".join(words) in NOT_RUN:
            continue
        command = made_small(words, tmp_path, datasets_dir)
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, shlex.join(words) + "\n" + done.stdout + done.stderr
    left = tmp_path / "outputs"
    assert len(list(left.glob("runs/*/metrics.json"))) == 2
    assert len(list(left.glob("sweeps/*/*/metrics.json"))) == 4
    assert len(list(left.glob("predictions/*/overlays*.png"))) == 2
    assert len(list(left.glob("comparisons/*/comparison.md"))) == 1
    assert len(list(left.glob("studies/*/trials.csv"))) == 1


@pytest.mark.parametrize("page", ["README.md", "docs/predicting.md"])
@pytest.mark.parametrize("run", ["finished_run", "finished_reader"])
def test_the_python_of_a_page_runs(page, run, request, tmp_path, monkeypatch):
    shutil.copy(request.getfixturevalue(run) / "checkpoints" / "best.ckpt", tmp_path)
    np.save(tmp_path / "data0.npy", np.zeros((3, 40, 168), np.uint8))
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((40, 168), np.uint8)).save(tmp_path / "photos" / "blank.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks(page)[0]:
        exec(code, names)
    answers = names["sums"] if "sums" in names else names["prediction"].estimate
    assert answers.shape == (3,)
