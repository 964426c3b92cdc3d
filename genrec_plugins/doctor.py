"""What is missing or mismatched in an installation, in plain words, and the command that mends it.

Works where torch is absent or broken: versions come from package metadata, and the imports that may crash are tried in
a process of their own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from genrec_registry import SetupError

MIN_PYTHON = (3, 11)
#: minor release of torch -> minor release of torchrec and fbgemm, which are built against it
LOCK_STEP = {
    "2.5": "1.0",
    "2.6": "1.1",
    "2.7": "1.2",
    "2.8": "1.3",
    "2.9": "1.4",
    "2.10": "1.5",
    "2.11": "1.6",
    "2.12": "1.7",
    "2.13": "1.8",
}
TORCH, TORCHREC = "2.13.0", "1.8.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
#: what torchrec imports beside torch and fbgemm; it is installed without its dependencies, which name CUDA's fbgemm
LIGHT = ("tensordict", "torchmetrics==1.0.3", "pyre-extensions", "tqdm")
_FBGEMM_CPU, _FBGEMM_CUDA = "fbgemm-gpu-cpu", "fbgemm-gpu"

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        level: ``problem`` stops torchrec from working, ``warning`` does not.
        what: one sentence.
        mend: the command that mends it, or the empty string.
    """

    level: Level
    what: str
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """The facts that the examination starts from.

    Args:
        versions: canonical package name -> version.
        python: (major, minor).
        torch_cuda: whether torch is a CUDA build; None if unknown.
        has_gpu: whether this machine has an NVIDIA driver.
        requires: the requirements of genrec-plugins itself.
    """

    versions: Mapping[str, str]
    python: tuple[int, int] = (sys.version_info.major, sys.version_info.minor)
    torch_cuda: bool | None = None
    has_gpu: bool = False
    requires: tuple[str, ...] = field(default=())


def installation() -> Installation:
    """This interpreter's installation, read from metadata and files; imports neither torch nor torchrec."""
    versions: dict[str, str] = {}
    for found in metadata.distributions():
        name = found.metadata["Name"]
        if name:
            versions.setdefault(canonicalize_name(name), found.version)
    try:
        requires = metadata.requires("genrec-plugins") or []
    except metadata.PackageNotFoundError:
        requires = []
    return Installation(
        versions=versions,
        torch_cuda=_torch_is_cuda(),
        has_gpu=shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists(),
        requires=tuple(line for line in requires if "extra ==" not in line),
    )


def _torch_is_cuda() -> bool | None:
    """From ``torch/version.py``, whose line ``cuda = None`` marks a CPU build."""
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b[^=]*=\s*(.+?)\s*$", text, flags=re.MULTILINE)
    return None if found is None else found.group(1) != "None"


def probe() -> str:
    """Import torch, fbgemm and torchrec in a process of their own.

    Returns:
        The last line of the error, or the empty string if all went well.
    """
    code = "import torch, fbgemm_gpu, torchrec"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return "the import did not end within five minutes"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"python ended with code {done.returncode}"


def examine(facts: Installation | None = None, *, probe: Callable[[], str] | None = probe) -> list[Finding]:
    """Everything worth saying, in the order in which to mend it.

    Args:
        facts: the installation; this interpreter's if None.
        probe: tries the imports and returns an error; None skips it. It runs only when the metadata is in order.

    Example::

        >>> facts = Installation(versions={"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"},
        ...                      torch_cuda=False)
        >>> [finding.mend for finding in examine(facts, probe=None) if finding.level == "problem"][0]
        'pip uninstall -y fbgemm-gpu && pip install --no-deps fbgemm-gpu-cpu==1.8.0'
    """
    facts = facts or installation()
    findings = [*_python(facts), *_own_requirements(facts), *_torch(facts), *_fbgemm(facts), *_torchrec(facts)]
    if probe is not None and not any(finding.level == "problem" for finding in findings):
        findings.append(_probed(probe()))
    return findings


