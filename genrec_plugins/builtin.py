"""The built-in plugin: everything that ships with genrec-plugins, offered through the same hooks as anyone else's.

Importing this module imports nothing heavy; records name configs and factories as strings.
"""

from __future__ import annotations

from collections.abc import Iterable

from genrec_registry import (
    DatasetRecord,
    EncoderRecord,
    FieldTypeRecord,
    InteractionRecord,
    TokenizerRecord,
    hookimpl,
)

GENREC_PLUGIN_API = ">=1.0,<2"


@hookimpl
def genrec_field_types() -> Iterable[FieldTypeRecord]:
    """Built-in field types."""
    from genrec_adapters.field_types import RECORDS

    return RECORDS


@hookimpl
def genrec_datasets() -> Iterable[DatasetRecord]:
    """Built-in dataset adapters."""
    from genrec_adapters.datasets import RECORDS

    return RECORDS


@hookimpl
def genrec_interactions() -> Iterable[InteractionRecord]:
    """Built-in interaction archs."""
    from genrec_plugins.interactions import RECORDS

    return RECORDS


@hookimpl
def genrec_tokenizers() -> Iterable[TokenizerRecord]:
    """Built-in semantic-ID tokenizers."""
    from genrec_plugins.tokenizers import RECORDS

    return RECORDS


@hookimpl
def genrec_encoders() -> Iterable[EncoderRecord]:
    """Built-in sequence encoders."""
    from genrec_plugins.encoders import RECORDS

    return RECORDS
