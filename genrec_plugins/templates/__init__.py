"""What ``genrec new`` writes: a copier template in ``plugin/``, and the code that fills it in."""
