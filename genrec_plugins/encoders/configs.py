"""Options of the sequence encoders. Imports no torch.

Shape letters: T events of B rows, h the encoder's own width, D the width of what it returns.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genrec_registry import Config
from genrec_registry.sizes import Layers, Ratio, Sizes, Width

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Attention = Literal["bucketed", "packed", "padded"]
ATTENTION = "how rows of unequal length are laid out for attention; bucketed is fastest, all give the same result"


class LumConfig(Config):
    """Large User Model (arXiv 2502.08309).

    Example::

        >>> LumConfig(hidden=32, num_heads=4).num_layers
        2
    """

    hidden: Width = Field(64, description="h, width of a token")
    num_layers: Layers = Field(2, description="transformer blocks")
    num_heads: Width = Field(2, description="attention heads; must divide hidden")
    ffn_ratio: Ratio = Field(8 / 3, description="hidden width of the SwiGLU network, in h")
    positions: Literal["rope", "learned"] = Field("rope", description="rotary, or one learned vector a position")
    dropout: Rate = Field(0.0, description="on tokens and on both branches of a block")
    num_queries: Width = Field(1, description="N, learned queries, each of which gives one user token")
    attention: Attention = Field("bucketed", description=ATTENTION)

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> LumConfig:
        if self.hidden % self.num_heads or (self.positions == "rope" and self.hidden // self.num_heads % 2):
            even = " into an even width, which RoPE needs" if self.positions == "rope" else ""
            raise ValueError(f"hidden {self.hidden} cannot be split by num_heads {self.num_heads}{even}; change one")
        return self


class HstuConfig(Config):
    """Hierarchical Sequential Transduction Units (arXiv 2402.17152)."""

    hidden: Width | None = Field(None, description="h, width of a token; null: D, items as they are looked up")
    num_layers: Layers = Field(2, description="blocks")
    num_heads: Width = Field(2, description="attention heads; must divide the width")
    dropout: Rate = Field(0.2, description="on tokens and on what each block's gate lets through")
    attention: Attention = Field("bucketed", description=ATTENTION)


class SasRecConfig(Config):
    """Self-attentive sequential recommendation (arXiv 1808.09781)."""

    hidden: Width | None = Field(None, description="h, width of a token; null: D, items as they are looked up")
    num_layers: Layers = Field(2, description="blocks")
    num_heads: Width = Field(1, description="attention heads; must divide the width")
    dropout: Rate = Field(0.2, description="on tokens, branches and attention weights")
    attention: Attention = Field("bucketed", description=ATTENTION)


class MeanPoolConfig(Config):
    """The mean of the events' vectors; nothing to set."""


class DinConfig(Config):
    """Deep Interest Network (arXiv 1706.06978)."""

    hidden_sizes: Sizes = Field(
        (64, 16), description="hidden layers of the network that weighs an event against the target"
    )
