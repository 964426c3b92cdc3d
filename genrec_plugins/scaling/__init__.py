"""Scaling: a run trained at several sizes of one key, and the laws that its metric follows."""
