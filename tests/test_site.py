"""The documentation's site: every page is in it, it builds without a warning, it explains every key of a file."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import yaml

from genrec_plugins.cli.schema import FILES

ROOT = Path(__file__).resolve().parents[1]


def load_hook() -> Any:
    spec = util.spec_from_file_location("config_reference", ROOT / "docs" / "hooks" / "config_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOK = load_hook()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_the_site_builds_without_a_warning_and_asks_no_other_host(site: Path) -> None:
    for page in site.rglob("index.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]+src="([^"]+)"', page.read_text())
        loaded += re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|icon)"[^>]+href="([^"]+)"', page.read_text())
        assert [url for url in loaded if "//" in url] == [], page


def test_no_link_within_the_site_is_dead(site: Path) -> None:
    dead = []
    for page in site.rglob("index.html"):
        for link in re.findall(r'<a[^>]+href="([^"#?]+)', page.read_text()):
            if "://" not in link and not link.startswith(("mailto:", "javascript:")):
                target = (page.parent / link).resolve()
                if not (target.is_file() or (target / "index.html").is_file()):
                    dead.append(f"{page.relative_to(site)}: {link}")
    assert dead == []


def test_every_page_of_docs_is_in_the_navigation() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry if isinstance(entry, list) else entry.values():
                yield from pages(inner)

    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    generated = {path for path, _, _ in HOOK.PAGES.values()}
    assert sorted(listed) == sorted(written | generated)


@pytest.mark.parametrize("kind", FILES)
def test_every_key_of_a_file_is_explained(kind: str, site: Path) -> None:
    schema = FILES[kind]().model_json_schema()
    page = text_of(site / HOOK.PAGES[kind][0].removesuffix(".md") / "index.html")
    for name, definition in {"": schema, **schema["$defs"]}.items():
        for key, value in definition.get("properties", {}).items():
            if key in ("type", "preset", "method"):  # the heading
                continue
            assert re.search(rf"\b{re.escape(key)}\b", page), f"{name}.{key}"
            if "description" in value and "`" not in value["description"]:
                assert " ".join(value["description"].split()) in page, f"{name}.{key}"


def test_values_are_told_as_users_write_them() -> None:
    schema = {
        "properties": {
            "part": {
                "oneOf": [{"$ref": "#/$defs/A"}],
                "discriminator": {"propertyName": "type", "mapping": {"a": "#/$defs/A", "d/a": "#/$defs/A"}},
            },
            "rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.5, "description": "a | b"},
            "names": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        },
        "required": ["names"],
        "$defs": {
            "A": {
                "description": "The first.\n\nMore.",
                "properties": {"type": {"const": "a"}, "on": {"type": "boolean"}},
            },
        },
    }
    page = HOOK.page("T", "Of x.", "x", schema)
    assert "| `part` | [a](#a) |  |  |" in page
    assert r"| `rate` | number > 0, ≤ 1 | `0.5` | a \| b |" in page
    assert "| `names` | list of string at least 1 of them | *required* |  |" in page
    assert "## a { #a }\n\nThe first.\n\n| key | value | default | meaning |\n|---|---|---|---|\n| `on` |" in page
