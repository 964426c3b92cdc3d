"""Finished cells on disk, each with the identity of what it was measured on, so that a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genrec_adapters.state import parse_json
from genrec_plugins.files import written_aside


def load_kept(path: Path, identity: str) -> dict[str, Any] | None:
    """What :func:`keep` wrote; None if it is absent, torn, or of something else.

    Args:
        path: the cell's file.
        identity: digest of the run and its data.
    """
    try:
        data = parse_json(path.read_text())
        return dict(data["cell"]) if data["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(path: Path, identity: str, cell: dict[str, Any]) -> None:
    """Write a finished cell.

    Args:
        path: the cell's file.
        identity: digest of the run and its data.
        cell: what was measured.

    Example::

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "cell.json"
        >>> keep(path, "abc", {"auc": 0.75})
        >>> load_kept(path, "abc"), load_kept(path, "abd")
        ({'auc': 0.75}, None)
    """
    with written_aside(path) as partial:
        partial.write_text(json.dumps({"identity": identity, "cell": cell}))
