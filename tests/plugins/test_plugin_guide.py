"""docs/plugin-guide.md: its components pass the kit, and it leaves out nothing that a plugin can offer."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import genrec_registry
from genrec_registry import KINDS, PLUGIN_API_VERSION, Record, contracts
from genrec_registry.records import Status
from tests.test_docs import blocks_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugin-guide.md"
TEXT = PAGE.read_text(encoding="utf-8")


def run_kit(tmp_path: Path, chosen: str) -> str:
    code = "\n".join(block.code for block in blocks_of(PAGE) if block.language == "python")
    (tmp_path / "test_guide.py").write_text(code + "\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, "test_guide.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GENREC_CONFORMANCE_TIMEOUT": "300"},  # other tests may run, too
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_components_pass_the_kit(tmp_path):
    """All five suites, in a process of their own as an author runs them."""
    [passed] = re.findall(r"(\d+) passed", run_kit(tmp_path, "not distributed"))
    assert int(passed) > 40


@pytest.mark.long
@pytest.mark.distributed
def test_its_modules_train_on_two_ranks(tmp_path):
    assert "2 passed" in run_kit(tmp_path, "distributed")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_hook_record_and_suite(kind):
    record = KINDS[kind]
    assert f"Hook `{record.hook}`, record `{record.__name__}`, factory `" in TEXT
    assert f"{kind.replace('-', '_')}_suite(" in TEXT
    further = {field.name for field in dataclasses.fields(record)} - {
        field.name for field in dataclasses.fields(Record)
    }
    for name in further:
        assert f"`{name}`" in TEXT or f"{name}=" in TEXT


def test_every_field_of_a_record_and_every_status_is_explained():
    for field in dataclasses.fields(Record):
        assert f"| `{field.name}` |" in TEXT, field.name
    for status in Status.__args__:
        assert f"`{status}`" in TEXT


def test_every_contract_is_named():
    """The protocols and facts that plugins give and take; SPLITS, Split and the like are no things to make."""
    types = {name for name in contracts.__all__ if name != "Json" and isinstance(getattr(contracts, name), type)}
    types |= {"MergeableFitter"} & set(dir(genrec_registry))
    missing = {name for name in types if not re.search(rf"`[^`]*\b{name}\b", TEXT)}
    assert missing == set()


def test_the_members_of_the_protocols_are_named():
    for protocol in (contracts.Dataset, contracts.Tokenizer, contracts.FieldType, contracts.FittedField):
        members = {name for name in vars(protocol) if not name.startswith("_")}
        missing = {name for name in members if not re.search(rf"`[^`]*\b{name}\b", TEXT)}
        assert missing == set(), protocol.__name__


def test_what_is_said_to_be_stable_exists():
    stated = TEXT.partition("The plugin API is what")[2].partition("All else may change")[0]
    from genrec_adapters.datasets import blocks, configs, files
    from genrec_adapters.field_types import base, columns, vocabulary
    from genrec_plugins.encoders import after, causal_stack, varlen
    from genrec_plugins.tokenizers import base as tokenizers

    homes = (blocks, configs, files, base, vocabulary, after, causal_stack, varlen, tokenizers, genrec_registry)
    names = {name for name in re.findall(r"`(\w+)`", stated) if name not in ("genrec_registry", "columns")}
    assert len(names) > 10
    assert [name for name in sorted(names) if not any(hasattr(home, name) for home in homes)] == []
    assert columns.text
    assert PLUGIN_API_VERSION in TEXT.partition("## Versions")[2]
