"""The package as it is installed: a wheel and a source archive, without the configs and the commands."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import digitsum

pytest.importorskip("build", reason="needs build, which the extra `dev` installs")
pytest.importorskip("setuptools")

pytestmark = pytest.mark.slow


def ran(*words, cwd=None):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def wheel(tmp_path, published_tiny):
    """A wheel, which `build` makes from the source archive; built from a copy, so that the project stays as it is."""
    source, folder = tmp_path / "source", tmp_path / "dist"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "digitsum", source / "digitsum", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(published_tiny, source / "digitsum" / "models" / "weights")
    ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_package_installs_and_reads_with_nothing_of_the_project_beside_it(wheel, tmp_path, finished_reader):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "parent.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # what the package depends on
    ran(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel)
    checkpoint, images = tmp_path / "best.ckpt", np.random.default_rng(0).integers(0, 256, (2, 40, 168), np.uint8)
    shutil.copy(finished_reader / "checkpoints" / "best.ckpt", checkpoint)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import digitsum, numpy\n"
        "images = numpy.load('images.npy')\n"
        f"readings = digitsum.load_model({str(checkpoint)!r}).read(images) + digitsum.load_model('tiny').read(images)\n"
        "print(digitsum.__file__, digitsum.__version__, *(reading.digits for reading in readings), sep='\\n')"
    )
    file, version, *digits = ran(python, "-c", code, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(site)
    assert version == digitsum.__version__
    assert digits == [reading.digits for reading in digitsum.load_model(checkpoint).read(images)] * 2
    for name in ("py.typed", "evaluation/demo_page.css", "evaluation/demo_page.js"):
        assert (site / "digitsum" / name).exists()
    assert {path.name for path in site.iterdir()} & {"conf", "scripts", "tests"} == set()
