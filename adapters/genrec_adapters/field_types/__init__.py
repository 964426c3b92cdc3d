"""Built-in field types."""

RECORDS = ()
