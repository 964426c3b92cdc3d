"""The doctor on healthy and on faked, broken installations."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys

import pytest

from genrec_plugins import doctor
from genrec_plugins.cli import main
from genrec_plugins.doctor import CPU_INDEX, Installation, examine, require_torchrec
from genrec_registry import PluginFailure, Registry, SetupError

LIGHT = {"tensordict": "0.15.3", "torchmetrics": "1.0.3", "pyre-extensions": "0.0.32", "tqdm": "4.70"}
CPU = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0", **LIGHT}
CUDA = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0", **LIGHT}


def _problems(versions: dict[str, str], *, probe=None, **facts) -> list[tuple[str, str]]:
    facts = {"torch_cuda": False} | facts
    findings = examine(Installation(versions=versions, **facts), probe=probe)
    return [(finding.what, finding.mend) for finding in findings if finding.level == "problem"]


def _without(versions: dict[str, str], *names: str, **changes: str) -> dict[str, str]:
    kept = {name: version for name, version in versions.items() if name not in names}
    return kept | {name.replace("_", "-"): version for name, version in changes.items()}


def test_healthy_installations():
    assert _problems(CPU) == []
    assert _problems(CUDA, torch_cuda=True, has_gpu=True) == []
    assert all(
        finding.level == "ok" for finding in examine(Installation(versions=CPU, torch_cuda=False), probe=lambda: "")
    )


@pytest.mark.parametrize(
    ("versions", "facts", "what", "mend"),
    [
        (
            _without(CPU, "torch"),
            {"torch_cuda": None},
            "torch is missing",
            f"pip install torch==2.13.0 --index-url {CPU_INDEX}",
        ),
        (
            _without(CUDA, "torch"),
            {"torch_cuda": None, "has_gpu": True},
            "torch is missing",
            "pip install torch==2.13.0",
        ),
        (
            _without(CPU, "torchrec"),
            {},
            "torchrec is missing",
            "pip install --no-deps torchrec==1.8.0 && pip install tensordict torchmetrics==1.0.3 pyre-extensions tqdm",
        ),
        (
            _without(CPU, "fbgemm-gpu-cpu"),
            {},
            "fbgemm is missing, which torchrec imports",
            "pip install --no-deps fbgemm-gpu-cpu==1.8.0",
        ),
        (
            _without(CUDA, "fbgemm-gpu"),
            {"torch_cuda": True, "has_gpu": True},
            "fbgemm is missing, which torchrec imports",
            "pip install --no-deps fbgemm-gpu==1.8.0",
        ),
        (
            CUDA,
            {},
            "fbgemm-gpu 1.8.0 is the CUDA build of fbgemm, but torch is a CPU build; importing torchrec fails",
            "pip uninstall -y fbgemm-gpu && pip install --no-deps fbgemm-gpu-cpu==1.8.0",
        ),
        (
            CPU | {"fbgemm-gpu": "1.8.0"},
            {},
            "fbgemm-gpu-cpu 1.8.0 and fbgemm-gpu 1.8.0 are both installed and overwrite each other's files",
            "pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && pip install --no-deps fbgemm-gpu-cpu==1.8.0",
        ),
        (
            _without(CPU, fbgemm_gpu_cpu="1.6.0"),
            {},
            "fbgemm-gpu-cpu 1.6.0 is out of step with torch 2.13.0+cpu, which goes with 1.8",
            "pip install --no-deps fbgemm-gpu-cpu==1.8.0",
        ),
        (
            _without(CPU, torchrec="1.7.0"),
            {},
            "torchrec 1.7.0 is out of step with torch 2.13.0+cpu, which goes with 1.8",
            "pip install --no-deps torchrec==1.8.0",
        ),
        (_without(CPU, "tqdm"), {}, "torchrec needs tqdm", "pip install tqdm"),
        (
            _without(CPU, torchmetrics="1.9.0"),
            {},
            "torchrec needs torchmetrics==1.0.3",
            "pip install torchmetrics==1.0.3",
        ),
        (
            CPU,
            {"python": (3, 10)},
            "Python is 3.10, expected 3.11 or newer",
            "python3.11 -m venv .venv && . .venv/bin/activate && pip install genrec-plugins",
        ),
        (
            CPU | {"polars": "0.9"},
            {"requires": ("polars>=1.20", "rich>=13", "tomli>=2; python_version < '3'")},
            "polars is 0.9, expected >=1.20; rich is missing",
            "pip install 'polars>=1.20' 'rich>=13'",
        ),
    ],
)
def test_one_thing_wrong_gives_one_problem_and_its_command(versions, facts, what, mend):
    assert _problems(versions, **facts) == [(what, mend)]


@pytest.mark.parametrize("torch", ["2.12.1", "2.9.0"])
def test_an_older_torch_asks_for_its_own_partners(torch):
    partner = doctor.LOCK_STEP[torch.rsplit(".", 1)[0]]
    versions = _without(CPU, torch=torch)
    assert [mend for _, mend in _problems(versions)] == [
        f"pip install --no-deps fbgemm-gpu-cpu=={partner}.0",
        f"pip install --no-deps torchrec=={partner}.0",
    ]
    assert _problems(_without(versions, torchrec=f"{partner}.0", fbgemm_gpu_cpu=f"{partner}.0")) == []


@pytest.mark.parametrize(
    ("versions", "facts", "word"),
    [
        (CPU, {"has_gpu": True}, "does not use this machine's GPU"),
        (_without(CPU, torch="2.99.0"), {}, "is not one that this release knows"),
        (CPU, {"torch_cuda": True}, "is the CPU build of fbgemm"),
    ],
)
def test_warnings_are_no_problems(versions, facts, word):
    findings = examine(Installation(versions=versions, **({"torch_cuda": False} | facts)), probe=None)
    assert [finding.level for finding in findings if word in finding.what] == ["warning"]
    assert not [finding for finding in findings if finding.level == "problem"]


@pytest.mark.parametrize(
    ("error", "what"),
    [
        ("OSError: libtorch_cuda.so: cannot open shared object file", "a CUDA build of fbgemm is loaded"),
        ("OSError: fbgemm_gpu_py.so: undefined symbol: _ZN3c10", "fbgemm was built against another torch"),
        ("RuntimeError: odd", "importing torchrec fails: RuntimeError: odd"),
    ],
)
def test_what_the_import_says_is_translated(error, what):
    [(found, mend)] = _problems(CPU, probe=lambda: error)
    assert found.startswith(what)
    assert mend.startswith("pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && pip install --no-deps fbgemm-gpu")


def test_a_missing_module_is_named():
    assert _problems(CPU, probe=lambda: "ModuleNotFoundError: No module named 'iopath.common'") == [
        ("importing torchrec fails: ModuleNotFoundError: No module named 'iopath.common'", "pip install iopath")
    ]


def test_the_import_is_not_tried_when_metadata_is_wrong():
    def never() -> str:
        raise AssertionError("must not run")

    assert _problems({}, probe=never)


def test_probe_reports_the_last_line_of_an_import_error(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise OSError('libtorch_cuda.so: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.probe() == "OSError: libtorch_cuda.so: cannot open shared object file"


@pytest.mark.parametrize(
    ("line", "cuda"),
    [("cuda: Optional[str] = None", False), ("cuda: Optional[str] = '12.6'", True), ("cuda = None", False), ("", None)],
)
def test_the_torch_build_is_read_from_its_version_file(line, cuda, tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\nhip: Optional[str] = None\n")
    (tmp_path / "torch-2.13.0.dist-info").mkdir()
    (tmp_path / "torch-2.13.0.dist-info" / "METADATA").write_text("Name: torch\nVersion: 2.13.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._torch_is_cuda() is cuda


def test_examining_this_interpreter_loads_no_torch():
    code = (
        "import sys\nfrom genrec_plugins.doctor import examine\nexamine(probe=None)\n"
        "assert not {'torch', 'torchrec'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_require_torchrec_names_the_command(monkeypatch):
    pytest.importorskip("torchrec")
    require_torchrec()
    real = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name == "torchrec":
            raise OSError("libtorch_cuda.so: cannot open shared object file")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(doctor, "installation", lambda: Installation(versions=CUDA, torch_cuda=False))
    with pytest.raises(SetupError) as caught:
        require_torchrec()
    assert str(caught.value) == (
        "torchrec cannot be used: fbgemm-gpu 1.8.0 is the CUDA build of fbgemm, but torch is a CPU build; importing "
        "torchrec fails; run: pip uninstall -y fbgemm-gpu && pip install --no-deps fbgemm-gpu-cpu==1.8.0"
    )
    monkeypatch.setattr(doctor, "installation", lambda: Installation(versions=CPU, torch_cuda=False))
    with pytest.raises(SetupError, match=r"a CUDA build of fbgemm is loaded .*; run: pip uninstall"):
        require_torchrec()


def test_command_points_to_broken_plugins(capsys, monkeypatch):
    registry = Registry(entry_points=[])
    registry.failures.append(PluginFailure(plugin="acme:main", reason="cannot be imported: ImportError: x"))
    monkeypatch.setattr("genrec_registry.manager.default_registry", lambda: registry)
    monkeypatch.setattr(doctor, "installation", lambda: Installation(versions=CPU, torch_cuda=False))
    with pytest.raises(SystemExit) as caught:
        main.run(["doctor", "--no-probe"])
    assert not caught.value.code
    out = capsys.readouterr().out
    assert "warning  plugin acme:main cannot be imported: ImportError: x\n   mend: genrec plugins doctor\n" in out


@pytest.mark.parametrize(("versions", "code"), [(CPU, 0), (CUDA, 6)])
def test_command(versions, code, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "installation", lambda: Installation(versions=versions, torch_cuda=False))
    with pytest.raises(SystemExit) as caught:
        main.run(["doctor", "--no-probe"])
    assert (caught.value.code or 0) == code
    out = capsys.readouterr().out
    assert ("   mend: pip uninstall -y fbgemm-gpu" in out) is bool(code)
    with pytest.raises(SystemExit):
        main.run(["doctor", "--no-probe", "--json"])
    assert {finding["level"] for finding in json.loads(capsys.readouterr().out)} == (
        {"ok", "problem"} if code else {"ok"}
    )
