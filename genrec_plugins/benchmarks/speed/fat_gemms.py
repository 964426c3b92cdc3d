"""FAT against its own matrix products alone, and against a transformer whose weights all fields share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genrec_plugins.benchmarks.speed.cpu import on_the_cpu, one_thread
from genrec_plugins.benchmarks.speed.options import Options
from genrec_plugins.benchmarks.speed.paired import Timed, race
from genrec_plugins.interactions.configs import TransformerConfig
from genrec_plugins.interactions.fat import Fat
from genrec_plugins.interactions.fat_config import FatConfig
from genrec_plugins.interactions.transformer import TransformerInteraction
from genrec_registry import InteractionContext

WIDTHS = (64, 128, 256)
HEADS = 4
FFN_RATIO = 2.0


@dataclass(frozen=True)
class Product:
    """``G`` products of ``[m, k]`` with ``[k, n]``."""

    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Of the forward; the backward has twice as many."""
        return 2 * self.batch * self.m * self.k * self.n

    def work(self) -> Callable[[], object]:
        """Forward and backward of this product on tensors of its own: three batched GEMMs."""
        left, right = torch.randn(self.batch, self.m, self.k), torch.randn(self.batch, self.k, self.n)
        gradient = torch.randn(self.batch, self.m, self.n)

        def run() -> tuple[Tensor, Tensor, Tensor]:
            forward = torch.bmm(left, right)
            return forward, torch.bmm(gradient, right.transpose(1, 2)), torch.bmm(left.transpose(1, 2), gradient)

        return run


def fat_products(config: FatConfig, fields: int, batch_size: int, width: int) -> list[Product]:
    """The matrix products of FAT's forward, mode ``full``, tokens as wide as the embeddings.

    Args:
        config: FAT's options.
        fields: F.
        batch_size: B.
        width: d.

    Example::

        >>> [product.n for product in fat_products(FatConfig(num_heads=2), fields=3, batch_size=5, width=8)]
        [24, 3, 4, 16, 8]
    """
    hidden, head = round(config.ffn_ratio * width), width // config.num_heads
    rows = batch_size * config.num_heads
    block = [
        Product(fields, batch_size, width, 3 * width),
        Product(rows, fields, head, fields),
        Product(rows, fields, fields, head),
        Product(fields, batch_size, width, hidden),
        Product(fields, batch_size, hidden, width),
    ]
    return block * config.num_layers


def both_ways(module: nn.Module, fields: int, batch_size: int, width: int) -> Callable[[], object]:
    """Forward and backward of an interaction, gradients of its inputs included."""
    dense = torch.randn(batch_size, width, requires_grad=True)
    sparse = torch.randn(batch_size, fields - 1, width, requires_grad=True)
    with torch.no_grad():
        gradient = torch.randn_like(module(dense, sparse))

    def run() -> None:
        module.zero_grad(set_to_none=True)
        dense.grad = sparse.grad = None
        module(dense, sparse).backward(gradient)

    return run


def context_of(fields: int, width: int) -> InteractionContext:
    """F tokens of width d."""
    return InteractionContext(embedding_dim=width, token_names=tuple(f"field_{index}" for index in range(fields)))


def fat_gemms(
    options: Options, widths: Sequence[int] = WIDTHS, *, fields: int = 39, batch_size: int = 1024
) -> list[Timed]:
    """FAT's forward and backward beside bare calls of the same products: the ratio is the share of their rate.

    Args:
        options: turns.
        widths: d, each a part of the table.
        fields: F.
        batch_size: B.
    """
    found = []
    with one_thread():
        for width in widths:
            config = FatConfig(num_heads=HEADS, ffn_ratio=FFN_RATIO)
            fat = both_ways(Fat(config, context_of(fields, width)), fields, batch_size, width)
            products = fat_products(config, fields, batch_size, width)
            bare = _all(product.work() for product in products)
            found += race(
                f"FAT, width {width}",
                {
                    "FAT forward + backward": on_the_cpu(fat),
                    "its matrix products alone": on_the_cpu(bare),
                },
                amount=3e-9 * sum(product.flops for product in products),
                unit="GFLOP/s",
                turns=options.turns,
                notes={
                    "its matrix products alone": f"the ratio is FAT's share of this rate; B {batch_size}, F {fields}"
                },
            )
    return found


def _all(works: Iterable[Callable[[], object]]) -> Callable[[], object]:
    """All of them, one after the other."""
    listed = list(works)
    return lambda: [work() for work in listed]


def fat_transformer(
    options: Options, widths: Sequence[int] = (16, 64), *, fields: int = 39, batch_size: int = 1024
) -> list[Timed]:
    """FAT (a matrix a field) beside transformers of the same sizes whose fields share one matrix.

    Args:
        options: turns.
        widths: d, each a part of the table.
        fields: F.
        batch_size: B.
    """
    found = []
    with one_thread():
        for width in widths:
            hidden = round(FFN_RATIO * width)
            fat = Fat(FatConfig(num_heads=HEADS, ffn_ratio=FFN_RATIO), context_of(fields, width))
            shared = TransformerInteraction(
                TransformerConfig(num_layers=1, num_heads=HEADS, ffn_width=hidden), context_of(fields, width)
            )
            ways = {
                "FAT": fat,
                "transformer, shared weights": shared,
                "nn.TransformerEncoderLayer": _Layer(width, hidden),
            }
            found += race(
                f"FAT block, width {width}",
                {name: on_the_cpu(both_ways(module, fields, batch_size, width)) for name, module in ways.items()},
                amount=batch_size,
                unit="rows/s",
                turns=options.turns,
                notes=dict.fromkeys(ways, f"B {batch_size}, F {fields}, {HEADS} heads, FFN {hidden}"),
            )
    return found


class _Layer(nn.Module):
    """PyTorch's own pre-norm layer over the tokens of a row, flattened."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            width, HEADS, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        tokens: Tensor = self.layer(torch.cat([dense_features.unsqueeze(1), sparse_features], dim=1))
        return tokens.flatten(1)
