"""Scripts that another Python runs."""
