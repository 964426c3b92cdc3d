"""What a client is told when a request is not answered with scores. Torch-free."""

from __future__ import annotations

from typing import Any

from genrec_plugins.serving.schema import RowError


class Problem(Exception):
    """A request that is refused.

    Args:
        status: of the HTTP answer.
        message: what was found, what was expected, what to do.
        row: index of the row that is at fault, from 0.
        column: the raw column that is.
        retry_after: seconds after which it may be tried again, for a client to whom nothing but the load stands in the
            way.

    Example::

        >>> Problem(422, "found 1.5, expected an integer", row=2, column="age").body()
        {'error': 'found 1.5, expected an integer', 'row': 2, 'column': 'age'}
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        row: int | None = None,
        column: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.row, self.column = status, message, row, column
        self.retry_after = retry_after

    @classmethod
    def of_row(cls, error: RowError) -> Problem:
        """What a bad row is told."""
        return cls(422, str(error), row=error.row, column=error.column)

    def body(self) -> dict[str, Any]:
        """The answer's body."""
        return {"error": self.message, "row": self.row, "column": self.column}

    def headers(self) -> dict[str, str]:
        """The answer's headers."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
