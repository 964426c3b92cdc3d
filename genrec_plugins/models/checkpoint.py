"""Load a stock DLRM's weights into a model whose interaction was swapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from genrec_registry import ModelError

_WRAPPERS = ("_dmp_wrapped_module.", "_orig_mod.", "module.", "model.")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of each key.

    Args:
        loaded: keys whose tensors were copied.
        dropped: key of the checkpoint -> why it was not used.
        missing: keys of the model that the checkpoint did not fill; they keep their fresh values.
    """

    loaded: tuple[str, ...]
    dropped: Mapping[str, str]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} tensors"]
        lines += [f"dropped {key}: {reason}" for key, reason in self.dropped.items()]
        lines += [f"kept fresh {key}" for key in self.missing]
        return "\n".join(lines)


def load_stock_checkpoint(dlrm: nn.Module, checkpoint: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Copy every tensor whose name and shape fit; list what does not.

    Embeddings and dense arch of a stock checkpoint fit a swapped model; the first layer of the over arch does not,
    and then the rest of the over arch is left fresh as well, since it was trained behind that layer.

    Args:
        dlrm: the model, not wrapped.
        checkpoint: a ``.safetensors`` file, a ``torch.save`` file (read with ``weights_only``), or a state dict.
            Prefixes of DLRMTrain, DDP and DMP are taken off.

    Raises:
        ModelError: the file cannot be read, or nothing in it fits.

    Example::

        >>> model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        >>> print(load_stock_checkpoint(model, {"a.weight": torch.ones(2, 2), "b.weight": torch.ones(3, 2)}))
        loaded 1 tensors
        dropped b.weight: shape [3, 2] in the checkpoint, [2, 2] in the model
        kept fresh a.bias
        kept fresh b.bias
        kept fresh b.weight
    """
    state = dict(checkpoint) if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    ours = dlrm.state_dict()
    theirs = {_strip(key, ours): value for key, value in state.items()}
    fits: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    for key, value in theirs.items():
        if key not in ours:
            dropped[key] = "the model has no such key"
        elif not isinstance(value, Tensor) or value.shape != ours[key].shape:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            dropped[key] = f"shape {found} in the checkpoint, {list(ours[key].shape)} in the model"
        else:
            fits[key] = value
    if any(key.startswith("over_arch.") for key in dropped):
        for key in [key for key in fits if key.startswith("over_arch.")]:
            del fits[key]
            dropped[key] = "belongs to an over arch whose first layer has another shape"
    if not fits:
        raise ModelError(
            f"load_stock_checkpoint: none of the {len(state)} tensors fits; the model expects keys like "
            f"'{next(iter(ours))}', the checkpoint has keys like '{next(iter(state), '')}'"
        )
    dlrm.load_state_dict(fits, strict=False)
    return LoadReport(loaded=tuple(fits), dropped=dropped, missing=tuple(sorted(set(ours) - set(fits))))


def _strip(key: str, known: Mapping[str, Tensor]) -> str:
    while key not in known:
        shorter = next((key.removeprefix(prefix) for prefix in _WRAPPERS if key.startswith(prefix)), key)
        if shorter == key:
            return key
        key = shorter
    return key


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file; expected a .safetensors or torch.save checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds
        raise ModelError(f"{path}: is not a readable checkpoint ({type(error).__name__}: {error})") from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise ModelError(f"{path}: holds a {type(state).__name__}, expected a state dict")
    return state
