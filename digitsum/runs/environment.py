"""What a run leaves behind beside its metrics: versions, the machine, the command."""

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numba", "numpy", "scikit-learn")


def environment() -> dict[str, Any]:
    """What a figure depends on beside its config: command, the code that was imported, versions, and the machine."""
    import torch  # here, because what only writes figures starts seconds earlier without it

    return {
        "command": shlex.join(["python", *sys.argv]),
        "code": {"folder": str(_PACKAGE), **(_git_state(_PACKAGE.parent) or {"commit": None, "modified": None})},
        "python": platform.python_version(),
        "packages": {"digitsum": sys.modules["digitsum"].__version__, **{name: version(name) for name in _PACKAGES}},
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _git_state(project: Path) -> dict[str, Any] | None:
    """The commit of `project` and whether its files differ from it; None where git does not keep this very package.

    An unpacked archive may lie inside another repository, and a hook sets GIT_DIR to the one that it runs in.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-C", str(project), *words]
        return subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout.strip()

    try:
        top = git("rev-parse", "--show-toplevel")
        git("ls-files", "--error-unmatch", "--", str(_PACKAGE / "__init__.py"))
        if not Path(top).samefile(project):
            return None
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    with suppress(OSError):  # no Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