def _python(facts: Installation) -> Iterator[Finding]:
    found, wanted = ".".join(map(str, facts.python)), ".".join(map(str, MIN_PYTHON))
    if facts.python < MIN_PYTHON:
        yield Finding(
            "problem",
            f"Python is {found}, expected {wanted} or newer",
            f"python{wanted} -m venv .venv && . .venv/bin/activate && pip install genrec-plugins",
        )
    else:
        yield Finding("ok", f"Python {found}")


def _own_requirements(facts: Installation) -> Iterator[Finding]:
    wanting = []
    for line in facts.requires:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate():
            continue
        found = facts.versions.get(canonicalize_name(need.name))
        if found is None:
            wanting.append((f"{need.name} is missing", need))
        elif not need.specifier.contains(found, prereleases=True):
            wanting.append((f"{need.name} is {found}, expected {need.specifier}", need))
    if wanting:
        mend = " ".join(f"'{need.name}{need.specifier}'" for _, need in wanting)
        yield Finding("problem", "; ".join(what for what, _ in wanting), f"pip install {mend}")


def _torch(facts: Installation) -> Iterator[Finding]:
    found = facts.versions.get("torch")
    if found is None:
        yield Finding("problem", "torch is missing", _torch_command(facts))
        return
    build = {True: " (CUDA build)", False: " (CPU build)", None: ""}[facts.torch_cuda]
    if _minor(found) not in LOCK_STEP:
        yield Finding(
            "warning",
            f"torch {found}{build} is not one that this release knows; {TORCH} is tested",
            _torch_command(facts),
        )
    elif facts.has_gpu and facts.torch_cuda is False:
        yield Finding(
            "warning",
            f"torch {found}{build} does not use this machine's GPU",
            "pip uninstall -y torch fbgemm-gpu-cpu && pip install 'genrec-plugins[cuda]'",
        )
    else:
        yield Finding("ok", f"torch {found}{build}")


def _fbgemm(facts: Installation) -> Iterator[Finding]:
    cpu, cuda = facts.versions.get(_FBGEMM_CPU), facts.versions.get(_FBGEMM_CUDA)
    right, wrong = (_FBGEMM_CUDA, _FBGEMM_CPU) if _wants_cuda(facts) else (_FBGEMM_CPU, _FBGEMM_CUDA)
    install = f"pip install --no-deps {right}=={_partner(facts)}"
    if cpu and cuda:
        # both put their files into one folder: taking one away breaks the other
        yield Finding(
            "problem",
            f"{_FBGEMM_CPU} {cpu} and {_FBGEMM_CUDA} {cuda} are both installed and overwrite each other's files",
            f"pip uninstall -y {_FBGEMM_CUDA} {_FBGEMM_CPU} && {install}",
        )
    elif not (cpu or cuda):
        yield Finding("problem", "fbgemm is missing, which torchrec imports", install)
    elif cuda and right == _FBGEMM_CPU:
        why = "torch is a CPU build" if facts.torch_cuda is False else "this machine has no GPU"
        yield Finding(
            "problem",
            f"{_FBGEMM_CUDA} {cuda} is the CUDA build of fbgemm, but {why}; importing torchrec fails",
            f"pip uninstall -y {wrong} && {install}",
        )
    elif cpu and right == _FBGEMM_CUDA:
        yield Finding(
            "warning",
            f"{_FBGEMM_CPU} {cpu} is the CPU build of fbgemm, but torch is a CUDA build; tables stay on the CPU",
            f"pip uninstall -y {wrong} && {install}",
        )
    else:
        yield from _in_step(facts, right, str(cpu or cuda), install)


