"""Options of FAT; torch-free, so that a run's config is checked before anything heavy is imported."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from genrec_registry import Config
from genrec_registry.sizes import Layers, Ratio, Width


class FatConfig(Config):
    """Field-Aware Transformer (arXiv 2511.12081).

    Where the paper leaves a choice, the default is what ``docs/fat-study.md`` found better on validation rows, and
    the paper's own form is an option.

    Example::

        >>> FatConfig(mode="hyper", width=32, num_heads=2).num_layers
        1
    """

    mode: Literal["full", "hyper", "shared"] = Field(
        "full",
        description="full: one free matrix a field; hyper: composed from shared bases (paper 3.4); "
        "shared: one matrix for all fields, a plain transformer",
    )
    num_layers: Layers = Field(1, description="L, blocks")
    width: Width | None = Field(
        None, description="d, token width; embeddings of another width get a linear map of their own field; null: D"
    )
    num_heads: Width = Field(4, description="H, heads; must divide the width")
    ffn_ratio: Ratio = Field(2.0, description="d_ff / d")
    modulation: Literal["paper", "one-plus", "none"] = Field(
        "one-plus",
        description="the F x F table w that multiplies the scores: drawn from N(0, 0.01) (paper), "
        "from 1 + N(0, 0.01), or left out",
    )
    modulation_per_head: bool = Field(False, description="a table for each head, H x F x F")
    residual: Literal["block", "two"] = Field(
        "two", description="block: one residual around the block (paper, figure 1); two: around attention and FFN each"
    )
    readout: Literal["sum", "mean", "flatten", "target"] = Field(
        "flatten", description="what leaves the tokens: their sum (paper), mean, concatenation, or one named token"
    )
    target: str | None = Field(None, description="the token that readout 'target' takes, by name")
    norm_eps: float = Field(
        1e-2, gt=0, description="LayerNorm's epsilon; a larger one lets small (rare-id) embeddings stay small"
    )
    branch_scale: float = Field(
        0.1, ge=0, description="initial scale of W_V and W_2; small: the block begins near the identity"
    )
    final_norm: bool = Field(False, description="LayerNorm before the readout")
    dropout: float = Field(0.0, ge=0, lt=1, description="on attention's and the FFN's outputs")
    num_bases: Width = Field(64, description="M, base matrices of a parameter kind (mode hyper)")
    meta_dim: Width = Field(64, description="k, width of a field's meta-embedding (mode hyper)")
    top_k: Width = Field(3, description="K, bases a field's matrix is composed of (mode hyper)")

    @model_validator(mode="after")
    def _consistent(self) -> FatConfig:
        if self.top_k > self.num_bases:
            raise ValueError(f"top_k is {self.top_k}, more than num_bases {self.num_bases}; lower top_k")
        if (self.readout == "target") != (self.target is not None):
            raise ValueError("'target' names the token of readout 'target'; give both or neither")
        if self.width is not None and self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}; change one of them")
        return self
