"""Why a loss or a prediction is not finite: asked when that has happened, so that it costs nothing until then.

The causes are looked for in the order of how sure they are: a value of the batch, a weight that was broken before it,
the first module whose output is broken, a value that is merely huge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.datasets.utils import Batch

from genrec_adapters.manifest import LABEL_COLUMN
from genrec_adapters.prepared import Prepared
from genrec_adapters.rows import load_rows
from genrec_plugins.training.ranks import world_size
from genrec_registry import DenseFeature, GenrecError

#: floats beyond this are told where nothing worse is found
HUGE = 1e6
_AGAIN = "mend the input and run 'genrec preprocess' again"
_LOWER = "lower the learning rates"


def why_not_finite(
    model: nn.Module, batch: Batch, prepared: Prepared, *, stepped: bool = False, amp: bool = False
) -> str:
    """One clause that names field and rows, table and row, or module; with several ranks all call it.

    Args:
        model: ``DLRMTrain``, wrapped or not.
        batch: of this rank, where the mean loss of all ranks is NaN or infinite.
        prepared: where the batch comes from.
        stepped: whether the weights have been updated with the gradients of that loss, so that they say nothing more.
        amp: whether the forward runs in bf16.

    Returns:
        The clause, the surest that a rank found; it ends with what to do.
    """
    causes = [_bad_input(batch, prepared.dense_features, prepared)]
    if not stepped and not causes[0]:
        causes += [_bad_weight(model) or _first_bad_output(model, batch, prepared.dense_features, amp)]
    causes += [_huge_input(batch, prepared.dense_features)]
    causes += [f"{_LOWER}, or look for extreme values in the dense fields"]
    mine = next((place, cause) for place, cause in enumerate(causes) if cause)
    told: list[Any] = [mine]
    if world_size() > 1:
        told = [None] * world_size()
        dist.all_gather_object(told, mine)
    return str(min(told)[1])


def why_predictions_not_finite(
    model: nn.Module, batch: Batch, dense: Sequence[DenseFeature], *, amp: bool = False
) -> str:
    """The same of predictions: what is wrong with the rows that were scored, or with the model; asks no other rank.

    Args:
        model: ``DLRMTrain``, wrapped or not, that scored the batch.
        batch: with predictions that are NaN or infinite.
        dense: the dense features of the batch.
        amp: whether the forward runs in bf16.
    """
    causes = [_bad_input(batch, dense), _bad_weight(model)]
    if world_size() == 1:  # the other ranks would have to take part in a forward
        causes += [_first_bad_output(model, batch, dense, amp)]
    causes += [_huge_input(batch, dense), f"the model diverged, {_LOWER}"]
    return next(cause for cause in causes if cause)


def _bad_input(batch: Batch, dense: Sequence[DenseFeature], prepared: Prepared | None = None) -> str:
    """Dense features and labels of the batch that are not finite."""
    labels = batch.labels.detach().float().cpu()
    for name, values in [*_columns(batch, dense), (LABEL_COLUMN, labels[:, None])]:
        rows = _bad_rows(values)
        if rows.numel():
            what = "the label" if name == LABEL_COLUMN else f"dense field '{name}'"
            bad = values[rows[0]]
            value = bad[~torch.isfinite(bad)][0].item()
            told = f"{what} is {value} in {_some(rows)} of this batch"
            return f"{told}{_in_files(prepared, name)}; {_AGAIN}" if prepared else f"{told}; mend the input"
    return ""


def _columns(batch: Batch, dense: Sequence[DenseFeature]) -> Iterator[tuple[str, Tensor]]:
    """Name and ``[B, width]`` of each dense feature."""
    values, start = batch.dense_features.detach().float().cpu(), 0
    for feature in dense:
        yield feature.name, values[:, start : start + feature.width]
        start += feature.width


def _bad_rows(values: Tensor) -> Tensor:
    return (~torch.isfinite(values)).any(dim=1).nonzero().flatten()


def _some(rows: Tensor) -> str:
    """Numbers from 1, the first of them."""
    shown = ", ".join(str(int(row) + 1) for row in rows[:3])
    return f"row{'s' * (rows.numel() > 1)} {shown}{', ...' * (rows.numel() > 3)}"


def _in_files(prepared: Prepared, name: str) -> str:
    """Where the training rows have such values; empty if that cannot be said."""
    features = [feature for feature in prepared.dense_features if feature.name == name]
    found: list[tuple[Path, int]] = []
    try:
        for path, shard in zip(prepared.shard_paths("train"), prepared.manifest.splits["train"].shards, strict=True):
            rows = load_rows([path], [shard.rows], [], features)
            bad = ~np.isfinite(rows.dense if features else rows.labels[:, None]).all(axis=1)
            found += [(path, int(row) + 1) for row in np.flatnonzero(bad)]
    except GenrecError:  # what is wrong there is another story
        return ""
    return f" ({len(found):,} of the training rows, the first is row {found[0][1]} of {found[0][0]})" if found else ""


def _bad_weight(model: nn.Module) -> str:
    """The first weight that is not finite."""
    for name, value in model.state_dict().items():
        shards = value.local_shards() if hasattr(value, "local_shards") else None
        parts = [(0, value)] if shards is None else [(part.metadata.shard_offsets[0], part.tensor) for part in shards]
        for first, tensor in parts:
            weight = tensor.detach()
            if not weight.is_floating_point():
                continue
            rows = _bad_rows(weight.reshape(len(weight) if weight.dim() else 1, -1))
            if not rows.numel():
                continue
            if ".embedding_bags." in name or ".embeddings." in name:
                table = name.removesuffix(".weight").rpartition(".")[2]
                return f"table '{table}' is not finite in {_table_rows(rows + first)}, since an earlier step; {_LOWER}"
            return f"the weight '{_short(name)}' is not finite, since an earlier step; {_LOWER}"
    return ""


def _table_rows(rows: Tensor) -> str:
    return f"{rows.numel():,} row{'s' * (rows.numel() > 1)}, the first is row {int(rows[0])}"


@torch.no_grad()
def _first_bad_output(model: nn.Module, batch: Batch, dense: Sequence[DenseFeature], amp: bool) -> str:
    """Run the forward again, and see where it breaks first; the loss comes last. A huge value is told with it."""
    found: list[tuple[str, float]] = []

    def look(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            for tensor in _tensors(output):
                bad = tensor[~torch.isfinite(tensor)] if tensor.is_floating_point() else tensor[:0]
                if bad.numel() and not found:
                    found.append((name, bad.flatten()[0].item()))

        return hook

    handles = [module.register_forward_hook(look(_short(name))) for name, module in model.named_modules() if name]
    was_training, then = model.training, _huge_input(batch, dense) or _LOWER
    device = next(model.parameters()).device
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            model.eval()(batch.to(device))
    except Exception as error:  # a model that cannot take such values says so in its own words
        return f"the forward fails with {type(error).__name__}; {_LOWER}" if not found else _told(*found[0], then)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return _told(*found[0], then) if found else ""


def _told(name: str, value: float, then: str) -> str:
    return f"the output of '{name}' is the first that is {value}; {then}"


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output.detach()
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
    elif callable(getattr(output, "values", None)) and not isinstance(output, dict):  # KeyedTensor, JaggedTensor
        yield from _tensors(output.values())
    elif isinstance(output, dict):
        for part in output.values():
            yield from _tensors(part)


def _huge_input(batch: Batch, dense: Sequence[DenseFeature]) -> str:
    largest = [(float(values.abs().max()), name) for name, values in _columns(batch, dense) if values.numel()]
    value, name = max(largest, default=(0.0, ""))
    if value < HUGE:
        return ""
    return f"dense field '{name}' reaches {value:.3g} in this batch; give it a transform, or {_LOWER}"


def _short(name: str) -> str:
    """A module's or weight's name in the bare DLRM."""
    for prefix in ("_dmp_wrapped_module.", "module.", "model."):
        name = name.removeprefix(prefix)
    return name.removeprefix("module.").removeprefix("model.")
