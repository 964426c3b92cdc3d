"""Latitude and longitude as geohash cells: an example of a field type that lives in its own package."""
