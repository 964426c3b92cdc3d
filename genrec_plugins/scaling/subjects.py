"""Which kind of run a file is, so that ``genrec scale`` takes either."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from genrec_plugins.scaling.ranker import RankerSubject
from genrec_plugins.scaling.sweep import Subject
from genrec_registry import ConfigError, read_yaml


def subject_of(path: Path, overrides: Mapping[str, str], out: Path) -> Subject:
    """A run file as a subject: a ranker's has a ``model``; a pre-training file an ``encoder`` or an ``objective``.

    Args:
        path: the file.
        overrides: ``dotted.key -> YAML value`` for all cells.
        out: where prepared data may go.

    Raises:
        ConfigError: it is neither.
    """
    source = read_yaml(path)
    if "model" in source.data:
        return RankerSubject(source=source, overrides=overrides, prepared_root=out / "prepared")
    if "encoder" in source.data or "objective" in source.data:
        from genrec_plugins.scaling.lum import LumSubject

        return LumSubject(source=source, overrides=overrides)
    raise ConfigError(
        f"{path}: has neither 'model' (a run file of 'genrec train') nor 'encoder' (one of 'genrec lum pretrain')"
    )
