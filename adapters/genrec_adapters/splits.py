"""Split policies: which row goes to train, valid or test. Configs and the assignment, both deterministic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from genrec_registry.config import Config
from genrec_registry.contracts import SPLITS, Split

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MAX_ROWS = 200_000_000


class _Fractions(Config):
    """Shares of the rows."""

    train: float = Field(default=0.8, gt=0, le=1, description="share of training rows")
    valid: float = Field(default=0.1, ge=0, lt=1, description="share of validation rows")
    test: float = Field(default=0.1, ge=0, lt=1, description="share of test rows")

    @model_validator(mode="after")
    def _sum_is_one(self) -> Self:
        total = self.train + self.valid + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + valid + test is {total:g}, expected 1; mend the shares")
        return self


class RandomSplit(_Fractions):
    """Each row by a hash of (seed, row index): one pass, any size; the sizes are the shares only approximately."""

    type: Literal["random"] = "random"
    seed: int = Field(default=1, ge=0, lt=2**63, description="another seed, another split")


class ShuffledSplit(_Fractions):
    """Exact sizes (rounded down; the rest is test) by a seeded permutation of all rows; needs a counting pass."""

    type: Literal["shuffled"] = "shuffled"
    seed: int = Field(default=1, ge=0, lt=2**63, description="another seed, another split")


class TimeSplit(_Fractions):
    """File order: the first rows train, the next valid, the last test; exact; needs a counting pass."""

    type: Literal["time"] = "time"


class FileSplit(Config):
    """The dataset's files carry the split."""

    type: Literal["files"] = "files"


SplitConfig = Annotated[RandomSplit | ShuffledSplit | TimeSplit | FileSplit, Field(discriminator="type")]
Assign = Callable[[int, int], "npt.NDArray[np.int8]"]


class _Holder(BaseModel):
    split: SplitConfig


def parse_split(data: Any) -> RandomSplit | ShuffledSplit | TimeSplit | FileSplit:
    """A split config from a name, a mapping, or a config.

    Raises:
        ConfigError: unknown type or wrong value.

    Example::

        >>> parse_split({"type": "shuffled", "seed": 3}).seed
        3
        >>> parse_split("files")
        FileSplit(type='files')
    """
    from genrec_registry.yaml_source import explain

    if isinstance(data, str):
        data = {"type": data}
    return explain(_Holder, {"split": data}, where="split").split


def needs_row_count(split: object) -> bool:
    """Whether the rows must be counted before the first can be assigned."""
    return isinstance(split, (ShuffledSplit, TimeSplit))


def sizes(split: ShuffledSplit | TimeSplit, rows: int) -> tuple[int, int, int]:
    """Exact sizes: shares rounded down, the rest to test (or to train where test has no share).

    Example::

        >>> sizes(TimeSplit(), 109_724)
        (87779, 10972, 10973)
        >>> sizes(TimeSplit(train=0.9, valid=0.1, test=0), 11)
        (10, 1, 0)
    """
    # str() gives the decimal the user wrote: 0.8 * 10 rows is 8, not 7 by a rounding error.
    train, valid = (int(Fraction(str(share)) * rows) for share in (split.train, split.valid))
    if split.test == 0:
        return rows - valid, valid, 0
    return train, valid, rows - train - valid


def assigner(split: RandomSplit | ShuffledSplit | TimeSplit, rows: int | None = None) -> Assign:
    """A function ``(first_row, count) -> Int8 [count]`` of indices into ``SPLITS``; rows count from 0.

    Args:
        split: the policy.
        rows: number of all rows, where :func:`needs_row_count`.

    Example::

        >>> assigner(TimeSplit(train=0.5, valid=0.25, test=0.25), rows=4)(1, 3).tolist()
        [0, 1, 2]
    """
    import numpy as np

    if isinstance(split, RandomSplit):
        train_end, valid_end = split.train, split.train + split.valid

        def by_hash(first: int, count: int) -> npt.NDArray[np.int8]:
            place = _uniform(split.seed, first, count)
            # A share of 0 must get no row, also where the sum of the others is rounded below 1.
            last = 2 if split.test else 1 if split.valid else 0
            return np.minimum((place >= train_end).astype(np.int8) + (place >= valid_end), last).astype(np.int8)

        return by_hash
    if rows is None or rows > _MAX_ROWS:
        raise ValueError(f"found {rows} rows, expected a count of at most {_MAX_ROWS}; use split type 'random'")
    train, valid, _ = sizes(split, rows)
    whole = np.full(rows, 2, dtype=np.int8)
    if isinstance(split, ShuffledSplit):
        order = np.random.default_rng(split.seed).permutation(rows)
        whole[order[:train]] = 0
        whole[order[train : train + valid]] = 1
    else:
        whole[:train] = 0
        whole[train : train + valid] = 1
    return lambda first, count: whole[first : first + count]


def _uniform(seed: int, first: int, count: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that depend on (seed, row index) alone: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    import numpy as np

    with np.errstate(over="ignore"):
        start = _mix(np.array([seed], dtype=np.uint64))
        index = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (_mix(start + index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    import numpy as np

    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


__all__ = [
    "SPLITS",
    "Assign",
    "FileSplit",
    "RandomSplit",
    "ShuffledSplit",
    "Split",
    "SplitConfig",
    "TimeSplit",
    "assigner",
    "needs_row_count",
    "parse_split",
    "sizes",
]
