"""The geohash field: the conformance kit's suite, and geohashes against the definition."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from genrec_geo_field.geohash import geohash

from genrec_plugins.testing import field_type_suite

PLACES = pl.DataFrame(
    {
        "lat": [57.64911, 42.6, None, -25.38, 42.61, 0.0, 90.0, 91.0, 57.649, -90.0] * 2,
        "lon": [10.40744, -5.6, 1.0, -49.26, -5.61, 0.0, 180.0, 0.0, 10.407, -180.0] * 2,
    }
)

TestGeohash = field_type_suite("geohash", {"latitude": "lat", "longitude": "lon", "min_count": 2}, PLACES)


def slow_geohash(latitude: float, longitude: float, length: int) -> str:
    """Halve the ranges in turn, as the definition says."""
    ranges, values, bits = [[-180.0, 180.0], [-90.0, 90.0]], [longitude, latitude], ""
    for turn in range(5 * length):
        low, high = ranges[turn % 2]
        middle = (low + high) / 2
        upper = values[turn % 2] >= middle
        ranges[turn % 2] = [middle, high] if upper else [low, middle]
        bits += "1" if upper else "0"
    alphabet = "0123456789bcdefghjkmnpqrstuvwxyz"
    return "".join(alphabet[int(bits[start : start + 5], 2)] for start in range(0, len(bits), 5))


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [(57.64911, 10.40744, "u4pruydqqvj"), (42.6, -5.6, "ezs42"), (-25.382708, -49.265506, "6gkzwgjzn820")],
)
def test_published_geohashes(latitude: float, longitude: float, expected: str) -> None:
    """Examples from geohash.org and Wikipedia."""
    found = geohash(np.array([latitude]), np.array([longitude]), len(expected))
    assert found[0].decode() == expected


@pytest.mark.parametrize("length", [1, 2, 5, 8, 12])
def test_geohashes_follow_the_definition(length: int) -> None:
    """Random points, and points on and just below the borders of cells."""
    draw = np.random.default_rng(length)
    latitude, longitude = draw.uniform(-90, 90, 300), draw.uniform(-180, 180, 300)
    borders = np.arange(-16, 17) * 180 / 32
    latitude = np.concatenate([latitude, borders, np.nextafter(borders, -np.inf).clip(-90), [0.0, -1e-300]])
    longitude = np.concatenate([longitude, 2 * borders, np.nextafter(2 * borders, -np.inf).clip(-180), [-1e-300, 0.0]])
    found = geohash(latitude, longitude, length)
    assert [value.decode() for value in found] == [
        slow_geohash(*point, length) for point in zip(latitude, longitude, strict=True)
    ]
