"""Data to tensors: datasets, field types, preprocessing, batches."""
