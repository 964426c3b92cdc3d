"""Configs of the built-in interaction archs (all but FAT's, see ``fat_config``). Imports no torch.

Shape letters: B rows, T = F + 1 tokens (token 0 is ``dense_features``), D embedding width, P = T(T-1)/2 token pairs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from genrec_registry import Config
from genrec_registry.sizes import Layers, Ratio, Sizes, Width

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class DotConfig(Config):
    """DLRM's pair-wise dot products; nothing to set."""


class MlpConfig(Config):
    """No interaction: the tokens, flattened; nothing to set."""


class DcnConfig(Config):
    """DCNv2's cross network."""

    num_layers: Layers = Field(default=3, description="cross layers")
    low_rank_dim: Width | Literal["full"] | None = Field(
        default=64, description="rank of each layer's matrix; 'full' (or null) for one square matrix a layer"
    )


class ProjectionConfig(Config):
    """DLRM's projected interaction: two MLP branches and the product of what they make."""

    hidden_sizes: Sizes = Field(default=(128,), description="hidden layers of each branch")
    branch1_features: Width = Field(default=16, description="F1: vectors of width D that branch 1 makes")
    branch2_features: Width = Field(default=16, description="F2: vectors of width D that branch 2 makes")


class TransformerConfig(Config):
    """A pre-norm transformer encoder over one row's tokens."""

    num_layers: Layers = Field(default=2, description="encoder layers")
    num_heads: Width = Field(default=2, description="attention heads; must divide the embedding width")
    ffn_width: Width = Field(default=64, description="hidden width of the feed-forward network")
    dropout: Rate = Field(default=0.0, description="dropout on both residual branches")
    readout: Literal["flatten", "mean"] = Field(default="flatten", description="how T tokens become one vector")


class AutoIntConfig(Config):
    """AutoInt's self-attention layers."""

    num_layers: Layers = Field(default=3, description="interacting layers")
    num_heads: Width = Field(default=2, description="attention heads")
    attention_dim: Width = Field(default=32, description="d', the width of one head; tokens become d' x heads")
    residual: bool = Field(default=True, description="add W_res e before the ReLU (equation 8)")


class FmConfig(Config):
    """Factorization machine."""

    deep: bool = Field(
        default=True,
        description="also hand the flattened tokens to the over arch, as DeepFM does; "
        "if false the over arch sees the first-order and the pair term alone",
    )


class FwfmConfig(FmConfig):
    """Field-weighted factorization machine: one scalar for each token pair."""


class FmfmConfig(FmConfig):
    """Field-matrixed factorization machine: one D x D matrix for each token pair."""


class FfmConfig(Config):
    """Field-aware factorization machine; tables have width T x pair_dim."""

    pair_dim: Width = Field(default=4, description="width of a token's embedding toward one other token")


class OnnConfig(FfmConfig):
    """Operation-aware network: FFM's products and each token's own slice; tables have width T x pair_dim."""


class FinalMlpConfig(Config):
    """FinalMLP: two gated MLP streams and their bilinear fusion."""

    stream1_sizes: Sizes = Field(default=(256, 128), min_length=1, description="layers of stream 1")
    stream2_sizes: Sizes = Field(default=(256, 128), min_length=1, description="layers of stream 2")
    num_heads: Width = Field(default=8, description="heads of the fusion; must divide both streams' last width")
    feature_gating: bool = Field(
        default=True, description="gate each stream's input (stream-specific feature selection)"
    )
    gate_hidden: Width = Field(default=64, description="hidden width of each gate")
    gate1_tokens: tuple[str, ...] = Field(
        default=(), description="names of the tokens that steer stream 1's gate; a learned vector if empty"
    )
    gate2_tokens: tuple[str, ...] = Field(
        default=(), description="names of the tokens that steer stream 2's gate; a learned vector if empty"
    )
    dropout: Rate = Field(default=0.0, description="dropout after each layer of the streams")

    @model_validator(mode="after")
    def _heads_divide_streams(self) -> FinalMlpConfig:
        for name, sizes in (("stream1_sizes", self.stream1_sizes), ("stream2_sizes", self.stream2_sizes)):
            if sizes[-1] % self.num_heads:
                raise ValueError(f"{name} ends in {sizes[-1]}, which num_heads = {self.num_heads} does not divide")
        return self


class MaskNetConfig(Config):
    """MaskNet: blocks guided by a mask computed from the embeddings."""

    mode: Literal["parallel", "serial"] = Field(default="parallel", description="blocks side by side, or in a chain")
    num_blocks: Layers = Field(default=3, description="mask blocks")
    block_width: Width = Field(default=64, description="output width of one block")
    reduction_ratio: Ratio = Field(
        default=1.0, description="hidden width of a mask's generator, as a multiple of its input width T x D"
    )
    dropout: Rate = Field(default=0.0, description="dropout on each block's output")


class WukongConfig(Config):
    """Wukong: stacked factorization machines."""

    num_layers: Layers = Field(default=3, description="Wukong layers")
    fmb_tokens: Width = Field(default=8, description="n_F: tokens that the factorization machine block makes")
    lcb_tokens: Width = Field(default=8, description="n_L: tokens that the linear compression block makes")
    rank: Width = Field(default=8, description="k: columns of the projection Y in X X^T Y")
    fmb_hidden_sizes: Sizes = Field(default=(128,), description="hidden layers of the block's MLP")


class RankMixerConfig(Config):
    """RankMixer: parameter-free token mixing and one feed-forward network for each token."""

    num_layers: Layers = Field(default=2, description="RankMixer blocks")
    num_tokens: Width = Field(default=8, description="mixer tokens, and heads of the mixing")
    width: Width = Field(default=64, description="width of a mixer token; a multiple of num_tokens")
    ffn_multiplier: Width = Field(default=2, description="hidden width of a feed-forward network, in widths")
    dropout: Rate = Field(default=0.0, description="dropout on each feed-forward network's output")
    readout: Literal["mean", "flatten"] = Field(default="mean", description="how the tokens become one vector")

    @model_validator(mode="after")
    def _tokens_divide_width(self) -> RankMixerConfig:
        if self.width % self.num_tokens:
            raise ValueError(f"width = {self.width} is not a multiple of num_tokens = {self.num_tokens}")
        return self


def pair_embedding_dim(config: FfmConfig, num_tokens: NonNegativeInt) -> int:
    """Table width that ``ffm`` and ``onn`` need: one slice of ``pair_dim`` toward each token.

    Args:
        config: the interaction's config.
        num_tokens: T.

    Example::

        >>> pair_embedding_dim(FfmConfig(pair_dim=4), 27)
        108
    """
    return num_tokens * config.pair_dim
