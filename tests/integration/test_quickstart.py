"""The quick start, followed to the letter: its blocks as one shell script, from a new folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "quickstart.md"

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed"),
]


def script() -> str:
    """The lines after the prompts, each told before it runs; a line that fails ends it."""
    lines = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        for command in block.replace("\\\n", " ").splitlines():
            assert command.startswith("$ "), command
            lines += [f"echo; echo '==> '{json.dumps(command[2:].split('--data')[0])}", command[2:]]
    return (
        "set -e -m\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"
        + "\n".join(lines)
        + "\nwait %1 || test $? = 143  # SIGTERM\n"
    )


def follow(folder: Path, commands: str, environment: dict[str, str]) -> dict[str, str]:
    """Run the script; what each command said, by its first words."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        ["bash", "-c", commands.replace("8000", str(port))], cwd=folder, env=os.environ | environment,
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = re.split(r"^==> ", done.stdout, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].strip(): part.partition("\n")[2] for part in said}


def check(folder: Path, said: dict[str, str]) -> None:
    """The user has what the page promised."""
    answers = [text for command, text in said.items() if "/score" in command]
    assert len(answers) == 2
    scores = json.loads(answers[0])["probabilities"]
    assert len(scores) == 2
    assert all(0 < score < 1 for score in scores)
    assert "I1" in answers[1]
    trained = [text for command, text in said.items() if command.startswith("genrec train")]
    aucs = re.findall(r"^test\s+AUC (0\.\d+)", "\n".join(trained), re.MULTILINE)
    assert len(aucs) == 2
    assert all(float(auc) > 0.6 for auc in aucs), "the models learn"
    assert "<svg" in (folder / "report.html").read_text()
    assert not list((folder / "served").glob("*.partial*"))


def test_the_quick_start_leads_to_a_served_model(tmp_path: Path) -> None:
    """With this environment in place of the one that ``make setup`` makes, and fewer shuffles in the report."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    activate = tmp_path / ".venv" / "bin"
    activate.mkdir(parents=True)
    (activate / "activate").write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
    (tmp_path / "Makefile").write_text("setup: ;\n")
    commands = script().replace("--out report.html\n", "--out report.html --shuffles 1 --max-rows 1000\n")
    assert commands != script()
    check(tmp_path, follow(tmp_path, commands, {"OMP_NUM_THREADS": "1"}))


@pytest.mark.long
def test_the_quick_start_leads_to_a_served_model_from_a_clone(tmp_path: Path) -> None:
    """With everything installed anew, as a user has to."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    check(clone, follow(clone, script(), {"OMP_NUM_THREADS": "1"}))
