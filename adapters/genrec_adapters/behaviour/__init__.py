"""Users' events: histories, catalogues, leave-one-out and time splits, CTR rows without leakage. Torch-free."""
