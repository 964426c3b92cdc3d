"""MovieLens, in RecBole's atomic files and in each of the formats GroupLens has published it in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import polars as pl

from genrec_adapters.datasets.behaviour_base import BehaviourTable
from genrec_adapters.datasets.behaviour_configs import MovieLensConfig
from genrec_adapters.datasets.delimited import scan_text
from genrec_adapters.datasets.movielens_formats import FORMATS, Format
from genrec_registry.contracts import ColumnKind, ErrorPolicy
from genrec_registry.errors import DataError


class MovieLens(BehaviourTable):
    """Ratings as likes (``rating >= like_at``) and dislikes, with the movies' and, where published, the users' side.

    The condition ``action`` is ``like`` or ``dislike``. Movies have ``title``, ``year`` and ``genres``; users of the
    100K and 1M sets have ``age``, ``gender``, ``occupation`` and ``zip_code``.

    Args:
        config: see :class:`~genrec_adapters.datasets.behaviour_configs.MovieLensConfig`.

    Example::

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\\n1,7,4.5,99\\n1,8,3.0,50\\n")
        >>> _ = (folder / "movies.csv").write_text("movieId,title,genres\\n7,Heat (1995),Action|Crime\\n")
        >>> dataset = MovieLens(MovieLensConfig(path=str(folder)))
        >>> dataset.events().rows()
        [('1', '8', 50, 'dislike', 0), ('1', '7', 99, 'like', 1)]
        >>> dataset.items().rows()
        [('7', 'Heat', ['Action', 'Crime'], 'Heat', '1995')]
    """

    categories = "genres"

    def __init__(self, config: MovieLensConfig) -> None:
        super().__init__(config)
        self.config = config

    @cached_property
    def _found(self) -> tuple[Format, str]:
        """The format, and the file of ratings."""
        path = Path(self.config.path).expanduser()
        if path.is_dir():
            for layout in FORMATS:
                ratings = layout.find(path, layout.ratings)
                if ratings:
                    return layout, ratings
            known = ", ".join(layout.ratings for layout in FORMATS)
            raise DataError(f"{path}: has no file of ratings, expected one of {known}; name the unpacked folder")
        if not path.is_file():
            raise DataError(
                f"{path}: does not exist, expected MovieLens's folder or file of ratings; mend dataset.path"
            )
        for layout in FORMATS:
            if path.match(layout.ratings):
                return layout, str(path)
        return Format.guess(str(path)), str(path)

    @cached_property
    def _beside(self) -> tuple[str | None, str | None]:
        """The files of movies and of users, where they are there."""
        layout, ratings = self._found
        folder = Path(ratings).parent
        return layout.find(folder, layout.movies), layout.find(folder, layout.users)

    @property
    def item_side(self) -> Mapping[str, ColumnKind]:
        """Title, year and genres, where the movies' file is there."""
        return {"title": "string", "year": "string", "genres": "list"} if self._beside[0] else {}

    @property
    def user_side(self) -> Mapping[str, ColumnKind]:
        """Age, gender, occupation and zip code, where the users' file is there."""
        return dict.fromkeys(("age", "gender", "occupation", "zip_code"), "string") if self._beside[1] else {}

    def event_files(self) -> Sequence[str]:
        """The one file of ratings."""
        return [self._found[1]]

    def side_files(self) -> Sequence[str]:
        """The files of movies and users beside it."""
        return [path for path in self._beside if path]

    def default_fields(self) -> Mapping[str, object]:
        """All but the title, which says no more than the movie's id."""
        return {name: field for name, field in super().default_fields().items() if name != "title"}

    def read_events(self, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks of ratings, in file order."""
        layout, path = self._found
        like = pl.col("rating") >= self.config.like_at
        for chunk in scan_text(path, layout.rating_lines, policy):
            yield chunk.select(
                pl.col("user_id").alias("user"),
                pl.col("item_id").alias("item"),
                pl.col("timestamp").alias("time"),
                pl.when(like).then(pl.lit("like")).otherwise(pl.lit("dislike")).alias("action"),
                like.cast(pl.Int8).alias("label"),
            )

    def read_items(self, policy: ErrorPolicy) -> pl.DataFrame:
        """Item, text (the title), categories (the genres), title and year."""
        layout, path = self._found[0], self._beside[0]
        if path is None:
            return super().read_items(policy)
        frame = pl.concat([layout.parse_movies(chunk) for chunk in scan_text(path, layout.movie_lines, policy)])
        return frame.select("item", pl.col("title").alias("text"), "categories", "title", "year")

    def read_users(self, policy: ErrorPolicy) -> pl.DataFrame:
        """User, age, gender, occupation and zip code."""
        layout, path = self._found[0], self._beside[1]
        if path is None or layout.user_lines is None:
            return super().read_users(policy)
        frame = pl.concat(list(scan_text(path, layout.user_lines, policy)))
        return frame.select(pl.col("user_id").alias("user"), *self.user_side)
