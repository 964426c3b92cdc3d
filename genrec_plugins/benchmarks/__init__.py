"""Comparisons of interactions under one protocol: same rows, same budget, several seeds, exact metrics."""
