"""Seeing what was trained: run directories listed and compared, and one HTML page about runs."""
