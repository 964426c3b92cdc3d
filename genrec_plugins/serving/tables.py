"""Embedding tables of an exported model: as they were trained, in half precision, or quantised row by row.

int8 and int4 keep a scale and a shift for each row, by FBGEMM's rule: ``value = scale * code + shift``. What is stored
is FBGEMM's own bytes, so that TorchRec's quantised collections look rows up without making floats of a whole table.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
import torchrec.quant.embedding_modules as quantised_modules
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from genrec_registry import ConfigError, ModelError

Tables = Literal["fp32", "fp16", "int8", "int4"]
TABLES: tuple[Tables, ...] = get_args(Tables)
#: what a quantised table's scales and shifts are called, behind the name of its weight
SCALE_SHIFT = "_scale_shift"

_TYPES: Mapping[str, DataType] = {"fp16": DataType.FP16, "int8": DataType.INT8, "int4": DataType.INT4}
#: of a stored number
BITS: Mapping[str, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
_SCALED = ("int8", "int4")


def table_names(model: nn.Module) -> list[str]:
    """State-dict names of the tables of a model.

    Example::

        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> table = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=3, feature_names=["f"])
        >>> table_names(nn.ModuleDict({"arch": EmbeddingBagCollection(tables=[table])}))
        ['arch.embedding_bags.t.weight']
    """
    return [f"{path}.{name}" for path, module in _collections(model) for name, _ in module.named_parameters()]


def quantise(weights: Mapping[str, Tensor], names: list[str], tables: Tables) -> dict[str, Tensor]:
    """A state dict whose tables are stored as ``tables`` says; the other tensors stay.

    Args:
        weights: state dict, fp32.
        names: which of them are tables.
        tables: ``fp32`` leaves all as they are.

    Raises:
        ConfigError: int4 for tables whose width is not a multiple of 4: FBGEMM stores two codes a byte, in whole words.

    Example::

        >>> found = quantise({"t.weight": torch.tensor([[0.0, 1.0, 2.0, 3.0]])}, ["t.weight"], "int8")
        >>> found["t.weight"].tolist(), found["t.weight_scale_shift"].shape
        ([[0, 85, 170, 255]], torch.Size([1, 2]))
    """
    stored = dict(weights)
    if tables == "fp32":
        return stored
    for name in names:
        table = weights[name].float().contiguous()
        if tables == "fp16":
            stored[name] = table.half()
            continue
        if tables == "int4" and table.shape[1] % 4:
            raise ConfigError(
                f"--tables int4: '{name}' has width {table.shape[1]}, expected a multiple of 4; take int8, or train "
                "with another model.embedding_dim"
            )
        fused = torch.ops.fbgemm.FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf(table, BITS[tables])
        stored[name] = fused[:, :-4].contiguous()
        stored[name + SCALE_SHIFT] = fused[:, -4:].contiguous().view(torch.float16)
    return stored


def dequantise(codes: Tensor, scale_shift: Tensor, bits: int) -> Tensor:
    """Rows as floats: what FBGEMM computes while it looks them up.

    Args:
        codes: ``[N, D * bits / 8]`` uint8; of two codes in a byte the low one is first.
        scale_shift: ``[N, 2]`` fp16.
        bits: 8 or 4.

    Returns:
        ``[N, D]``.

    Example::

        >>> table = torch.randn(5, 8)
        >>> stored = quantise({"t": table}, ["t"], "int4")
        >>> bool((dequantise(stored["t"], stored["t_scale_shift"], 4) - table).abs().max() < 0.25)
        True
    """
    values = codes.float()
    if bits == 4:  # in floats, as not every runtime shifts bytes
        high = torch.floor(values / 16)
        values = torch.stack([values - 16 * high, high], dim=2).flatten(1)
    return values * scale_shift[:, 0:1].float() + scale_shift[:, 1:2].float()


def install_tables(model: nn.Module, weights: Mapping[str, Tensor], tables: Tables) -> None:
    """Put stored tables into a model whose tables have no memory yet (meta device), in place.

    Args:
        model: its collections are TorchRec's; the quantised kinds take their place.
        weights: what :func:`quantise` gave; the tables' tensors are used as they are, not copied.
        tables: how they are stored.

    Raises:
        ModelError: a table is missing, or of another size.
    """
    for path, collection in _collections(model):
        of = {name: f"{path}.{name}" for name, _ in collection.named_parameters()}
        for name, parameter in collection.named_parameters():
            _check(of[name], parameter, weights, tables)
        if tables == "fp32":
            for name in of:
                bag = collection.get_submodule(name.rpartition(".")[0])
                bag.weight = nn.Parameter(weights[of[name]], requires_grad=False)
        else:
            pairs = {name.split(".")[-2]: _pair(of[name], weights) for name in of}
            parent, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(parent), attribute, _quantised(collection, pairs, tables))


def _collections(model: nn.Module) -> list[tuple[str, Any]]:
    found = (EmbeddingBagCollection, EmbeddingCollection)
    return [(path, module) for path, module in model.named_modules() if isinstance(module, found)]


def _check(name: str, parameter: Tensor, weights: Mapping[str, Tensor], tables: Tables) -> None:
    rows, width = parameter.shape
    shape = (rows, width // 2 if tables == "int4" else width)
    expected = {name: shape} | ({name + SCALE_SHIFT: (rows, 2)} if tables in _SCALED else {})
    for key, size in expected.items():
        if key not in weights or tuple(weights[key].shape) != size:
            found = list(weights[key].shape) if key in weights else "nothing"
            raise ModelError(f"table '{key}': found {found}, expected {list(size)}; export the run again")


def _pair(name: str, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Codes and scales as FBGEMM's bytes."""
    scale_shift = weights.get(name + SCALE_SHIFT)
    return weights[name].view(torch.uint8), None if scale_shift is None else scale_shift.view(torch.uint8)


def _quantised(collection: Any, pairs: dict[str, tuple[Tensor, Tensor | None]], tables: Tables) -> nn.Module:
    bags = isinstance(collection, EmbeddingBagCollection)
    configs = copy.deepcopy(collection.embedding_bag_configs() if bags else collection.embedding_configs())
    for config in configs:
        config.data_type = _TYPES[tables]
    given: Any = {"device": torch.device("cpu"), "table_name_to_quantized_weights": pairs}
    if bags:
        return quantised_modules.EmbeddingBagCollection(configs, is_weighted=False, **given)
    return quantised_modules.EmbeddingCollection(configs, **given)
