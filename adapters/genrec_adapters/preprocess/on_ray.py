"""The workers of a Ray cluster as what does the work: each pass is a Ray Data pipeline over its pieces."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from genrec_adapters.preprocess.jobs import ASIDE
from genrec_adapters.preprocess.options import PrepareOptions, Progress
from genrec_adapters.preprocess.plan import Plan
from genrec_adapters.preprocess.spread import build_spread
from genrec_registry import errors
from genrec_registry.errors import GenrecError, PluginError, SetupError

T = TypeVar("T")
R = TypeVar("R")
_ATTEMPTS = 3  # at a piece at which workers die
_DIED = (
    f"Ray's workers died {_ATTEMPTS} times at the same piece of work, most likely for lack of memory; give them more, "
    "or set a smaller --part-mib"
)
_STORE_BYTES = 200 << 20  # of a Ray of our own: pieces return numbers, and write their rows to files
_PROBE_SECONDS = 5.0


def build_on_ray(root: Path, plan: Plan, options: PrepareOptions, report: Callable[[Progress], None]) -> None:
    """Fill a directory with the workers of a Ray cluster.

    Args:
        root: prepared directory in the making, on a file system that all workers share.
        plan: what to do.
        options: how to run and write; has the address.
        report: told where it stands.

    Raises:
        SetupError: Ray is not installed, cannot be reached, or lost a piece of work again and again.
        GenrecError: whatever went wrong on a worker.
    """
    with ray_session(options), closing(OnRay(root.resolve() / ASIDE)) as run:
        build_spread(root, plan, options, report, run)


@contextmanager
def ray_session(options: PrepareOptions) -> Iterator[None]:
    """A connection to Ray: that which this process has, or one that ends with the block.

    Args:
        options: where, and how many CPUs a Ray of our own has.

    Raises:
        SetupError: Ray is not installed, or cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SetupError(
            f'--engine ray needs Ray, which cannot be imported ({error}); run: pip install "genrec-plugins[ray]"'
        ) from error
    if ray.is_initialized():
        yield
        return
    address = options.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {}
    if address == "local":
        own = {"num_cpus": options.workers, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    else:
        _probe(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # A task has one CPU; without this each would have threads for all of the machine's.
            runtime_env={"env_vars": {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}},
            **own,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
        raise _unreachable(address, _first_line(error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Ray waits long for one that does not answer."""
    host, _, port = address.partition("://")[2].rpartition(":") if "://" in address else address.rpartition(":")
    if not port.isdigit():
        if address != "auto":
            raise _unreachable(address, "it has no port")
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, problem: str) -> SetupError:
    return SetupError(
        f"Ray cannot be reached at '{address}' ({problem}), expected the host:port of a running cluster; start one "
        "with 'ray start --head', mend --ray-address, or leave it out for a Ray of this machine"
    )


class OnRay:
    """Does the work on Ray's workers, at most one piece a CPU at a time; implements ``Runner``.

    A piece whose worker dies is done again, a few times. Errors come back as values, so that the first one in the order
    of the items is raised, as it was on the worker and without Ray's account of it.

    Args:
        folder: where attempts are counted; all workers share it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._passes = 0
        self._open: Generator[Any] | None = None

    def close(self) -> None:
        """End a pass that was left in the middle; Ray complains of one that ends after the connection."""
        if self._open is not None:
            self._open.close()

    def __call__(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """See :class:`~genrec_adapters.preprocess.spread.Runner`.

        Raises:
            GenrecError: that of a piece; SetupError if Ray failed, or workers die at a piece again and again.
        """
        self._open = self._answers(work, items)
        return self._open

    def _answers(self, work: Callable[[T], R], items: Sequence[T]) -> Generator[R]:
        import ray.data

        payload, attempts = list(items), self._folder / f"attempts-{self._passes}"
        attempts.mkdir(parents=True)
        self._passes += 1

        def answer(row: dict[str, Any]) -> dict[str, Any]:
            return {"answer": _answer(work, payload[row["index"]], attempts / str(row["index"]))}

        with _quiet():
            rows = ray.data.from_items([{"index": i} for i in range(len(payload))], override_num_blocks=len(payload))
            answers = (row for row in rows.map(answer).iter_rows())
            try:
                while (row := _next(answers)) is not None:
                    yield _value(row["answer"])
            finally:
                answers.close()


def _next(answers: Iterator[Any]) -> Any:
    try:
        return next(answers, None)
    except Exception as error:  # Ray's own, of many classes
        raise SetupError(
            f"Ray could not do a piece of work ({_first_line(error)}); see its logs, or use --engine local"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data with its results in order, and without bars and messages; as it was before when the block ends."""
    from ray.data import DataContext

    context = DataContext.get_current()
    options = context.execution_options
    before = (context.enable_progress_bars, context.print_on_execution_start, options.preserve_order)
    context.enable_progress_bars, context.print_on_execution_start, options.preserve_order = False, False, True
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # Ray tells of every pass, and shows tracebacks of what we say in one sentence
    try:
        yield
    finally:
        logging.disable(disabled)
        context.enable_progress_bars, context.print_on_execution_start, options.preserve_order = before


def _answer(work: Callable[[Any], Any], item: Any, attempts: Path) -> bytes:
    """On the worker: what the work returned, or what went wrong, as plain values."""
    import polars as pl

    try:
        # Ray itself would try for ever.
        with attempts.open("ab") as file:
            file.write(b".")
        if attempts.stat().st_size > _ATTEMPTS:
            return pickle.dumps(("told", ("SetupError", _DIED)))
        return pickle.dumps(("done", work(item)))
    except GenrecError as error:
        known = next(one.__name__ for one in type(error).__mro__ if one.__module__ == errors.__name__)
        return pickle.dumps(("told", (known, str(error))))
    except OSError as error:
        return pickle.dumps(("system", (error.errno, error.strerror or str(error))))
    except (Exception, pl.exceptions.PanicException) as error:
        return pickle.dumps(("unknown", f"{type(error).__name__}: {_first_line(error)}"))


def _value(answer: bytes) -> Any:
    kind, value = pickle.loads(answer)  # of our own workers
    if kind == "told":
        known, sentence = value
        raise getattr(errors, known)(sentence)
    if kind == "system":
        raise OSError(*value)
    if kind == "unknown":
        raise PluginError(
            f"a piece of work failed on a Ray worker ({value}); mend the plugin at fault, or see where it is with "
            "--engine local --traceback"
        )
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
