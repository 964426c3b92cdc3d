"""The columns of the two formats: vocabularies, skew and missing rates close to those of the real files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """Zipf-distributed ids.

    Args:
        name: the column.
        vocabulary: number of ids.
        exponent: of the Zipf law; the k-th id has a probability close to k ** -exponent, up to a constant.
        missing: share of rows without a value.
        text: how an id is written: 8 hexadecimal digits, or an integer.
        levels: for integers, what the ids are written as, the commonest first; ``start + permuted id`` if empty.
        start: see ``levels``.
        missing_text: what a missing value is written as.
    """

    name: str
    vocabulary: int
    exponent: float
    missing: float = 0.0
    text: Literal["hex", "integer"] = "hex"
    levels: tuple[int, ...] = ()
    start: int = 0
    missing_text: str = ""


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """Counts with a log-normal body: ``floor(exp(log_mean + log_sigma * z)) + shift``, z standard normal.

    Args:
        name: the column.
        log_mean: see above.
        log_sigma: see above.
        missing: share of rows without a value.
        shift: see above.
    """

    name: str
    log_mean: float
    log_sigma: float
    missing: float = 0.0
    shift: int = 0


@dataclass(frozen=True, kw_only=True)
class Hour:
    """Avazu's ``hour`` (YYMMDDHH): rises with the row; the planted model sees the hour of the day."""

    name: str = "hour"
    days: int = 10


Field = Categorical | Numeric | Hour


@dataclass(frozen=True, kw_only=True)
class Format:
    """A raw file format.

    Args:
        name: ``criteo`` or ``avazu``.
        fields: its feature columns, in file order.
        separator: of columns.
        header: names in the first line.
        ctr: share of clicks.
        row_id: whether the first column is an id of the row, as Avazu's.
    """

    name: str
    fields: tuple[Field, ...]
    separator: str
    header: bool
    ctr: float
    row_id: bool = False


_CRITEO_NUMERIC = (  # log_mean, log_sigma, missing
    (0.9, 1.0, 0.45), (2.1, 2.0, 0.0), (2.1, 1.2, 0.21), (1.7, 0.9, 0.21), (7.3, 2.5, 0.03), (3.4, 1.7, 0.22),
    (1.6, 1.4, 0.04), (2.0, 1.1, 0.001), (3.5, 1.6, 0.04), (0.4, 0.5, 0.45), (0.9, 0.8, 0.04), (0.3, 0.8, 0.76),
    (1.7, 1.0, 0.21),
)  # fmt: skip
_CRITEO_CATEGORICAL = (  # vocabulary, exponent, missing
    (1460, 1.9, 0.0), (583, 0.9, 0.0), (10131227, 0.97, 0.034), (2202608, 1.05, 0.034), (305, 2.4, 0.0),
    (24, 1.5, 0.12), (12517, 0.75, 0.0), (633, 2.1, 0.0), (3, 3.0, 0.0), (93145, 1.1, 0.0), (5683, 0.85, 0.0),
    (8351593, 0.98, 0.034), (3194, 0.8, 0.0), (27, 1.4, 0.0), (14992, 0.75, 0.0), (5461306, 1.0, 0.034),
    (10, 1.3, 0.0), (5652, 1.05, 0.0), (2173, 1.8, 0.44), (4, 0.5, 0.44), (7046547, 0.99, 0.034), (18, 1.7, 0.76),
    (15, 1.4, 0.0), (286181, 1.05, 0.034), (105, 1.2, 0.44), (142572, 1.0, 0.44),
)  # fmt: skip

CRITEO = Format(
    name="criteo",
    separator="\t",
    header=False,
    ctr=0.25,
    fields=(
        *(
            Numeric(name=f"I{i}", log_mean=mean, log_sigma=sigma, missing=missing, shift=-2 if i == 2 else 0)
            for i, (mean, sigma, missing) in enumerate(_CRITEO_NUMERIC, start=1)
        ),
        *(
            Categorical(name=f"C{i}", vocabulary=vocabulary, exponent=exponent, missing=missing)
            for i, (vocabulary, exponent, missing) in enumerate(_CRITEO_CATEGORICAL, start=1)
        ),
    ),
)


def _integers(name: str, exponent: float, *levels: int) -> Categorical:
    return Categorical(name=name, vocabulary=len(levels), exponent=exponent, text="integer", levels=levels)


AVAZU = Format(
    name="avazu",
    separator=",",
    header=True,
    ctr=0.17,
    row_id=True,
    fields=(
        Hour(),
        _integers("C1", 3.0, 1005, 1002, 1010, 1007, 1012, 1001, 1008),
        _integers("banner_pos", 2.0, 0, 1, 7, 2, 4, 5, 3),
        Categorical(name="site_id", vocabulary=4737, exponent=1.3),
        Categorical(name="site_domain", vocabulary=7745, exponent=1.35),
        Categorical(name="site_category", vocabulary=26, exponent=1.3),
        Categorical(name="app_id", vocabulary=8552, exponent=2.0),
        Categorical(name="app_domain", vocabulary=559, exponent=2.3),
        Categorical(name="app_category", vocabulary=36, exponent=2.2),
        Categorical(name="device_id", vocabulary=2686408, exponent=1.6),
        Categorical(name="device_ip", vocabulary=6729486, exponent=0.8),
        Categorical(name="device_model", vocabulary=8251, exponent=1.05),
        _integers("device_type", 3.2, 1, 0, 4, 5, 2),
        _integers("device_conn_type", 2.8, 0, 2, 3, 5),
        Categorical(name="C14", vocabulary=2626, exponent=0.95, text="integer", start=375),
        _integers("C15", 3.2, 320, 300, 216, 728, 120, 1024, 480, 768),
        _integers("C16", 3.2, 50, 250, 36, 480, 90, 20, 768, 320, 1024),
        Categorical(name="C17", vocabulary=435, exponent=1.2, text="integer", start=112),
        _integers("C18", 1.0, 0, 3, 2, 1),
        _integers("C19", 1.4, *range(33, 33 + 68 * 27, 27)),
        Categorical(
            name="C20", vocabulary=171, exponent=1.3, missing=0.47, text="integer", start=100000, missing_text="-1"
        ),
        _integers("C21", 1.2, *range(1, 1 + 60 * 4, 4)),
    ),
)

FORMATS: dict[str, Format] = {"criteo": CRITEO, "avazu": AVAZU}
