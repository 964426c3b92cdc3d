"""Training and exact evaluation of a run."""
