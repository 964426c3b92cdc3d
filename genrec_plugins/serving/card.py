"""The model card: what a model is, what it was trained on, what it reaches and what was done to it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_METRICS = ("auc", "logloss", "ne", "calibration")


def card_text(card: Mapping[str, Any]) -> str:
    """The card for people, in Markdown.

    Args:
        card: what ``model_card.json`` holds, see :func:`~genrec_plugins.serving.export.export_run`.
    """
    model, data = card["model"], card["data"]
    encoder = f", encoder `{model['encoder']}`" if model["encoder"] else ""
    lines = [
        f"# {card['name']}",
        "",
        f"A click model of genrec-plugins: interaction `{model['interaction']}`{encoder}, embedding width "
        f"{model['embedding_dim']}, {model['parameters_trained']:,} trained parameters. It gives the probability that "
        f"`{data['label']}` is 1.",
        "",
        f"Digest `{card['digest']}`; exported {card['exported_at']}.",
        "",
        "## What was done to it",
        "",
        f"- folded: {model['folded'] or 'nothing to fold'}",
        f"- tables: {model['tables']}; {_size(model['bytes_trained'])} of weights became {_size(model['bytes'])}",
        *(f"- {note}" for note in card["notes"]),
        "",
        "## Metrics",
        "",
        *_metrics(card["metrics"]),
        "",
        "## Files for other runtimes",
        "",
        *_formats(card["formats"], card["left_out"]),
        "",
        "## Data",
        "",
        f"{', '.join(f'{rows:,} {split}' for split, rows in data['rows'].items())} rows of `{data['dataset']}`, "
        f"prepared with config digest `{data['config_digest'][:16]}`. Files read:",
        "",
        "| file | split | bytes | SHA-256 |",
        "|---|---|---|---|",
        *(f"| {s['path']} | {s['split'] or ''} | {s['bytes']:,} | `{s['sha256']}` |" for s in data["sources"]),
        "",
        "## Raw columns",
        "",
        "| column | holds | read by |",
        "|---|---|---|",
        *(f"| {c['name']} | {_holds(c)} | {', '.join(c['fields'])} |" for c in card["schema"]["columns"]),
        "",
        "Null is a missing value everywhere. The label is never read.",
        "",
        "## Versions",
        "",
        *(f"- {kind}: {_pairs(versions)}" for kind, versions in card["versions"].items()),
        "",
    ]
    return "\n".join(lines)


def _holds(column: Mapping[str, Any]) -> str:
    words = {"text": "text", "integer": "integers", "decimal": "numbers"}[column["values"]]
    return f"lists of {words}" if column["kind"] == "list" else words


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def _pairs(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.6f}"


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics:
        return ["The run has neither validation nor test rows."]
    lines = [
        "| rows | model | AUC | logloss | NE | calibration | AUC cost | largest change of a probability |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for split, found in metrics.items():
        for model in ("trained", "exported"):
            cells = [_shown(found[model][name]) for name in _METRICS]
            last = ["", ""] if model == "trained" else [_shown(found["auc_cost"]), f"{found['max_difference']:.1e}"]
            lines.append(f"| {split}, {found[model]['rows']:,} | {model} | {' | '.join([*cells, *last])} |")
    return lines


def _formats(formats: Mapping[str, Any], left_out: Mapping[str, str]) -> list[str]:
    lines = [
        f"- {name}: `{Path(found['file']).name}`; probabilities differ by {found['max_difference']:.1e} at most"
        for name, found in formats.items()
    ]
    lines += [f"- {name}: not written. {reason}" for name, reason in left_out.items()]
    return lines or ["None was asked for."]
