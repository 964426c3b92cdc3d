"""While the site is built (``hooks`` in ``mkdocs.yml``): writes the pages on the YAML files from the pydantic models,
and takes the examples along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

Schema = dict[str, Any]

#: kind of ``genrec schema`` -> page, title, first words
PAGES = {
    "run": ("reference/config.md", "Run files", "Of `genrec train`, `preprocess`, `bench`, `tune` and `profile`."),
    "lum": ("reference/lum-config.md", "Pre-training files", "Of `genrec lum pretrain`."),
    "tokenize": ("reference/tokenize-config.md", "Tokenizer files", "Of `genrec tokenize fit`."),
    "uqa": ("reference/uqa-config.md", "UQABench files", "Of `genrec uqa train`."),
}
_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
_PLURAL = {"minItems": "at least {} of them", "maxItems": "at most {} of them"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site, and the examples that pages link to, which lie beside ``docs``."""
    from genrec_plugins.cli.schema import FILES

    for kind, (path, title, used_by) in PAGES.items():
        text = page(title, used_by, kind, FILES[kind]().model_json_schema())
        files.append(File.generated(config, path, content=text))
    for example in sorted((Path(config.docs_dir).parent / "examples").glob("*.*")):
        files.append(File.generated(config, f"examples/{example.name}", abs_src_path=str(example)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the examples as they are in the repository, made those of the site."""
    return markdown.replace("](../examples/", "](examples/")


def page(title: str, used_by: str, kind: str, schema: Schema) -> str:
    """The page of one kind of file: its own keys, then those of each section, in the order they are met."""
    parts = [
        f"# {title}",
        f"{used_by} Written from the models that check the file; `genrec schema {kind}` prints the same as JSON Schema "
        "with the plugins that you have installed.",
        *_section(schema, schema),
    ]
    for name in _reachable(schema):
        definition = schema["$defs"][name]
        parts += [f"## {_label(name, schema)} {{ #{_anchor(name)} }}", *_section(definition, schema)]
    return "\n\n".join(parts) + "\n"


def _section(definition: Schema, schema: Schema) -> Iterator[str]:
    """What a section is for, then its keys as a table."""
    if definition is not schema and "description" in definition:
        yield _plain(definition["description"].split("\n\n")[0]).rstrip(".") + "."
    names = _names(definition, schema)
    if len(names) > 1:
        yield f"Also called `{'`, `'.join(names[1:])}`."
    rows = [
        f"| `{key}` | {_kind(value, schema)} | {_default(value, key in definition.get('required', ()))} "
        f"| {_plain(value.get('description', ''))} |"
        for key, value in definition.get("properties", {}).items()
        if not (names and key == _discriminator(definition, schema))
    ]
    if rows:
        yield "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])


def _names(definition: Schema, schema: Schema) -> list[str]:
    """The values that choose this section where there are several, the component's own name first."""
    me = next((name for name, other in schema.get("$defs", {}).items() if other is definition), None)
    found = {name for union in _unions(schema) for name, to in union["mapping"].items() if to == f"#/$defs/{me}"}
    own = {name.rpartition("/")[2] for name in found if "/" in name}
    return sorted((name for name in found if "/" not in name), key=lambda name: (name not in own, name))


def _discriminator(definition: Schema, schema: Schema) -> str:
    """The key that holds such a name."""
    return next(
        union["propertyName"]
        for union in _unions(schema)
        for to in union["mapping"].values()
        if schema["$defs"][to.rpartition("/")[2]] is definition
    )


def _unions(node: Any) -> Iterator[Schema]:
    """Every choice between sections below a node."""
    if isinstance(node, dict):
        if "mapping" in node and "propertyName" in node:
            yield node
        for value in node.values():
            yield from _unions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _unions(value)


def _label(name: str, schema: Schema) -> str:
    """What users call a section: the value that chooses it, else the model's name."""
    return next(iter(_names(schema["$defs"][name], schema)), name)


def _reachable(schema: Schema) -> list[str]:
    """The sections, in the order in which a reader meets them."""
    found: dict[str, None] = {}
    todo = [{key: value for key, value in schema.items() if key != "$defs"}]
    while todo:
        for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(todo.pop(0))):
            if name not in found:
                found[name] = None
                todo.append(schema["$defs"][name])
    return list(found)


def _kind(value: Schema, schema: Schema) -> str:
    """What may stand there."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{_label(name, schema)}](#{_anchor(name)})"
    if "allOf" in value:
        return _kind(value["allOf"][0], schema)
    for word in ("anyOf", "oneOf"):
        if word in value:
            return ", ".join(dict.fromkeys(_kind(one, schema) for one in value[word]))
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    bounds = [text.format(value[key]) for key, text in _BOUNDS.items() if key in value]
    bounds += [text.format(value[key]) for key, text in _PLURAL.items() if key in value]
    kind = value.get("type", "anything")
    if kind == "array" and ("items" in value or "prefixItems" in value):
        inner = value.get("prefixItems") or [value["items"]]
        kind = "list of " + ", ".join(dict.fromkeys(_kind(one, schema) for one in inner))
    elif kind == "object" and isinstance(value.get("additionalProperties"), dict):
        kind = "name: " + _kind(value["additionalProperties"], schema)
    return " ".join([kind, ", ".join(bounds)]).strip()


def _default(value: Schema, required: bool) -> str:
    if required:
        return "*required*"
    if isinstance(value.get("default"), dict):
        return "those below"
    return f"`{json.dumps(value['default'])}`" if "default" in value else ""


def _plain(text: str) -> str:
    """Text that may stand in a table: on one line, and no pipe or bracket that Markdown takes for its own."""
    line = " ".join(text.split()).replace("``", "`")
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", line).replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;")


def _anchor(name: str) -> str:
    return name.lower()
