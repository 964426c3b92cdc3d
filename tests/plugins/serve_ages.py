"""A server of its own process, over a model without torch: ``python serve_ages.py EXPORT SECONDS``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from genrec_plugins.serving.running import run_server
from genrec_plugins.serving.server import create_app
from genrec_plugins.serving.settings import ServeSettings
from tests.plugins.serve_cases import Ages


def main(directory: str, seconds: str) -> None:
    """Serve until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = ServeSettings(batch_rows=2, watch_seconds=0.05, deadline_seconds=30, grace_seconds=30)
    app = create_app(directory, lambda place: Ages(place, float(seconds)), settings)
    run_server(app, "127.0.0.1", 0, settings)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main(*sys.argv[1:])
