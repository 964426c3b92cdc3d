"""The files MovieLens has come in: which they are, and how their lines are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from genrec_adapters.datasets.blocks import read_blocks
from genrec_adapters.datasets.delimited import TextFormat
from genrec_registry.errors import DataError

# GroupLens, u.genre of ml-100k: the last 19 columns of u.item are flags in this order.
_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_TITLE = r"^(.*?)\s*\((\d{4})(?:[-\x{2013}]\d*)?\)\s*$"


def _double_colon(block: bytes) -> bytes:
    """Lines of the ``.dat`` files, with one-byte separators: UTF-8 since the 10M set, Latin-1 before."""
    return _latin(block.replace(b"\t", b" ").replace(b"::", b"\t"))


def _latin(block: bytes) -> bytes:
    try:
        block.decode()
    except UnicodeDecodeError:
        return block.decode("latin-1").encode()
    return block


_RATING = TextFormat(
    label="",
    features=("user_id", "item_id", "rating", "timestamp"),
    integers=frozenset({"timestamp"}),
    floats=frozenset({"rating"}),
    required=frozenset({"user_id", "item_id", "rating", "timestamp"}),
)
_MOVIE = TextFormat(label="", features=("item_id", "title", "genres"), required=frozenset({"item_id"}))
_USER = TextFormat(
    label="", features=("user_id", "age", "gender", "occupation", "zip_code"), required=frozenset({"user_id"})
)


@dataclass(frozen=True, kw_only=True)
class Format:
    """One of the published formats.

    Args:
        ratings: name (or pattern) of the file of ratings; the first line tells them apart where the name is another.
        movies: name of the file of movies.
        users: name of the file of users; empty where none is published.
        rating_lines: columns user_id, item_id, rating, timestamp.
        movie_lines: columns item_id, title, genres (and year, where it stands apart).
        user_lines: columns user_id, age, gender, occupation, zip_code.
        genre_separator: between a movie's genres.
    """

    ratings: str
    movies: str
    users: str
    rating_lines: TextFormat
    movie_lines: TextFormat
    user_lines: TextFormat | None = None
    genre_separator: str = "|"

    @staticmethod
    def find(folder: Path, name: str) -> str | None:
        """The file of this name or pattern in a folder, plain or gzipped."""
        ends = ("", ".gz") if name else ()
        found = sorted(path for end in ends for path in folder.glob(name + end) if path.is_file())
        return str(found[0]) if found else None

    @staticmethod
    def guess(path: str) -> Format:
        """The format of a file of ratings with another name, by its first line.

        Raises:
            DataError: it is none of them.
        """
        first = next(read_blocks(path), b"").split(b"\n", 1)[0]
        for layout, sign in ((ATOMIC, b"user_id:token"), (DAT, b"::"), (CSV, b"userId,"), (TABS, b"\t")):
            if sign in first:
                return layout
        raise DataError(
            f"{path}: begins with {first[:60]!r}, expected ratings of MovieLens "
            "(user_id:token..., userId,movieId,..., 1::1193::5::978300760, or 196<tab>242<tab>3<tab>881250949)"
        )

    def parse_movies(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Columns item, title, year and categories."""
        flags = [name for name in _GENRES if name in chunk.columns]
        if flags:
            genres = pl.concat_list(pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in flags).list.drop_nulls()
        else:
            text = pl.col("genres").fill_null("").replace("(no genres listed)", "")
            genres = text.str.split(self.genre_separator).list.eval(pl.element().filter(pl.element() != ""))
        title, year = pl.col("title"), pl.col("title").str.extract(_TITLE, 2)
        if "release_year" in chunk.columns:
            year = pl.col("release_year")
        else:
            title = pl.coalesce(title.str.extract(_TITLE, 1), title)
        return chunk.select(
            pl.col("item_id").alias("item"),
            title.fill_null("").alias("title"),
            year.alias("year"),
            genres.alias("categories"),
        )


def _typed(names: Mapping[str, str]) -> dict[str, str]:
    """Renames of RecBole's typed header: ``user_id:token`` -> ``user_id``."""
    kinds = ("token", "token_seq", "float", "float_seq")
    return {f"{name}:{kind}": column for name, column in names.items() for kind in kinds}


_U_ITEM = ("item_id", "title", "release_date", "video_release_date", "url", *_GENRES)
_DAT = replace(_MOVIE, separator="\t", normalise=_double_colon)

ATOMIC = Format(
    ratings="*.inter",
    movies="*.item",
    users="*.user",
    rating_lines=replace(
        _RATING, separator="\t", renames=_typed({name: name for name in ("user_id", "item_id", "rating", "timestamp")})
    ),
    movie_lines=replace(
        _MOVIE,
        separator="\t",
        features=("item_id", "title", "release_year", "genres"),
        renames=_typed(
            {
                "item_id": "item_id",
                "movie_title": "title",
                "release_year": "release_year",
                "class": "genres",
                "genre": "genres",
            }
        ),
    ),
    user_lines=replace(_USER, separator="\t", renames=_typed({name: name for name in _USER.features})),
    genre_separator=" ",
)
DAT = Format(
    ratings="ratings.dat",
    movies="movies.dat",
    users="users.dat",
    rating_lines=replace(_RATING, names=_RATING.features, separator="\t", normalise=_double_colon),
    movie_lines=replace(_DAT, names=_MOVIE.features),
    user_lines=replace(
        _USER, names=("user_id", "gender", "age", "occupation", "zip_code"), separator="\t", normalise=_double_colon
    ),
)
CSV = Format(
    ratings="ratings.csv",
    movies="movies.csv",
    users="",
    rating_lines=replace(_RATING, renames={"userId": "user_id", "movieId": "item_id"}),
    movie_lines=replace(_MOVIE, quote='"', renames={"movieId": "item_id"}),
)
TABS = Format(
    ratings="u.data",
    movies="u.item",
    users="u.user",
    rating_lines=replace(_RATING, names=_RATING.features, separator="\t"),
    movie_lines=replace(
        _MOVIE, names=_U_ITEM, features=("item_id", "title", *_GENRES), separator="|", normalise=_latin
    ),
    user_lines=replace(_USER, names=_USER.features, separator="|", normalise=_latin),
)
FORMATS = (ATOMIC, DAT, CSV, TABS)
