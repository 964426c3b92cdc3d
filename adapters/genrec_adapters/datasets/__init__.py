"""Built-in datasets."""

RECORDS = ()
