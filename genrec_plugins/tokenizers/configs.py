"""Configs of the built-in tokenizers and of the collision policies. Imports no torch.

Shape letters: N items, E width of an item's embedding, L levels of codes, K codes of a level, Z latent width.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from genrec_registry import Config
from genrec_registry.sizes import Count, Sizes, Width

MOST_CODES = 2**24  # of a level
Codes = Annotated[tuple[Annotated[int, Field(gt=0, le=MOST_CODES)], ...], Field(min_length=1, max_length=100)]
SmallSeed = Annotated[int, Field(ge=0, lt=2**31)]
Values = Annotated[tuple[Annotated[int, Field(ge=2, le=65_536)], ...], Field(min_length=1, max_length=100)]

_SIZES = Field(default=(256, 256, 256), description="codes of each level, first level first; they may differ")
_SEED = Field(default=0, description="of every draw; equal seeds give equal codes on one machine")


class RqKmeansConfig(Config):
    """Residual k-means (OneRec, arXiv 2502.18965, 3.1; FORGE, arXiv 2509.20904)."""

    sizes: Codes = _SIZES
    balanced: bool = Field(default=False, description="codes of a level are used about equally often")
    iterations: Count = Field(default=25, description="most Lloyd iterations a level")
    tolerance: NonNegativeFloat = Field(
        default=1e-4, description="stop a level whose error sinks by less than this share; 0 runs all iterations"
    )
    max_points_per_code: Count = Field(
        default=256, description="a level is fitted on a sample of this many items for each of its codes"
    )
    seed: SmallSeed = _SEED


class AutoencoderConfig(Config):
    """What RQ-VAE and FSQ have in common: the two MLPs and their training."""

    hidden_sizes: Sizes = Field(
        default=(256, 128), description="hidden layers of the encoder; the decoder has them in reverse"
    )
    epochs: Count = Field(default=100, description="passes over the items")
    batch_size: Count = Field(default=256, description="items of a step")
    lr: PositiveFloat = Field(default=3e-3, description="Adam's learning rate; it sinks to zero along a cosine")
    seed: SmallSeed = _SEED


class RqVaeConfig(AutoencoderConfig):
    """RQ-VAE (TIGER, arXiv 2305.05065, 3.1): an autoencoder whose latent vector is quantised level by level."""

    sizes: Codes = _SIZES
    latent_dim: Width = Field(default=32, description="Z, width of the latent vector")
    commitment: NonNegativeFloat = Field(default=0.25, description="beta, weight of the commitment loss")
    restart_below: NonNegativeFloat = Field(
        default=0.1,
        description="after an epoch, a code used less than this share of an even use is put on an item; 0 never does",
    )


class FsqConfig(AutoencoderConfig):
    """Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505)."""

    levels: Annotated[tuple[Values, ...], Field(min_length=1, max_length=100)] = Field(
        default=((8, 8, 4), (8, 8, 4), (8, 8, 4)),
        description="for each level of codes, the values of each of its latent numbers; (8, 8, 4) makes 256 codes",
    )

    @model_validator(mode="after")
    def _levels_hold_codes(self) -> FsqConfig:
        most = max(self.sizes)
        if most > MOST_CODES:
            raise ValueError(f"levels make {most} codes of one level, expected at most {MOST_CODES}; take fewer values")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each level."""
        return tuple(prod(group) for group in self.levels)


class OpqConfig(Config):
    """Optimised product quantisation (Ge et al., CVPR 2013): no level refines another, each has a slice of its own."""

    sizes: Codes = _SIZES
    rotation: bool = Field(default=True, description="learn a rotation first; false is plain product quantisation")
    iterations: Count = Field(default=25, description="Lloyd iterations of each slice")
    rotation_iterations: Count = Field(default=20, description="rounds of fitting rotation and slices in turn")
    max_points_per_code: Count = Field(
        default=256, description="everything is fitted on a sample of this many items for each code"
    )
    seed: SmallSeed = _SEED


class HashConfig(Config):
    """Digits of one hash of the item's id: what a hashed table knows of an item."""

    sizes: Codes = _SIZES

    @model_validator(mode="after")
    def _paths_fit_a_hash(self) -> HashConfig:
        if prod(self.sizes) > 2**48:
            raise ValueError(
                f"sizes {self.sizes} make {prod(self.sizes):.1e} paths, more than a 64-bit hash spreads over"
            )
        return self


class RandomConfig(Config):
    """A draw for each item and level, from a generator keyed by seed, level and item id."""

    sizes: Codes = _SIZES
    seed: SmallSeed = _SEED


# -- collision policies -----------------------------------------------------------------------------------------------


class SuffixConfig(Config):
    """One more level counts the items that share their codes, as in TIGER (arXiv 2305.05065, 3.1)."""

    type: Literal["suffix"] = "suffix"
    headroom: int = Field(
        default=16,
        ge=0,
        le=MOST_CODES,
        description="codes of the last level beyond the largest group's, for items to come",
    )


class KnnCapConfig(Config):
    """At most ``cap`` items share an ID; the others go to the nearest path with room (FORGE, arXiv 2509.20904)."""

    type: Literal["knn-cap"] = "knn-cap"
    cap: Count = Field(default=5, description="items an ID; FORGE finds 5 to 25 good")


class NoCollisionsConfig(Config):
    """Items whose codes are equal share an ID."""

    type: Literal["none"] = "none"


CollisionsConfig = Annotated[SuffixConfig | KnnCapConfig | NoCollisionsConfig, Field(discriminator="type")]
