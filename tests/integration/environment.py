"""A fresh virtual environment that sees what this one has installed: torch and TorchRec are not installed again."""

from __future__ import annotations

import os
import site
import subprocess
import venv
from pathlib import Path


class Environment:
    """The environment, made in an empty folder.

    Args:
        folder: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        [packages] = (folder / "lib").glob("python3*/site-packages")
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (packages / "outer.pth").write_text("\n".join(lines) + "\n")

    def start(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python to its end."""
        return subprocess.run(
            [self.python, *command],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "GENREC_CONFORMANCE_TIMEOUT": "300"},
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *command: str, cwd: Path) -> str:
        """What a command prints; it must end well."""
        done = self.start(*command, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pip_install(self, *packages: str, index: bool = False, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Install packages without their dependencies; from the index only where that is asked for."""
        options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
        options += ["--retries", "1", "--timeout", "20"] if index else ["--no-build-isolation", "--no-index"]
        return self.start("-m", "pip", "install", *options, *packages, cwd=cwd)
