"""Where knowledge is kept by key: LMDB in a folder of this machine, or a Redis server that many machines share."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from genrec_adapters.knowledge import KnowledgeStore
from genrec_plugins.files import written_aside
from genrec_plugins.serving.knowledge_store import KeyValue, KeyValueKnowledge, pairs_of
from genrec_plugins.serving.problems import Problem
from genrec_registry import ConfigError, DataError, SetupError

REDIS = ("redis://", "rediss://", "unix://")
_BATCH = 1000
_FIRST_MAP = 64 * 2**20
_REDIS_SECONDS = 2.0
_T = TypeVar("_T")
_OPEN: WeakValueDictionary[Path, Any] = WeakValueDictionary()
_OPENING = threading.Lock()


class LmdbValues:
    """A file of LMDB, read only: its pages are in the system's cache, and several servers share them.

    Args:
        path: the file.

    Raises:
        DataError: it is none.
        SetupError: lmdb is not installed.

    Example::

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.lmdb"
        >>> LmdbValues.write(path, [(b"a", b"1")])
        >>> LmdbValues(path).get_many([b"a", b"b"])
        [b'1', None]
    """

    def __init__(self, path: Path) -> None:
        lmdb = _lmdb()
        self.path = path
        try:
            self._environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_readers=1)
        except lmdb.Error as error:
            raise DataError(f"{path}: cannot be read ({error}); delete it, and it is built again") from error

    def __repr__(self) -> str:
        return str(self.path)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What stands under each key; None where there is nothing."""
        with self._environment.begin() as transaction:
            return [transaction.get(key) for key in keys]

    @classmethod
    def shared(cls, path: Path) -> Self:
        """The file, opened once a process, as LMDB asks: two models of one store, the old and the new, share it.

        Args:
            path: the file.
        """
        path = path.resolve()
        with _OPENING:
            found = _OPEN.get(path)
            if found is None:
                found = _OPEN[path] = cls(path)
            return found

    @classmethod
    def write(cls, path: Path, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Write a file; it appears when it is complete.

        Args:
            path: of the file.
            pairs: keys of at most 511 bytes, and values.

        Raises:
            DataError: it cannot be written.
        """
        lmdb = _lmdb()
        own = path.with_name(f"{path.name}.{os.getpid()}")  # several servers may build it at the same time
        try:
            with written_aside(own, instead="name another folder with --knowledge lmdb:FOLDER") as partial:
                partial.unlink(missing_ok=True)
                size = _FIRST_MAP
                environment = lmdb.open(str(partial), subdir=False, map_size=size, lock=False, sync=False)
                try:
                    for some in _batches(pairs):
                        while True:
                            try:
                                with environment.begin(write=True) as transaction:
                                    for key, value in some:
                                        transaction.put(key, value)
                                break
                            except lmdb.MapFullError:
                                size *= 2
                                environment.set_mapsize(size)
                    environment.sync(True)
                finally:
                    environment.close()
            own.replace(path)
        except lmdb.Error as error:
            raise DataError(f"{path}: cannot be written ({error}); name another folder") from error


class RedisValues:
    """A Redis server.

    Args:
        url: ``redis://HOST:PORT/DB``, ``rediss://`` or ``unix://``.
        prefix: in front of every key.
        client: in the place of one that is made from ``url``.

    Raises:
        SetupError: redis is not installed.
        ConfigError: the URL is none of Redis's.
    """

    def __init__(self, url: str, prefix: bytes, client: Any = None) -> None:
        self.prefix = prefix
        self._name = _without_password(url)
        try:
            import redis
        except ImportError as error:
            raise SetupError('knowledge in Redis needs redis: pip install "genrec-plugins[redis]"') from error
        self._errors = (redis.RedisError, OSError)
        self._locked = redis.AuthenticationError
        try:
            self._client: Any = client or redis.Redis.from_url(
                url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS
            )
        except ValueError as error:
            raise ConfigError(f"--knowledge {self._name}: {error}; expected redis://HOST:PORT/DB") from error

    def __repr__(self) -> str:
        return self._name

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What stands under each key; None where there is nothing.

        Raises:
            Problem: Redis does not answer (503).
        """
        found: list[bytes | None] = []
        try:
            for some in _batches(keys):
                found.extend(self._client.mget([self.prefix + key for key in some]))
        except self._errors as error:
            raise Problem(503, self._failed(error), retry_after=1) from error
        return found

    def put_many(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep pairs.

        Raises:
            DataError: Redis does not take them.
        """
        try:
            for some in _batches(pairs):
                pipe = self._client.pipeline(transaction=False)
                for key, value in some:
                    pipe.set(self.prefix + key, value)
                pipe.execute()
        except self._locked as error:
            raise DataError(self._failed(error)) from error
        except self._errors as error:
            raise DataError(
                f"{self._name}: cannot be written ({error}); is it Redis, and does it have room?"
            ) from error

    def _failed(self, error: Exception) -> str:
        if isinstance(error, self._locked):
            return f"{self._name} lets nobody in without the right password; give it as redis://:PASSWORD@HOST:PORT/DB"
        return f"{self._name} does not answer ({error}); try again"


def open_knowledge(directory: Path, way: str, config: Mapping[str, Any]) -> KeyValueKnowledge:
    """The knowledge of an export's field by key.

    Args:
        directory: the Parquet store in the export.
        way: ``lmdb``, ``lmdb:FOLDER`` or the URL of Redis; with LMDB the file is built where it is not there yet.
        config: the field's; says which columns are user, item and time.

    Raises:
        DataError: there is no such store, or it cannot be read.
        SetupError: the package is not installed.
    """
    store = KnowledgeStore.open(directory)
    columns = {name: str(config.get(name, name)) for name in ("user", "item", "time")}
    values: KeyValue
    if way.startswith(REDIS):
        values = RedisValues(way, redis_prefix(store))
    else:
        _, _, folder = way.partition(":")
        path = (Path(folder) if folder else cache_folder()) / f"{store.digest[:32]}.lmdb"
        if not path.exists():
            LmdbValues.write(path, pairs_of(store))
        values = LmdbValues.shared(path)
    try:
        return KeyValueKnowledge(store, values, columns)
    except Problem as problem:
        raise DataError(problem.message) from problem


def load_knowledge(store: KnowledgeStore, to: str) -> str:
    """Write a Parquet store to a folder of LMDB files, or to Redis.

    Args:
        store: the store.
        to: a folder, or the URL of Redis.

    Returns:
        Where it is now.
    """
    if to.startswith(REDIS):
        values = RedisValues(to, redis_prefix(store))
        values.put_many(pairs_of(store))
        return f"{values!r}, keys {values.prefix.decode()}*"
    path = Path(to) / f"{store.digest[:32]}.lmdb"
    LmdbValues.write(path, pairs_of(store))
    return str(path)


def redis_prefix(store: KnowledgeStore) -> bytes:
    """In front of a store's keys in Redis."""
    return f"genrec:{store.digest[:16]}:".encode()


def cache_folder() -> Path:
    """Where LMDB files are built unless a folder is named: ``$XDG_CACHE_HOME/genrec/knowledge``."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "genrec" / "knowledge"


def _batches(items: Iterable[_T]) -> Iterator[tuple[_T, ...]]:
    source = iter(items)
    while some := tuple(islice(source, _BATCH)):
        yield some


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise SetupError('knowledge in LMDB needs lmdb: pip install "genrec-plugins[serve]"') from error
    return lmdb
