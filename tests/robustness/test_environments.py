"""What a user's environment says of figures and of Python's ways, and what it must not change."""

import hashlib
import os
import subprocess
import sys

import pytest
from conftest import ROOT

DRAW = """
import sys
from pathlib import Path
import numpy as np
import digitsum.models.checkpoints
from digitsum.figures import loss_figure, write_figure
figure = loss_figure(np.arange(3), np.array([9.0, 5, 4]), np.array([8.0, 6, 5]), 30.0)
write_figure(Path(sys.argv[1]), figure)
assert "matplotlib.pyplot" not in sys.modules or "torchmetrics" in sys.modules
"""


def drawn(path, **environment):
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(path)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_figures_do_not_depend_on_a_notebooks_backend_or_the_users_style(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\naxes.facecolor: black\nfont.size: 30\nsavefig.dpi: 5\n")
    plain = drawn(tmp_path / "plain.png")
    assert drawn(tmp_path / "notebook.png", MPLBACKEND="module://no_such_package.backend") == plain
    assert drawn(tmp_path / "style.png", MATPLOTLIBRC=str(tmp_path)) == plain


NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}


@pytest.mark.parametrize(
    ("script", "environment"),
    [
        ("train", NOTEBOOK),
        ("tune", NOTEBOOK),
        ("compare", NOTEBOOK),
        ("train", {"MPLBACKEND": "TkAgg", "DISPLAY": ""}),
        ("predict", {"PYTHONSAFEPATH": "1"}),
        ("make_data", {"PYTHONOPTIMIZE": "2"}),
    ],
    ids=str,
)
def test_every_script_answers_in_it(script, environment):
    words = ["--help"] if script == "compare" else ["no_such_key=1"]  # imports everything, and says what is wrong
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if script == "compare" else 1)
