"""What a run leaves behind beside its metrics: versions, the machine, the command."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "digitsum",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "numba",
    "numpy",
    "scikit-learn",
)


def environment(project: Path) -> dict[str, Any]:
    """What a figure depends on beside its config: command, versions, git commit of `project`, and the machine."""
    import torch  # here, because what only writes figures starts seconds earlier without it

    return {
        "command": shlex.join(["python", *sys.argv]),
        "git": _git_state(project),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _git_state(project: Path) -> dict[str, Any] | None:
    """The commit and whether files differ from it; None outside a git checkout or without git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=project, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # no Linux
    return platform.processor() or platform.machine()
