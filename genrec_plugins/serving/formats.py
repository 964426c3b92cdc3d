"""The model as files for other runtimes: torch.export, TorchScript, ONNX, AOTInductor; each tried on real rows at once.

All compute ``dense_features [B, W] float32, ids [B, L] int64 -> [B]`` probabilities (``ids`` alone where W is 0). What
cannot be written is left out with a reason, and the export goes on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from genrec_plugins.files import written_aside
from genrec_plugins.serving.plain import IdsOnly, PlainScorer
from genrec_registry import GenrecError, SetupError

Format = Literal["export", "torchscript", "onnx", "aoti"]
FORMATS: tuple[Format, ...] = get_args(Format)
#: those that need no C++ compiler
DEFAULT: tuple[Format, ...] = ("export", "torchscript", "onnx")
FILES: Mapping[Format, str] = {
    "export": "model.pt2",
    "torchscript": "model.ts",
    "onnx": "model.onnx",
    "aoti": "model.aoti.pt2",
}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Inputs = Mapping[str, Tensor]
_Call = Callable[[Inputs], Tensor]
_REASON = 300
_HISTORY = "the encoder has no padded form, and what depends on the lengths of histories is in no graph"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Written:
    """What came of the formats.

    Args:
        files: format -> file.
        differences: format -> largest difference of a probability from the model's own, on the rows it was tried on.
        reasons: format -> why it could not be written.
    """

    files: dict[str, str] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def require_formats(formats: Sequence[Format]) -> None:
    """Refuse formats whose packages are missing, before any work is done.

    Raises:
        SetupError: onnx is asked for and not installed.
    """
    from importlib.util import find_spec

    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if "onnx" in formats and missing:
        raise SetupError(
            f'--formats onnx needs {missing[0]}, which is not installed; run pip install "genrec-plugins[export]", or '
            "leave onnx out of --formats"
        )


def write_formats(
    scorer: PlainScorer, inputs: tuple[Tensor, Tensor], directory: Path, formats: Sequence[Format], tolerance: float
) -> Written:
    """Write formats, and try each on the rows it was made with.

    Args:
        scorer: the model.
        inputs: floats ``[B, W]`` and ids ``[B, L]`` of some real rows, B at least 2.
        directory: where to.
        formats: which.
        tolerance: what a probability may differ by; a file that differs by more is not left there.
    """
    dense, ids = (part.clone() for part in inputs)
    module: nn.Module = IdsOnly(scorer) if dense.shape[1] == 0 else scorer
    given = {"ids": ids} if dense.shape[1] == 0 else {"dense_features": dense, "ids": ids}
    with torch.no_grad():
        expected = scorer(dense, ids)
    written = Written()
    maker = _Maker(module.eval(), given)
    hint = _HISTORY if scorer.history is not None and scorer.history.padded is None else ""
    for name in formats:
        path = directory / FILES[name]
        try:
            with _quiet(), torch.no_grad():
                call = maker.write(name, path)
                differences = [
                    float((call({key: value[:rows] for key, value in given.items()}) - expected[:rows]).abs().max())
                    for rows in (1, len(ids))
                ]
            difference = float(np.max(differences))  # NaN stays NaN
            if not difference <= tolerance:
                raise _Differs(f"its scores differ from the model's by {difference:.2g}")
            written.files[name], written.differences[name] = path.name, difference
        except Exception as error:  # a tracer or a compiler can raise anything
            written.reasons[name] = f"{hint} ({_reason(error)})" if hint else _reason(error)
            for leftover in directory.glob(f"{path.name}*"):
                leftover.unlink()
    return written


class _Differs(Exception):
    """A file computes something else."""


def _reason(error: BaseException) -> str:
    """One line; of errors that were caused by others, the first of all."""
    while error.__cause__ is not None and not isinstance(error, GenrecError):
        error = error.__cause__
    plain = _COLOUR.sub("", str(error))
    first = next((line.strip() for line in plain.splitlines() if line.strip()), "")
    text = first if isinstance(error, GenrecError | _Differs) else f"{type(error).__name__}: {first}"
    return text if len(text) <= _REASON else text[:_REASON] + ".."


class _Maker:
    """Writes a module in each format; what several formats start from is made once."""

    def __init__(self, module: nn.Module, given: Inputs) -> None:
        self.module, self.given = module, given
        self._program: Any = None

    def write(self, name: Format, path: Path) -> _Call:
        """Write one format, and give what reads it."""
        writers: dict[Format, Callable[[Path], _Call]] = {
            "export": self._export,
            "torchscript": self._torchscript,
            "onnx": self._onnx,
            "aoti": self._aoti,
        }
        return writers[name](path)

    def program(self) -> Any:
        """The exported program, with the number of rows left open."""
        if self._program is None:
            batch = torch.export.Dim("batch", min=1)
            shapes = {name: {0: batch} for name in self.given}
            self._program = torch.export.export(self.module, (), dict(self.given), dynamic_shapes=shapes)
        return self._program

    def _export(self, path: Path) -> _Call:
        program, file = self.program(), io.BytesIO()
        examples, program._example_inputs = program._example_inputs, None  # else a user's rows are pickled there
        torch.export.save(program, file)
        program._example_inputs = examples
        with written_aside(path) as partial:
            partial.write_bytes(file.getbuffer())
        file.seek(0)
        loaded = torch.export.load(file).module()
        return lambda given: loaded(**given)

    def _torchscript(self, path: Path) -> _Call:
        scripted = torch_script(self.module, self.given)
        file = io.BytesIO()
        torch.jit.save(scripted, file)
        with written_aside(path) as partial:
            partial.write_bytes(file.getbuffer())
        file.seek(0)
        loaded = torch.jit.load(file)
        return lambda given: loaded(**given)

    def _onnx(self, path: Path) -> _Call:
        require_formats(["onnx"])
        import onnxruntime

        program = torch.onnx.export(
            self.program(), dynamo=True, input_names=list(self.given), output_names=["probabilities"]
        )
        assert program is not None
        program.save(path)
        _flush(path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def call(given: Inputs) -> Tensor:
            feed = {name: value.numpy() for name, value in given.items()}
            return torch.from_numpy(np.asarray(session.run(None, feed)[0]))

        return call

    def _aoti(self, path: Path) -> _Call:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise SetupError(f"AOTInductor needs a C++ compiler, and there is no '{compiler}'; install one, or set CXX")
        from torch._inductor import aoti_compile_and_package, aoti_load_package

        aoti_compile_and_package(self.program(), package_path=str(path))
        _flush(path)
        loaded: Any = aoti_load_package(str(path))
        return lambda given: loaded(**given)


def torch_script(module: nn.Module, given: Inputs) -> Any:
    """A module as TorchScript: of its code by torch.fx, or of what it does with some rows where it reads a history.

    Args:
        module: a :class:`~genrec_plugins.serving.plain.PlainScorer`, or one without floats.
        given: its inputs, of any rows: what a padded history does depends on no value of theirs.
    """
    scorer = module.scorer if isinstance(module, IdsOnly) else module
    history = scorer.history if isinstance(scorer, PlainScorer) else None
    if history is None or history.padded is None:
        return torch.jit.script(torch.fx.symbolic_trace(module))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that are numbers in the trace: widths, which no row changes
        return torch.jit.trace(module, example_kwarg_inputs=dict(given), check_trace=False)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what tracers print of their progress off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        text = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
