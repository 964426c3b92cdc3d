"""The command line: the table of commands, how errors reach the user, and ``genrec plugins``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field, PositiveInt, create_model

from genrec_plugins import __version__
from genrec_plugins.cli import main
from genrec_plugins.cli.type_text import type_text
from genrec_registry import Config, ConfigError, InteractionRecord, Registry, hookimpl


@pytest.fixture
def genrec(capsys):
    """``genrec("plugins", "list")`` -> (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main.run(arguments)
        out, err = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else int(code is not None)), out, err

    return call


class PartConfig(Config):
    width: int = Field(default=4, gt=0, description="Width of the part")
    label: str


class Offers:
    """A plugin with these interaction names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    @hookimpl
    def genrec_interactions(self):
        for name in self.names:
            yield InteractionRecord(
                name=name,
                config=PartConfig,
                factory="acme.part:Part",
                summary=f"Part {name}",
                aliases=(f"{name}-alias",),
            )


class Broken:
    @hookimpl
    def genrec_interactions(self):
        raise ZeroDivisionError("no luck")


@pytest.fixture
def registry(monkeypatch):
    registry = Registry(entry_points=[], disabled=[])
    monkeypatch.setattr("genrec_registry.manager.default_registry", lambda: registry)
    return registry


def _command(monkeypatch, function):
    """Make ``genrec doctor`` call this function."""
    module = type(sys)("fake_command_module")
    module.function = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_command_module", module)
    monkeypatch.setitem(main.COMMANDS, "doctor", ("fake_command_module:function", "Fake."))


def test_help_lists_every_command_without_loading_it(genrec):
    code, out, _ = genrec("--help")
    assert code == 0
    for name, (_, summary) in main.COMMANDS.items():
        assert f"  {name}" in out
        assert summary[:40] in out


def test_version(genrec):
    assert genrec("--version") == (0, f"genrec-plugins {__version__}\n", "")


def test_unknown_command_suggests_the_nearest(genrec):
    code, _, err = genrec("plugin")
    assert code == 2
    assert "No such command 'plugin'. Did you mean 'plugins'?" in err


def test_missing_module_is_one_line(genrec, monkeypatch):
    monkeypatch.setitem(main.COMMANDS, "doctor", ("no_such_module_anywhere:f", "Nothing."))
    assert genrec("doctor") == (
        6,
        "",
        "'genrec doctor' needs the module 'no_such_module_anywhere', which is not installed; run 'genrec doctor'\n",
    )


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--traceback"], ["--traceback", "doctor"]])
def test_errors_are_printed_alone_unless_a_traceback_is_wanted(arguments, genrec, monkeypatch):
    def fail() -> None:
        raise ConfigError("run.yaml:1:1: is wrong")

    _command(monkeypatch, fail)
    monkeypatch.delenv("GENREC_TRACEBACK", raising=False)
    code, out, err = genrec(*arguments)
    assert (code, out) == (ConfigError.exit_code, "")
    if "--traceback" in arguments:
        assert err.startswith("Traceback")
        assert "in fail" in err
    else:
        assert err == "run.yaml:1:1: is wrong\n"


def test_traceback_by_environment(genrec, monkeypatch):
    def fail() -> None:
        raise ConfigError("run.yaml:1:1: is wrong")

    _command(monkeypatch, fail)
    monkeypatch.setenv("GENREC_TRACEBACK", "1")
    assert genrec("doctor")[2].startswith("Traceback")


def test_ctrl_c_exits_130_quietly(genrec, monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    _command(monkeypatch, interrupt)
    assert genrec("doctor") == (130, "", "")


@pytest.mark.skipif(os.name == "nt", reason="no SIGPIPE")
@pytest.mark.parametrize("write", ["print", "typer.echo"])
def test_a_closed_pipe_is_quiet(write):
    code = (
        f"import sys, typer\nfrom genrec_plugins.cli import main\nsys.doc = lambda: {write}('x' * 100)\n"
        "main.COMMANDS['doctor'] = ('sys:doc', 'Fake.')\nmain.run(['doctor'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_examples_keep_their_lines(genrec):
    for arguments in (("plugins",), ("plugins", "list"), ("schema",)):
        code, out, _ = genrec(*arguments, "--help")
        assert code == 0
        assert "\n  Examples:\n      genrec " in out, arguments


@pytest.mark.parametrize("gap", ["", "\n", "\b\n"])
def test_long_examples_are_not_wrapped(gap, genrec, monkeypatch):
    long = "genrec doctor " + "--option value " * 8

    def function() -> None:
        pass

    function.__doc__ = f"Do it.\n\n    Examples:\n{gap}        {long}\n\n        genrec other\n    "
    _command(monkeypatch, function)
    lines = [line.strip() for line in genrec("doctor", "--help")[1].splitlines()]
    assert long.strip() in lines
    assert "genrec other" in lines


def test_every_command_that_is_there_has_examples(genrec):
    for name in main.COMMANDS:
        code, out, err = genrec(name, "--help")
        if code == 6:
            assert "which is not installed" in err
            continue
        assert "Examples:" in out, name


def test_group_and_function_targets(monkeypatch):
    group = typer.Typer(help="Two.")
    group.command("one")(lambda: None)
    group.command("two")(lambda: None)
    _command(monkeypatch, group)
    assert sorted(main.load_command("doctor").commands) == ["one", "two"]


# -- genrec plugins ---------------------------------------------------------------------------------------------------


def test_list(genrec, registry):
    registry.register(Offers("part"), distribution="acme", version="0.3")
    code, out, _ = genrec("plugins", "list", "--json")
    assert code == 0
    assert json.loads(out) == [
        {
            "kind": "interaction",
            "name": "part",
            "aliases": ["part-alias"],
            "origin": "acme 0.3",
            "status": "stable",
            "summary": "Part part",
        }
    ]
    code, out, err = genrec("plugins", "list")
    assert out.splitlines()[0].split() == ["kind", "name", "aliases", "origin", "status", "summary"]
    assert out.splitlines()[1].split() == ["interaction", "part", "part-alias", "acme", "0.3", "stable", "Part", "part"]
    assert err == ""
    assert json.loads(genrec("plugins", "list", "--kind", "dataset", "--json")[1]) == []
    assert genrec("plugins", "list", "--kind", "datasets")[0] == 3


@pytest.mark.parametrize("name", ["part", "part-alias", "interaction/part", "acme/part", "interaction/acme/part"])
def test_show(name, genrec, registry):
    registry.register(Offers("part"), distribution="acme", version="0.3")
    code, out, _ = genrec("plugins", "show", name, "--json")
    assert code == 0
    [details] = json.loads(out)
    assert details["qualified name"] == "acme/part"
    assert details["factory"] == "acme.part:Part"
    assert details["fields"] == [
        {"name": "width", "type": "int > 0", "default": "4", "description": "Width of the part"},
        {"name": "label", "type": "str", "default": "required", "description": ""},
    ]
    text = genrec("plugins", "show", name)[1]
    assert "Width of the part" in text
    assert "acme 0.3" in text


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (str | None, "str | null"),
        (Literal["a", "b"], "a | b"),
        (Annotated[float, Field(ge=0, lt=1)], "float >= 0, < 1"),
        (list[PositiveInt], "list of int > 0"),
        (tuple[int, ...], "list of int"),
        (tuple[float, float], "[float, float]"),
        (dict[str, PartConfig], "mapping of PartConfig"),
        (Annotated[list[int], Field(min_length=2)], "list of int (at least 2 items)"),
    ],
)
def test_types_in_words(annotation, text):
    field = create_model("Model", value=(annotation, ...)).model_fields["value"]
    assert type_text(field.annotation, field.metadata) == text


def test_every_builtin_component_can_be_shown(genrec):
    for component in Registry():
        code, out, err = genrec("plugins", "show", f"{component.record.kind}/{component.qualified_name}")
        assert (code, err) == (0, ""), component.name
        assert component.record.summary in out


def test_show_of_unknown_and_clashing_names(genrec, registry):
    registry.register(Offers("part"), distribution="acme")
    code, _, err = genrec("plugins", "show", "prt")
    assert (code, err) == (3, "unknown component 'prt', did you mean 'part'?\n")
    registry.register(Offers("part"), distribution="zeta")
    code, _, err = genrec("plugins", "show", "part")
    assert code == 3
    assert "offered by 'acme/part' and 'zeta/part'" in err


def test_doctor_of_a_sound_installation(genrec, registry):
    registry.register(Offers("part"), distribution="acme")
    assert genrec("plugins", "doctor") == (0, "all plugins are in order: 1 components\n", "")


def test_doctor_reports_failures_clashes_and_broken_configs(genrec, registry):
    class BadConfig:
        @hookimpl
        def genrec_interactions(self):
            return [InteractionRecord(name="bad", config="no_such_module:C", factory="a:B", summary="Bad")]

    registry.register(Offers("part"), distribution="acme")
    registry.register(Offers("part"), distribution="zeta")
    registry.register(Broken(), distribution="luckless", name="main")
    registry.register(BadConfig(), distribution="bad", name="main")
    registry.disabled.append("sleepy:main")
    code, out, _ = genrec("plugins", "doctor")
    assert code == 1
    assert "FAILED    luckless:main: genrec_interactions raised ZeroDivisionError: no luck" in out
    assert "| Traceback" in out
    assert "FAILED    bad:main: interaction 'bad' cannot be used: 'no_such_module:C' cannot be imported" in out
    assert "DISABLED  sleepy:main" in out
    assert "CLASH     interaction interaction 'part' is offered by" not in out
    assert "CLASH     interaction 'part' is offered by 'acme/part' and 'zeta/part'" in out
    report = json.loads(genrec("plugins", "doctor", "--json")[1])
    assert [failure["plugin"] for failure in report["failed"]] == ["luckless:main", "bad:main"]
    assert [clash["name"] for clash in report["clashes"]] == ["part", "part-alias"]


def test_doctor_imports_factories_only_when_asked(genrec, registry):
    registry.register(Offers("part"), distribution="acme", name="main")
    assert genrec("plugins", "doctor")[0] == 0
    code, out, _ = genrec("plugins", "doctor", "--factories")
    assert code == 1
    assert "'acme.part:Part' cannot be imported" in out


def test_doctor_says_which_one_a_settled_name_means(genrec, registry):
    registry.register(Offers("part"), distribution="genrec-plugins")
    registry.register(Offers("part"), distribution="acme")
    code, out, _ = genrec("plugins", "doctor")
    assert code == 0
    assert "CLASH     interaction 'part' means genrec-plugins/part" in out


@pytest.mark.parametrize(
    ("kind", "key"), [("run", "model"), ("lum", "objective"), ("tokenize", "tokenizer"), ("uqa", "llm")]
)
def test_schema_of_every_file(kind, key, genrec):
    code, out, _ = genrec("schema", kind)
    assert code == 0
    assert key in json.loads(out)["properties"]
    code, _, err = genrec("schema", kind + "s")
    assert code != 0
    assert f"there is no file '{kind}s', did you mean '{kind}'" in err