def _torchrec(facts: Installation) -> Iterator[Finding]:
    found = facts.versions.get("torchrec")
    install = f"pip install --no-deps torchrec=={_partner(facts)}"
    if found is None:
        yield Finding("problem", "torchrec is missing", f"{install} && pip install {' '.join(LIGHT)}")
        return
    yield from _in_step(facts, "torchrec", found, install)
    lacking = [need for need in LIGHT if not _satisfied(facts, need)]
    if lacking:
        names = ", ".join(lacking)
        yield Finding("problem", f"torchrec needs {names}", f"pip install {' '.join(lacking)}")


def _in_step(facts: Installation, name: str, found: str, install: str) -> Iterator[Finding]:
    """Whether a partner's version goes with torch's."""
    torch = facts.versions.get("torch")
    wanted = LOCK_STEP.get(_minor(torch)) if torch else None
    if wanted is not None and _minor(found) != wanted:
        yield Finding("problem", f"{name} {found} is out of step with torch {torch}, which goes with {wanted}", install)
    else:
        yield Finding("ok", f"{name} {found}")


def _probed(error: str) -> Finding:
    if not error:
        return Finding("ok", "import torchrec works")
    missing = re.search(r"No module named '([\w.]+)'", error)
    if missing:
        return Finding("problem", f"importing torchrec fails: {error}", f"pip install {missing.group(1).split('.')[0]}")
    mend = reinstall_command(installation())
    if "libtorch_cuda" in error or "libcuda" in error or "libcudart" in error:
        return Finding("problem", f"a CUDA build of fbgemm is loaded beside a torch without CUDA: {error}", mend)
    if "undefined symbol" in error:
        return Finding("problem", f"fbgemm was built against another torch: {error}", mend)
    return Finding("problem", f"importing torchrec fails: {error}", mend)


def reinstall_command(facts: Installation) -> str:
    """The command that puts fbgemm and torchrec right whatever their state, for this torch.

    Args:
        facts: the installation.

    Example::

        >>> reinstall_command(Installation(versions={"torch": "2.12.1"}, torch_cuda=False))
        'pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && pip install --no-deps fbgemm-gpu-cpu==1.7.0 torchrec==1.7.0'
    """
    right = _FBGEMM_CUDA if _wants_cuda(facts) else _FBGEMM_CPU
    version = _partner(facts)
    return (
        f"pip uninstall -y {_FBGEMM_CUDA} {_FBGEMM_CPU} && pip install --no-deps {right}=={version} torchrec=={version}"
    )


def require_torchrec() -> None:
    """Import torchrec, or say how to install it.

    Raises:
        SetupError: torchrec cannot be imported; the message has the command that mends it.

    Example::

        >>> require_torchrec()
    """
    try:
        import torchrec  # noqa: F401
    except Exception as error:  # a mismatched build fails with ImportError, OSError, RuntimeError or AttributeError
        problems = [finding for finding in examine(probe=None) if finding.level == "problem"]
        worst = problems[0] if problems else _probed(f"{type(error).__name__}: {error}")
        raise SetupError(f"torchrec cannot be used: {worst.what}; run: {worst.mend}") from error


def _wants_cuda(facts: Installation) -> bool:
    return facts.has_gpu if facts.torch_cuda is None else facts.torch_cuda


def _torch_command(facts: Installation) -> str:
    return f"pip install torch=={TORCH}" + ("" if facts.has_gpu else f" --index-url {CPU_INDEX}")


def _partner(facts: Installation) -> str:
    """The version of torchrec and fbgemm that goes with this torch; with the tested torch if there is none."""
    torch = facts.versions.get("torch")
    minor = LOCK_STEP.get(_minor(torch)) if torch else None
    return f"{minor}.0" if minor else TORCHREC


def _minor(version: str) -> str:
    try:
        release = Version(version).release
    except InvalidVersion:
        return version
    return ".".join(str(part) for part in (*release, 0)[:2])


def _satisfied(facts: Installation, need: str) -> bool:
    requirement = Requirement(need)
    found = facts.versions.get(canonicalize_name(requirement.name))
    return found is not None and requirement.specifier.contains(found, prereleases=True)
