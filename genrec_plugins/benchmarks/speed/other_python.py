"""A way that runs in another Python, since its packages cannot live beside ours; it reports its own seconds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Self

from genrec_registry import SetupError

SCRIPTS = Path(__file__).parent / "scripts"
_SHOWN = 300


class OtherPython:
    """A script that stays alive: it answers with its facts once it is ready, then does one turn for each line it gets.

    Imports and start-up are so outside the time, and a first turn warms up whatever else there is.

    Args:
        python: the interpreter.
        script: file name below :data:`SCRIPTS`; see the scripts there for the protocol.
        arguments: of the script.

    Raises:
        SetupError: it cannot be started, or fails.
    """

    def __init__(self, python: str, script: str, *arguments: object) -> None:
        self._name = f"{python} {script}"
        self._errors = TemporaryFile()  # noqa: SIM115 - closed in __exit__
        command = [python, str(SCRIPTS / script), *(str(argument) for argument in arguments)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
            )
        except OSError as error:
            raise SetupError(f"{python}: cannot be run ({error.strerror}), expected a Python; mend its path") from error
        self.facts = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the script ends with its input
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def turn(self) -> float:
        """Let it do its work once; its own seconds."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # _answer says what it died of
        self.facts = self.facts | self._answer()
        return float(self.facts["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return dict(json.loads(line))
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        raise SetupError(f"{self._name}: failed ({''.join(last)[:_SHOWN]}); mend that Python's packages")
