"""Built-in interaction archs."""

RECORDS = ()
