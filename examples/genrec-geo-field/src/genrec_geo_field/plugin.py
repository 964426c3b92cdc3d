"""What the entry point names: the hook that offers the field type. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from genrec_registry import FieldTypeRecord, hookimpl

GENREC_PLUGIN_API = ">=1.0,<2"


@hookimpl
def genrec_field_types() -> Iterable[FieldTypeRecord]:
    """Offer ``geohash``."""
    yield FieldTypeRecord(
        name="geohash",
        config="genrec_geo_field.config:GeohashConfig",
        factory="genrec_geo_field.field:Geohash",
        summary="Latitude and longitude to geohash cells at two precisions",
        since="0.1.0",
    )
