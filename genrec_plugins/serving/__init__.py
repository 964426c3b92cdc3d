"""From a trained run to a directory that scores raw rows: export, and the server on top of it."""
