"""What computes the scores of an exported model: TorchRec's modules, the plain form of them, or onnxruntime.

``eager``: the model as it was trained (folded, quantised collections). ``plain``: the same over one matrix of ids,
which has fewer calls and so is quicker for few rows. ``script``: ``plain`` as TorchScript, made when it is opened.
``onnx``: ``model.onnx`` by onnxruntime. None of them reads a pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchrec.datasets.utils import Batch

from genrec_plugins.models import FieldDLRM
from genrec_plugins.serving.formats import FILES, require_formats, torch_script
from genrec_plugins.serving.plain import PlainScorer, id_columns, plain_inputs
from genrec_registry import ConfigError, SparseFeature

Runtime = Literal["auto", "eager", "plain", "script", "onnx"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
Probabilities = NDArray[np.float32]
Score = Callable[[Batch], Probabilities]


def choose(runtime: Runtime, model: FieldDLRM) -> Runtime:
    """What ``auto`` stands for: ``plain``, or ``eager`` where an encoder reads a history without padding.

    Args:
        runtime: as asked for.
        model: the model.
    """
    if runtime != "auto":
        return runtime
    return "plain" if model.behaviour_arch is None else "eager"


def eager_score(model: nn.Module) -> Score:
    """Scores by the model itself.

    Args:
        model: ``(dense_features, sparse_features) -> [B, 1]`` logits.
    """

    @torch.no_grad()
    def score(batch: Batch) -> Probabilities:
        logits = model(batch.dense_features, batch.sparse_features)
        found: Probabilities = torch.sigmoid(logits.float()).reshape(-1).numpy()
        return found

    return score


def plain_score(
    scorer: PlainScorer, features: Sequence[SparseFeature], model: FieldDLRM, *, script_floats: int | None = None
) -> Score:
    """Scores by the plain form of a model.

    Args:
        scorer: the plain form.
        features: the sparse features in order.
        model: gives hashed ids their rows.
        script_floats: make TorchScript of it; a row has so many floats.

    Raises:
        ConfigError: TorchScript cannot be made of it.
    """
    forward: Any = scorer
    if script_floats is not None:
        ids = torch.zeros(2, id_columns(features)[2], dtype=torch.int64)
        some = {"dense_features": torch.zeros(2, script_floats), "ids": ids}
        try:
            with torch.no_grad():
                forward = torch_script(scorer, some)
        except Exception as error:  # a tracer can raise anything
            problem = str(error).strip().splitlines()[0]
            raise ConfigError(f"runtime 'script': the model cannot be traced ({problem}); take 'eager'") from error

    @torch.no_grad()
    def score(batch: Batch) -> Probabilities:
        found: Probabilities = forward(*plain_inputs(batch, features, model)).numpy()
        return found

    return score


def onnx_score(directory: Path, features: Sequence[SparseFeature], model: FieldDLRM, threads: int) -> Score:
    """Scores by onnxruntime.

    Args:
        directory: has ``model.onnx``.
        features: the sparse features in order.
        model: gives hashed ids their rows.
        threads: of onnxruntime.

    Raises:
        ConfigError: the export has no such file.
        SetupError: onnxruntime is not installed.
    """
    path = directory / FILES["onnx"]
    if not path.is_file():
        raise ConfigError(
            f"runtime 'onnx': {directory} has no {path.name} (model_card.md says why); export with --formats onnx"
        )
    require_formats(["onnx"])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}

    def score(batch: Batch) -> Probabilities:
        dense, ids = plain_inputs(batch, features, model)
        feed = {"dense_features": dense.numpy(), "ids": ids.numpy()}
        found = session.run(None, {name: value for name, value in feed.items() if name in names})[0]
        return np.asarray(found, dtype=np.float32)

    return score
