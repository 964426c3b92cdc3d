"""A table whose third part makes trouble, for tests of what becomes of a worker's."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from genrec_adapters.datasets.parquet import ParquetTable
from genrec_registry import SourceFile


class FragileTable(ParquetTable):
    """A table in small parts; what happens at row 800 is pickled with it."""

    #: kind of trouble for tables made from now on, and a file that marks that there was some
    next_trouble: tuple[str, Path] = ("", Path("died"))

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.trouble, self.mark = self.next_trouble

    def parts(self, source: SourceFile, size: int) -> Any:
        """Parts of a few row groups."""
        return super().parts(source, 20_000)

    def scan_part(self, source: SourceFile, part: Any, policy: Any, before: int) -> Any:
        """The chunks of a part, or trouble."""
        if before == 800:
            self.make_trouble()
        return super().scan_part(source, part, policy, before)

    def make_trouble(self) -> None:
        """What the test wants."""
        if self.trouble == "bug":
            raise ZeroDivisionError("of the plugin's own\nand much more")
        if self.trouble == "dies" or (self.trouble == "dies once" and not self.mark.exists()):
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
