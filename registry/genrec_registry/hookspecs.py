"""The hooks a plugin may implement, one for each kind of component.

A plugin is a module (or object) named by an entry point of the group ``genrec.plugins``. Each hook returns an
iterable of records and registers nothing itself::

    # acme_genrec/plugin.py            [project.entry-points."genrec.plugins"]  acme = "acme_genrec.plugin"
    from genrec_registry import InteractionRecord, hookimpl

    @hookimpl
    def genrec_interactions():
        yield InteractionRecord(name="acme-cross", config="acme_genrec.cross:CrossConfig",
                                factory="acme_genrec.cross:Cross", summary="Cross with gates")
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from genrec_registry.records import (
    DatasetRecord,
    EncoderRecord,
    FieldTypeRecord,
    InteractionRecord,
    TokenizerRecord,
)

PROJECT = "genrec"
ENTRY_POINT_GROUP = "genrec.plugins"
#: Version of the hooks, records and contracts. A plugin states what it needs: ``GENREC_PLUGIN_API = ">=1.0,<2"``.
PLUGIN_API_VERSION = "1.0"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """The hook signatures; pluggy reads them."""

    @hookspec
    def genrec_field_types(self) -> Iterable[FieldTypeRecord]:  # type: ignore[empty-body]
        """Offer field types."""

    @hookspec
    def genrec_datasets(self) -> Iterable[DatasetRecord]:  # type: ignore[empty-body]
        """Offer dataset adapters."""

    @hookspec
    def genrec_tokenizers(self) -> Iterable[TokenizerRecord]:  # type: ignore[empty-body]
        """Offer semantic-ID tokenizers."""

    @hookspec
    def genrec_encoders(self) -> Iterable[EncoderRecord]:  # type: ignore[empty-body]
        """Offer behaviour-sequence encoders."""

    @hookspec
    def genrec_interactions(self) -> Iterable[InteractionRecord]:  # type: ignore[empty-body]
        """Offer interaction archs."""
