"""Dense features to tokens: one token module for each field type, run side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from genrec_registry import DenseFeature, FieldSpec, ModelError, Registry, resolve


def dense_token_names(fields: Sequence[FieldSpec]) -> list[str]:
    """Names of the dense tokens in the order :class:`DenseTokens` gives them: by field type, then as declared."""
    names: list[str] = []
    for _, group in _by_type(fields):
        for feature in group:
            several = feature.tokens > 1
            names += [f"{feature.name}#{token}" if several else feature.name for token in range(feature.tokens)]
    return names


def _by_type(fields: Sequence[FieldSpec]) -> Iterator[tuple[str, list[DenseFeature]]]:
    with_dense = sorted((field for field in fields if field.dense), key=lambda field: field.type)
    for kind, group in groupby(with_dense, key=lambda field: field.type):
        yield kind, [feature for field in group for feature in field.dense]


class DenseTokens(nn.Module):
    """``[B, W] -> [B, F_dense, D]``: every dense feature becomes its own token(s), field-aware from the first layer.

    Args:
        fields: the run's fields; W is the sum of their dense widths, columns in this order.
        embedding_dim: D.
        registry: where each type's token module comes from.

    Raises:
        ModelError: a field type has dense features and no token module.

    Example::

        >>> from genrec_registry import default_registry
        >>> dense = (DenseFeature(name="I1", width=2),)
        >>> tokens = DenseTokens([FieldSpec(name="I1", type="numeric-dense", dense=dense)], 4, default_registry())
        >>> tokens(torch.rand(3, 2)).shape
        torch.Size([3, 1, 4])
    """

    def __init__(self, fields: Sequence[FieldSpec], embedding_dim: int, registry: Registry) -> None:
        super().__init__()
        start: dict[str, int] = {}
        width = 0
        for field in fields:
            for feature in field.dense:
                start[feature.name] = width
                width += feature.width
        self.in_features = width
        self.modules_by_type = nn.ModuleList()
        self.spans: list[list[tuple[int, int]]] = []
        for kind, features in _by_type(fields):
            token_module = getattr(registry.get("field-type", kind).record, "token_module", None)
            if token_module is None:
                raise ModelError(
                    f"field type '{kind}' gives dense features ({features[0].name}) but has no token_module; "
                    "add one to the FieldTypeRecord, or set model.dense: mlp"
                )
            self.modules_by_type.append(resolve(token_module)(features, embedding_dim))
            self.spans.append(_merge((start[f.name], start[f.name] + f.width) for f in features))
        self.num_tokens = len(dense_token_names(fields))

    def forward(self, dense_features: Tensor) -> Tensor:
        """Tokens in the order of :func:`dense_token_names`, ``[B, W] -> [B, F_dense, D]``."""
        tokens = []
        for module, spans in zip(self.modules_by_type, self.spans, strict=True):
            columns = [dense_features[:, begin:end] for begin, end in spans]
            tokens.append(module(columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)))
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens, dim=1)


def _merge(spans: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in spans:
        if merged and merged[-1][1] == begin:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return merged
