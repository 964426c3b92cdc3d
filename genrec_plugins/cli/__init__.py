"""The ``genrec`` command; :mod:`genrec_plugins.cli.main` has the table of its commands."""
