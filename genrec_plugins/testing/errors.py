"""The one error of the conformance kit."""

from __future__ import annotations


class ConformanceError(AssertionError):
    """A component breaks the contract; the message says what was seen and what to mend.

    Example::

        >>> issubclass(ConformanceError, AssertionError)  # pytest shows it as a failed test, not as a broken one
        True
    """
