"""The scripts of the benchmarks: each is run by one function, and a user's mistake is one sentence and exit code 2."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

import genrec_plugins.benchmarks
from genrec_plugins.benchmarks import runner, serving_load
from genrec_plugins.files import check_writable
from genrec_registry import DataError, SetupError

FOLDER = Path(genrec_plugins.benchmarks.__file__).parent
#: module below genrec_plugins.benchmarks -> arguments with a path that is wrong: there is nothing at {nothing}, and
#: {file} is no folder
WRONG = {
    "arrivals": "{file} {nothing}/log",
    "packing_speed": "movielens={nothing}",
    "serving_history": "{nothing}",
    "serving_load": "{nothing} {nothing} {nothing}",
    "soak": "--out {file}/soak.json",
    "speed.__main__": "--parts loader --data {nothing}",
    "speed.growth_compute": "--axes batch --out {file}/growth",
    "speed.growth_data": "--data {nothing}",
    "tokenizer_speed": "--items nowhere",
}


def scripts() -> list[str]:
    """Modules that are run, save those that another Python runs."""
    found = []
    for path in FOLDER.rglob("*.py"):
        if "__name__ == '__main__'" in ast.unparse(ast.parse(path.read_text())) and path.parent.name != "scripts":
            found.append(".".join(path.relative_to(FOLDER).with_suffix("").parts))
    return sorted(found)


def test_every_script_is_tried() -> None:
    assert scripts() == sorted(WRONG)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_path_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "tokenizer_speed":
        pytest.importorskip("faiss", reason="the extra [bench] is not installed")
    (tmp_path / "file").touch()
    words = WRONG[name].format(nothing=tmp_path / "nothing", file=tmp_path / "file").split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.delitem(sys.modules, f"genrec_plugins.benchmarks.{name}", raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"genrec_plugins.benchmarks.{name}", run_name="__main__")
    said = capsys.readouterr().err
    assert stopped.value.code == 2, said
    assert said.splitlines()[-1].startswith(("error: ", "Error: ", "╰")), said
    assert "Traceback" not in said
    assert str(tmp_path) in said or name == "tokenizer_speed"


def _says(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        runner.run(main, [])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_what_a_user_can_mend_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert _says(DataError("a.txt: is empty"), capsys) == "error: a.txt: is empty\n"
    assert _says(FileNotFoundError(2, "No such file", "x"), capsys) == "error: x: No such file\n"
    assert "needs the module 'faiss'" in _says(ModuleNotFoundError("no", name="faiss"), capsys)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    def main() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        runner.run(main, [])


def test_a_server_that_ends_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_load, "serve_way", print)
    with pytest.raises(SetupError, match="'ours' ended with 0"), serving_load.servers(["ours"], tmp_path, tmp_path):
        pass


def test_a_path_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "a.json")
    assert (tmp_path / "new").is_dir()
    with pytest.raises(DataError, match=r"new: cannot be written \(it is a directory\); name another --out"):
        check_writable(tmp_path / "new")
