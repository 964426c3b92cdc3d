"""First values of tables that no process holds whole: each draws what lies with it, and what is drawn does not depend
on how the tables lie.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

#: rows that are drawn together, with a seed of their own
BLOCK_ROWS = 1 << 16


@torch.no_grad()
def draw_tables(model: nn.Module, tables: Sequence[BaseEmbeddingConfig], seed: int) -> None:
    """Draw the tables of a sharded model, by the rule of each; the generator is left as it was.

    Args:
        model: under ``DistributedModelParallel``.
        tables: their configs.
        seed: of the values; the same on all ranks.
    """
    rules = {table.name: table for table in tables}
    for name, value in model.state_dict().items():
        table = rules.get(name.removesuffix(".weight").rpartition(".")[2])
        if table is None:
            continue
        for tensor, (row, column) in _pieces(value):
            _draw(tensor, table, row, column, seed)


def _pieces(value: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """What this rank holds of a table, with its first row and column."""
    if not isinstance(value, ShardedTensor):
        yield value, (0, 0)
        return
    for shard in value.local_shards():
        row, column = shard.metadata.shard_offsets
        yield shard.tensor, (row, column)


def _draw(piece: Tensor, table: BaseEmbeddingConfig, row: int, column: int, seed: int) -> None:
    last = row + len(piece)
    with torch.random.fork_rng(devices=[]):
        for block in range(row // BLOCK_ROWS, -(-last // BLOCK_ROWS)):
            first = block * BLOCK_ROWS
            entropy = (seed, zlib.crc32(table.name.encode()), block)
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))
            drawn = torch.empty(min(BLOCK_ROWS, table.num_embeddings - first), table.embedding_dim)
            assert table.init_fn is not None  # its config gives it one
            table.init_fn(drawn)
            low, high = max(row, first), min(last, first + len(drawn))
            piece[low - row : high - row] = drawn[low - first : high - first, column : column + piece.shape[1]]
