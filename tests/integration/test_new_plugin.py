"""A package of each kind from ``genrec new plugin``: installed in a fresh environment, its own tests are green."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

from genrec_plugins.templates.new_plugin import PluginNames, new_plugin
from genrec_registry import KINDS, Registry
from tests.integration.environment import Environment
from tests.test_docs import blocks_of

#: kind -> package; two of them get a component of another name
PACKAGES = {kind: f"{'genrec' if kind in ('dataset', 'encoder') else 'acme'}-our-{kind}" for kind in KINDS}
COMPONENTS = {kind: package.removeprefix("genrec-") for kind, package in PACKAGES.items()}


class Packages(Environment):
    """The five packages, whose sources lie in ``source``, installed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "venv")
        self.source = folder / "source"
        for kind, package in PACKAGES.items():
            new_plugin(PluginNames(package=package, kind=kind), self.source / package)
        done = self.pip_install(*(str(self.source / package) for package in PACKAGES.values()), cwd=self.source)
        assert done.returncode == 0, done.stderr

    def run_tests(self, report: Path, *options: str) -> dict[str, Counter[str]]:
        """Outcomes of the packages' own tests, by package; in one process, so that torch is imported once."""
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *options]
        folders = [f"{package}/tests" for package in PACKAGES.values()]
        self.run(*command, f"--junitxml={report}", f"--rootdir={self.source}", *folders, cwd=self.source)
        found: dict[str, Counter[str]] = {package: Counter() for package in PACKAGES.values()}
        for case in ET.parse(report).iter("testcase"):
            package = case.get("classname", "").split(".")[0]
            outcome = {child.tag for child in case} & {"failure", "error", "skipped"} or {"passed"}
            found[package][outcome.pop()] += 1
        return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return Packages(tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def outcomes(environment: Packages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter[str]]:
    """All of their tests but those on two ranks, which the long form runs as well."""
    return environment.run_tests(tmp_path_factory.mktemp("report") / "report.xml", "-k", "not distributed")


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_of_each_kind_passes_its_own_tests(kind: str, outcomes: dict[str, Counter[str]]) -> None:
    found = outcomes[PACKAGES[kind]]
    assert found["passed"] >= 8
    assert found["failure"] == found["error"] == 0


@pytest.mark.long
@pytest.mark.distributed
def test_they_pass_on_two_ranks(environment: Packages, tmp_path: Path) -> None:
    found = environment.run_tests(tmp_path / "report.xml", "-k", "distributed")
    trained = {package for package, outcome in found.items() if outcome["passed"] == 1}
    assert trained == {PACKAGES["interaction"], PACKAGES["encoder"]}


def test_they_are_found_and_listing_them_loads_nothing(environment: Packages) -> None:
    code = f"""
import sys
from genrec_registry import Registry, parse_component
registry = Registry(strict=True)
for kind, name in {COMPONENTS!r}.items():
    component = registry.get(kind, name)
    assert component.record.status == "stable" and component.record.since == component.version == "0.1.0", component
    assert not any(module.startswith(("acme_our", "genrec_our")) and "plugin" not in module
                   for module in sys.modules if "." in module), sorted(sys.modules)
    print(component.qualified_name, component.plugin)
for kind, name in {COMPONENTS!r}.items():
    registry.get(kind, name).record.load_config()
print({{"torch", "torchrec", "polars"}} & set(sys.modules))
"""
    expected = [f"{PACKAGES[kind]}/{name} {name}" for kind, name in COMPONENTS.items()]
    assert environment.run("-c", code, cwd=environment.source).splitlines() == [*expected, "set()"]


def test_this_process_does_not_have_them() -> None:
    names = {component.name for component in Registry()}
    assert not names & set(COMPONENTS.values())


def test_the_commands_of_their_workflows_run(environment: Packages) -> None:
    genrec = ["-m", "genrec_plugins.cli.main"]
    environment.run(*genrec, "plugins", "doctor", cwd=environment.source)
    for kind, name in COMPONENTS.items():
        workflow = (environment.source / PACKAGES[kind] / ".github" / "workflows" / "test.yml").read_text()
        [words] = re.findall(r"genrec (plugins show .*)", workflow)
        assert name in environment.run(*genrec, *words.split(), cwd=environment.source)


def test_examples_in_their_docstrings_and_readmes_are_right(environment: Packages, tmp_path: Path) -> None:
    """In one process: the examples of every module, and the YAML of every README."""
    modules = [
        f"{package.replace('-', '_')}.{path.stem}"
        for package in PACKAGES.values()
        for path in (environment.source / package / "src").rglob("*.py")
        if path.stem != "__init__"
    ]
    blocks = [
        (package, block.code)
        for package in PACKAGES.values()
        for block in blocks_of(environment.source / package / "README.md")
        if block.language == "yaml"
    ]
    assert len(blocks) == len(PACKAGES)
    (tmp_path / "blocks.json").write_text(json.dumps(blocks))
    code = f"""
import doctest, importlib, json
tried = 0
for name in {modules!r}:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not result.failed, name
    tried += result.attempted > 0
print(tried)
from genrec_plugins.config import parse_run
from genrec_plugins.tokenizers.fit_config import parse_tokenize
from genrec_registry import parse_yaml
for package, text in json.load(open({str(tmp_path / "blocks.json")!r})):
    data = parse_yaml(text, name=package).data
    if "tokenizer" in data:
        parse_tokenize(data)
    else:
        parse_run({{"dataset": {{"type": "criteo-kaggle", "path": "x"}}, "model": {{"interaction": "dot"}}}} | data)
"""
    assert environment.run("-c", code, cwd=environment.source).splitlines()[-1] == str(len(PACKAGES))


@pytest.mark.long
def test_a_run_trains_with_three_of_them(environment: Packages, tmp_path: Path) -> None:
    """Rows from the dataset, tokens from the field type, mixed by the interaction: clicks depend on the path alone."""
    paths = ["Shoes > Trail", "Shoes > Road", "Hats > Caps", "Hats > Bonnets"]
    rows = [
        {"click": int((row * 7919) % 10 < (8 if row % 2 else 2)), "path": paths[row % 4], "price": (row * 31) % 17}
        for row in range(4000)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "run.yaml").write_text(f"""
dataset:
  type: {COMPONENTS["dataset"]}
  path: {tmp_path / "rows.jsonl"}
  label: click
  strings: [path]
  numbers: [price]
split: {{type: shuffled, seed: 1}}
fields:
  path: {{type: {COMPONENTS["field-type"]}, levels: 2}}
  price: {{type: numeric-bucket, method: quantile}}
model: {{embedding_dim: 4, over_arch: [8], interaction: {{type: {COMPONENTS["interaction"]}}}}}
train: {{batch_size: 256, epochs: 3, threads: 1, embedding_lr: 0.1, dense_lr: 0.01}}
""")
    command = ["-m", "genrec_plugins.cli.main", "train", str(tmp_path / "run.yaml"), "--json", "--quiet"]
    options = ["--out", str(tmp_path / "run"), "--prepared", str(tmp_path / "prepared")]
    report = json.loads(environment.run(*command, *options, cwd=tmp_path))
    assert report["test"]["auc"] > 0.7  # the true probabilities score 0.8
