"""A trained model over plain tensors, for runtimes that know no KeyedJaggedTensor: torch.export, TorchScript, ONNX.

- ids stand in one matrix ``[B, L]``: each feature has as many columns as it has ids at most, and -1 where it has none
- the rows of all tables stand in one matrix, so that a batch is one gather
- quantised rows become floats after the gather
"""

# No postponed annotations: torch.fx writes what it reads here, and TorchScript reads what fx writes.
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.datasets.utils import Batch
from torchrec.sparse.jagged_tensor import JaggedTensor

from genrec_plugins.models import FieldDLRM
from genrec_plugins.models.behaviour_arch import BehaviourArch, behaviour_tables
from genrec_plugins.models.dlrm import StockDLRM, embedding_tables
from genrec_plugins.serving.padded import padded_form
from genrec_plugins.serving.tables import BITS, SCALE_SHIFT, dequantise
from genrec_registry import FieldSpec, SparseFeature


class RowTable(nn.Module):
    """The rows of several tables below each other: ``[...] -> [..., D]``.

    Args:
        weights: of each table, as :func:`~genrec_plugins.serving.tables.quantise` stores it.
        scale_shifts: of each, if they are quantised to int8 or int4.
        bits: of a stored number.

    Example::

        >>> table = RowTable([torch.zeros(2, 4), torch.ones(3, 4)], [], 32)
        >>> table(torch.tensor([[1, 2]])).sum(dim=2).tolist()
        [[0.0, 4.0]]
    """

    weight: Tensor
    scale_shift: Tensor

    def __init__(self, weights: Sequence[Tensor], scale_shifts: Sequence[Tensor], bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("weight", torch.cat(list(weights)))
        self.quantised = bool(scale_shifts)
        if scale_shifts:
            self.register_buffer("scale_shift", torch.cat(list(scale_shifts)))

    def forward(self, places: Tensor) -> Tensor:
        """Rows at these places, as floats."""
        flat = places.reshape(-1)
        rows = self.weight.index_select(0, flat)
        if self.quantised:
            rows = dequantise(rows, self.scale_shift.index_select(0, flat), self.bits)
        return rows.float().unflatten(0, places.shape)


class PooledTables(nn.Module):
    """``[B, L] -> [B, F, D]``: the tokens of an EmbeddingBagCollection, in its order.

    Args:
        table: rows of all tables.
        columns: of the id matrix, feature after feature.
        first_rows: for each of these columns, where its table begins.
        lengths: columns of each feature.
        means: whether a feature is a mean, and not a sum.
    """

    columns: Tensor
    first_rows: Tensor

    def __init__(
        self,
        table: RowTable,
        columns: Sequence[int],
        first_rows: Sequence[int],
        lengths: Sequence[int],
        means: Sequence[bool],
    ) -> None:
        super().__init__()
        self.table = table
        self.register_buffer("columns", torch.tensor(list(columns)))
        self.register_buffer("first_rows", torch.tensor(list(first_rows)))
        self.single = all(length == 1 for length in lengths)
        self.parts = _parts(lengths, means)

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens of padded ids."""
        chosen = ids.index_select(1, self.columns)
        rows = self.table(chosen.clamp(min=0) + self.first_rows)
        if self.single:
            return rows
        there = (chosen >= 0).float().unsqueeze(2)
        tokens = []
        for begin, end, pooled, mean in self.parts:
            if not pooled:
                tokens.append(rows[:, begin:end])
                continue
            total = (rows[:, begin:end] * there[:, begin:end]).sum(dim=1, keepdim=True)
            if mean:
                total = total / there[:, begin:end].sum(dim=1, keepdim=True).clamp(min=1.0)
            tokens.append(total)
        return torch.cat(tokens, dim=1)


def _parts(lengths: Sequence[int], means: Sequence[bool]) -> list[tuple[int, int, bool, bool]]:
    """Begin, end, pooled, mean: features of one id that stand together are one part."""
    parts: list[tuple[int, int, bool, bool]] = []
    begin = 0
    for length, mean in zip(lengths, means, strict=True):
        end = begin + length
        if length == 1 and parts and not parts[-1][2]:
            parts[-1] = (parts[-1][0], end, False, False)
        else:
            parts.append((begin, end, length > 1, mean))
        begin = end
    return parts


class PlainHistory(nn.Module):
    """``[B, L] -> [B, N, D]``: user tokens of a history, whose events lie padded in the id matrix.

    An encoder without a :func:`~genrec_plugins.serving.padded.padded_form` gets them without padding, as in training;
    most graphs cannot hold that.

    Args:
        arch: the trained arch; its encoder and its projection are used.
        table: rows of its tables.
        events: encoder's name -> first column and first row of the table; each has ``max_length`` columns.
        target: the same of the target's features, one column each.
    """

    def __init__(
        self,
        arch: BehaviourArch,
        table: RowTable,
        events: Mapping[str, tuple[int, int]],
        target: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__()
        self.encoder, self.projection = arch.encoder, arch.projection
        self.padded = padded_form(arch.encoder)
        self.table = table
        self.events, self.target = dict(events), dict(target)
        self.max_length = arch.spec.max_length

    def forward(self, ids: Tensor) -> Tensor:
        """User tokens of padded ids."""
        first = next(iter(self.events.values()))[0]
        there = ids[:, first : first + self.max_length] >= 0
        lengths = there.sum(dim=1)
        target = {name: self.table(ids[:, column] + row) for name, (column, row) in self.target.items()}
        if self.padded is not None:
            padded = {
                name: self.table(ids[:, column : column + self.max_length].clamp(min=0) + row)
                for name, (column, row) in self.events.items()
            }
            tokens = self.padded(padded, lengths, target)
        else:
            offsets = torch.cat([torch.zeros_like(lengths[:1]), lengths.cumsum(0)])
            events = {}
            for name, (column, row) in self.events.items():
                places = ids[:, column : column + self.max_length][there] + row
                events[name] = JaggedTensor(values=self.table(places), lengths=lengths, offsets=offsets)
            tokens = self.encoder(events, target)
        return tokens if self.projection is None else self.projection(tokens)


class PlainScorer(nn.Module):
    """``[B, W] floats, [B, L] ids -> [B]`` probabilities, as the model it is made of.

    Args:
        model: its dense arch, interaction, over arch and encoder are used.
        tables: the pooled tables.
        history: in the place of its behaviour arch.
    """

    def __init__(self, model: FieldDLRM, tables: PooledTables, history: PlainHistory | None) -> None:
        super().__init__()
        self.tables, self.history = tables, history
        self.dense_arch, self.inter_arch, self.over_arch = model.dense_arch, model.inter_arch, model.over_arch
        self.stock = isinstance(model, StockDLRM)

    def forward(self, dense_features: Tensor, ids: Tensor) -> Tensor:
        """Probabilities."""
        tokens = self.tables(ids)
        if self.history is not None:
            tokens = torch.cat([tokens, self.history(ids)], dim=1)
        if self.dense_arch is not None and self.stock:
            first, others = self.dense_arch(dense_features), tokens
        else:
            if self.dense_arch is not None:
                tokens = torch.cat([self.dense_arch(dense_features), tokens], dim=1)
            first, others = tokens[:, 0], tokens[:, 1:]
        logits = self.over_arch(self.inter_arch(dense_features=first, sparse_features=others))
        return torch.sigmoid(logits.float()).reshape(-1)


class IdsOnly(nn.Module):
    """A scorer of a model without floats: ``[B, L] ids -> [B]``.

    Args:
        scorer: does not look at its floats.
    """

    def __init__(self, scorer: PlainScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, ids: Tensor) -> Tensor:
        """Probabilities."""
        return self.scorer(ids, ids)


def plain_scorer(
    model: FieldDLRM, fields: Sequence[FieldSpec], weights: Mapping[str, Tensor], tables: str
) -> PlainScorer:
    """The plain form of a model.

    Args:
        model: of :func:`~genrec_plugins.serving.scorer.build_scorer`.
        fields: the fitted fields.
        weights: its stored weights.
        tables: how its tables are stored.
    """
    begins = dict(zip(*id_columns([feature for field in fields for feature in field.sparse])[:2], strict=True))
    features = {feature.name: feature for field in fields for feature in field.sparse}
    prefix = "sparse_arch.embedding_bag_collection.embedding_bags"
    pooled = embedding_tables(fields, 1)
    first_of, table = _rows([f"{prefix}.{config.name}.weight" for config in pooled], weights, tables)
    columns: list[int] = []
    first_rows: list[int] = []
    lengths: list[int] = []
    means: list[bool] = []
    for config, first in zip(pooled, first_of, strict=True):
        for name in config.feature_names:
            length = features[name].max_length
            columns += range(begins[name], begins[name] + length)
            first_rows += [first] * length
            lengths.append(length)
            means.append(features[name].pooling == "mean")
    history: PlainHistory | None = None
    arch = model.behaviour_arch
    if arch is not None:
        field = next(field for field in fields if field.behaviour is not None)
        configs = behaviour_tables(field, 1)
        prefix = "behaviour_arch.embedding_collection.embeddings"
        first_of, rows = _rows([f"{prefix}.{config.name}.weight" for config in configs], weights, tables)
        firsts = {name: first for c, first in zip(configs, first_of, strict=True) for name in c.feature_names}
        events = {name: (begins[feature], firsts[feature]) for name, feature in arch.event_features.items()}
        target = {name: (begins[feature], firsts[feature]) for name, feature in arch.target_features.items()}
        history = PlainHistory(arch, rows, events, target)
    return PlainScorer(model, PooledTables(table, columns, first_rows, lengths, means), history).eval()


def _rows(names: Sequence[str], weights: Mapping[str, Tensor], tables: str) -> tuple[list[int], RowTable]:
    """Where each table begins, and the rows of all."""
    firsts = np.cumsum([0, *(len(weights[name]) for name in names)])[:-1].tolist()
    scale_shifts = [weights[name + SCALE_SHIFT] for name in names if name + SCALE_SHIFT in weights]
    return firsts, RowTable([weights[name] for name in names], scale_shifts, BITS[tables])


def id_columns(features: Sequence[SparseFeature]) -> tuple[list[str], list[int], int]:
    """Names of the features, the first column of each in the id matrix, and L.

    Example::

        >>> many = SparseFeature(name="tags", num_embeddings=9, max_length=4)
        >>> id_columns([many, SparseFeature(name="C1", num_embeddings=9)])
        (['tags', 'C1'], [0, 4], 5)
    """
    widths = [feature.max_length for feature in features]
    begins = np.cumsum([0, *widths]).tolist()
    return [feature.name for feature in features], begins[:-1], begins[-1]


def plain_inputs(batch: Batch, features: Sequence[SparseFeature], model: FieldDLRM) -> tuple[Tensor, Tensor]:
    """A batch as a :class:`PlainScorer` takes it: floats ``[B, W]`` and padded ids ``[B, L]``, int64.

    Args:
        batch: as :meth:`~genrec_plugins.serving.exported.Exported.ids` gives it.
        features: the sparse features in order.
        model: gives hashed ids of dynamic tables their rows.
    """
    sparse = batch.sparse_features
    if model.dynamic_ids is not None:
        sparse = model.dynamic_ids(sparse)
    size = sparse.stride()
    names, begins, width = id_columns(features)
    ids = torch.full((size, width), -1, dtype=torch.int64)
    for name, begin, feature in zip(names, begins, features, strict=True):
        one = sparse[name]
        if feature.max_length == 1:
            ids[:, begin] = one.values().long()
            continue
        lengths = one.lengths().long()
        row = torch.arange(size).repeat_interleave(lengths)
        place = torch.arange(len(row)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        ids[row, begin + place] = one.values().long()
    return batch.dense_features, ids
