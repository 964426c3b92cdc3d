"""``genrec new plugin``: names, what is refused, what is written. The packages run in tests/integration."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from pathlib import Path

import copier
import pytest
import yaml

from genrec_plugins.cli import main
from genrec_plugins.doctor import LIGHT
from genrec_plugins.templates.new_plugin import TEMPLATE, PluginNames, new_plugin
from genrec_registry import KINDS, ConfigError, DataError, SetupError

ROOT = Path(__file__).resolve().parents[2]
LONGEST = "acme-a-quite-long-name-for-a-package-40c"


def genrec(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main.run(["new", "plugin", *words])
    return int(stopped.value.code or 0)


@pytest.mark.parametrize(
    ("package", "component", "module"),
    [
        ("acme-cross", "acme-cross", "acme_cross"),
        ("genrec-gated-cross", "gated-cross", "genrec_gated_cross"),
        ("x2", "x2", "x2"),
        ("genrec", "genrec", "genrec"),
    ],
)
def test_names_are_made_of_the_package_name(package, component, module):
    names = PluginNames(package=package, kind="interaction")
    assert (names.component, names.module) == (component, module)


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("AcmeCross", "did you mean 'acme-cross'?"),
        ("acme_cross", "did you mean 'acme-cross'?"),
        ("acme--cross", "did you mean 'acme-cross'?"),
        ("2cross", "did you mean 'cross'?"),
        ("../cross", "did you mean 'cross'?"),
        ("-", "cannot name a plugin; expected"),
        ("", "cannot name a plugin; expected"),
        ("{{ name }}", "did you mean 'name'?"),
        ("acme-cross\n", "did you mean 'acme-cross'?"),
        (LONGEST + "x", "at most 40"),
        ("json", "'json', which hides another one of this name; name it 'genrec-json'"),
        ("class", "hides another one"),
        ("torch", "hides another one"),
        ("genrec-plugins", "hides another one"),
        ("genrec-dcn", "has already; choose another name, as 'genrec-my-dcn'"),
        ("fat", "has already"),
    ],
)
def test_names_that_cannot_be_are_refused(package, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        PluginNames(package=package, kind="interaction")
    assert len(str(error.value).splitlines()) <= 1 + package.count("\n")


def test_a_name_of_a_builtin_of_another_kind_is_free():
    assert PluginNames(package="genrec-dcn", kind="dataset").component == "dcn"


def test_an_unknown_kind_is_refused(capsys, tmp_path):
    assert genrec("acme-x", "--kind", "interactions", "--to", str(tmp_path / "x")) == ConfigError.exit_code
    assert "did you mean 'interaction'?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_kind_has_its_files(tmp_path):
    kinds = {path.name for path in (TEMPLATE / "kinds").iterdir()}
    assert kinds == set(KINDS) == set(yaml.safe_load((TEMPLATE / "copier.yml").read_text())["kind"]["choices"])


@pytest.mark.parametrize("name", ["xy", LONGEST])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_formatted_and_has_no_template_left(kind, name, tmp_path):
    """Whatever the length of the name."""
    files = new_plugin(PluginNames(package=name, kind=kind), tmp_path / "new")
    assert sorted(path.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob("*.*") if path.is_file()) == [
        *files
    ]
    for path in files:
        text = (tmp_path / "new" / path).read_text(encoding="utf-8")
        assert "{%" not in text, path
        assert "{{" not in text.replace("${{ matrix.python }}", ""), path
        assert text.endswith("\n"), path
        assert "\n\n\n\n" not in text, path
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--no-cache", "."],
            cwd=tmp_path / "new",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_installs_what_goes_together(tmp_path):
    new_plugin(PluginNames(package="acme-x", kind="encoder"), tmp_path)
    workflow = yaml.safe_load((tmp_path / ".github" / "workflows" / "test.yml").read_text())
    steps = {step["name"]: step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step}
    text = " ".join(steps.values())
    pinned = (ROOT / "requirements" / "cpu.txt").read_text().splitlines()
    for package in ("torchrec", "fbgemm-gpu-cpu"):
        [line] = [line for line in pinned if line.startswith(f"{package}==")]
        assert line in text
    assert all(requirement in text for requirement in LIGHT)
    assert "python -m pytest" in text
    for line in text.splitlines():
        if line.strip().startswith("genrec "):
            assert line.split()[1:3] in (["plugins", "doctor"], ["plugins", "show"])


def test_an_existing_directory_is_refused_unless_forced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme-x").mkdir()
    assert genrec("acme-x", "--kind", "dataset") == 0  # it was empty
    assert "next: pip install" in capsys.readouterr().out
    mine, readme = tmp_path / "acme-x" / "mine.txt", tmp_path / "acme-x" / "README.md"
    mine.write_text("mine")
    readme.write_text("edited")
    assert genrec("acme-x", "--kind", "dataset") == ConfigError.exit_code
    assert "exists and is not empty; name another by --to, or pass --force" in capsys.readouterr().err
    assert readme.read_text() == "edited"
    assert genrec("acme-x", "--kind", "dataset", "--force") == 0
    assert mine.read_text() == "mine"
    assert readme.read_text().startswith("# acme-x")
    assert {path.name for path in tmp_path.iterdir()} == {"acme-x"}


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "taken").write_text("")
    names = PluginNames(package="acme-x", kind="dataset")
    with pytest.raises(ConfigError, match="is a file"):
        new_plugin(names, tmp_path / "taken", force=True)
    with pytest.raises(DataError, match=r"cannot be written \(.*\); name another by --to"):
        new_plugin(names, tmp_path / "taken" / "below")


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def half(source, target, **_):
        (Path(target)).mkdir(parents=True)
        (Path(target) / "half.txt").write_text("")
        raise RuntimeError("broken")

    monkeypatch.setattr(copier, "run_copy", half)
    with pytest.raises(RuntimeError, match="broken"):
        new_plugin(PluginNames(package="acme-x", kind="dataset"), tmp_path / "acme-x")
    assert list(tmp_path.iterdir()) == []


def test_without_copier_the_command_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "copier":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match=re.escape('pip install "genrec-plugins[new]"')):
        new_plugin(PluginNames(package="acme-x", kind="dataset"), tmp_path / "x")


def test_copier_alone_makes_the_same_of_name_and_kind(tmp_path):
    """The template's own defaults are those of the command."""
    new_plugin(PluginNames(package="genrec-cross", kind="interaction"), tmp_path / "ours")
    answers = {"name": "genrec-cross", "kind": "interaction"}
    copier.run_copy(str(TEMPLATE), tmp_path / "copier", data=answers, defaults=True, quiet=True)
    ours, theirs = (
        {path.relative_to(root): path.read_text() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "ours", tmp_path / "copier")
    )
    assert ours == theirs
