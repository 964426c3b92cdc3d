"""The options of ``geohash``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from genrec_registry import Config


class GeohashConfig(Config):
    """Two columns of degrees, and the lengths of the two geohashes made of them."""

    latitude: str = Field(default="latitude", min_length=1, description="column of degrees north")
    longitude: str = Field(default="longitude", min_length=1, description="column of degrees east")
    precisions: tuple[int, int] = Field(
        default=(3, 5), description="characters of the coarse and the fine cell: 3 are about 156 km, 5 about 5 km"
    )
    min_count: PositiveInt = Field(
        default=1, description="a cell with fewer rows than this is out of vocabulary (id 0)"
    )

    @model_validator(mode="after")
    def _coarse_then_fine(self) -> Self:
        coarse, fine = self.precisions
        if not 1 <= coarse < fine <= 12:
            raise ValueError(
                f"precisions is [{coarse}, {fine}], expected two lengths from 1 to 12, the coarse one first"
            )
        return self
