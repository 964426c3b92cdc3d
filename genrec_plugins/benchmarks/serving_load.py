"""Load on the server: ours beside plain eager PyTorch behind the same server, by ApacheBench, in turns.

::

    genrec train run.yaml --out runs/fat && genrec export runs/fat --to export
    python -m genrec_plugins.benchmarks.serving_load runs/fat export rows.parquet

Three servers stand side by side, each a process of its own: ``ours`` (the defaults), ``ours, one by one`` (no
micro-batches), and ``eager`` (the trained ``nn.Module``, neither folded nor made plain, no micro-batches). The load
generator is ``ab`` of Apache (Debian: ``apt-get install apache2-utils``). On a shared machine a ratio within a turn
holds, a time does not; the processor's time of the server tells of the work itself.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from genrec_plugins.benchmarks.runner import run as run_script
from genrec_plugins.benchmarks.runner import whole_numbers
from genrec_plugins.serving.running import listen
from genrec_plugins.serving.settings import ServeSettings
from genrec_registry import DataError, SetupError

WAYS = ("ours", "ours, one by one", "eager")
_START_SECONDS = 180
_WARM = 20
#: rows in flight of large requests: more would measure nothing but the queue
_IN_FLIGHT = 2048


@dataclass(frozen=True, kw_only=True)
class Load:
    """One run of the load generator.

    Args:
        way: which server.
        rows: of a request.
        clients: that ask at the same time, each again when it was answered.
        requests_per_second: answered ones, refused ones too.
        p50_ms: median time of an answer.
        p99_ms: 99 of 100 answers came within it.
        refused: answers other than 200.
        cpu_us_per_row: processor time of the server.
        requests: that were sent.
        answered: with scores, as the server counts them.
        answered_per_second: of these.
        good_p99_ms: 99 of 100 of these came within it by the server's clock, up to the width of its buckets.
        memory_mib: of the server's process when the load ended.
    """

    way: str
    rows: int
    clients: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    refused: int
    cpu_us_per_row: float
    requests: int
    answered: int
    answered_per_second: float
    good_p99_ms: float
    memory_mib: float


class EagerModel:
    """The trained module as it is, in the place of an export's: implements what the server serves.

    Args:
        directory: the export; gives the ids.
        run: the run directory; gives the module.
    """

    def __init__(self, directory: Path, run: Path) -> None:
        from genrec_plugins.serving.exported import Exported
        from genrec_plugins.training.run import TrainedRun

        self.exported = Exported.open(directory)
        self.model = TrainedRun.open(run).model().model
        self.schema, self.digest = self.exported.schema, self.exported.digest
        self.shared: frozenset[str] = frozenset()
        self.history = "each row's is encoded"
        self.loaded_at = time.time()

    def score(self, asked: Sequence[Any]) -> Any:
        """Probabilities of all rows."""
        import pyarrow as pa
        import torch

        batch = self.exported.ids(pa.concat_tables([one.table for one in asked]))
        with torch.no_grad():
            logits = self.model(batch.dense_features, batch.sparse_features)
        return torch.sigmoid(logits.float()).reshape(-1).numpy()

    def try_out(self) -> None:
        """Nothing: nobody but ab is served by it."""


def serve_way(way: str, run: str, export: str, port: int) -> None:
    """The process of one server.

    Args:
        way: of :data:`WAYS`.
        run: the run directory.
        export: the export.
        port: to listen at.
    """
    from genrec_plugins.cli.logs import load_torchrec

    load_torchrec()
    import torch

    from genrec_plugins.serving.running import run_server
    from genrec_plugins.serving.served import Served
    from genrec_plugins.serving.server import create_app

    torch.set_num_threads(1)
    changes: dict[str, Any] = {"deadline_seconds": 60, "watch_seconds": 0}
    if way != "ours":
        changes["batch_rows"] = 1
    settings = ServeSettings(**changes)
    open_model: Any = Served.open if way != "eager" else lambda place: EagerModel(place, Path(run))
    run_server(create_app(export, open_model, settings), "127.0.0.1", port, settings)


@contextmanager
def servers(ways: Sequence[str], run: Path, export: Path) -> Iterator[Mapping[str, tuple[int, int]]]:
    """Servers of these ways: way -> port and process id.

    Raises:
        SetupError: one does not start.
    """
    spawn = multiprocessing.get_context("spawn")
    started: dict[str, tuple[int, int]] = {}
    processes: dict[str, Any] = {}
    try:
        for way in ways:
            with listen("127.0.0.1", 0) as free:
                port = free.getsockname()[1]
            process = spawn.Process(target=serve_way, args=(way, str(run), str(export), port), daemon=True)
            process.start()
            processes[way] = process
            assert process.pid is not None
            started[way] = (port, process.pid)
        for way, (port, _) in started.items():
            _wait(way, port, processes[way])
        yield started
    finally:
        for process in processes.values():
            process.terminate()
            process.join(30)


def _wait(way: str, port: int, process: Any) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            if not process.is_alive():
                raise SetupError(f"the server '{way}' ended with {process.exitcode}; see above") from None
            time.sleep(0.2)
    raise SetupError(f"the server '{way}' did not start within {_START_SECONDS} s")


def _warm(port: int, body: Path) -> None:
    headers = {"Content-Type": "application/json"}
    for _ in range(_WARM):
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/score", body.read_bytes(), headers)
        with urllib.request.urlopen(asked) as answer:
            answer.read()


def load(way: str, server: tuple[int, int], body: Path, *, rows: int, clients: int, seconds: float) -> Load:
    """Run ``ab`` against a server.

    Args:
        way: its name.
        server: its port and process id.
        body: file with the request.
        rows: in it.
        clients: at the same time.
        seconds: how long.

    Raises:
        SetupError: ab is not there, or fails.
    """
    port, pid = server
    ab = shutil.which("ab")
    if ab is None:
        raise SetupError("the load generator 'ab' is not installed; apt-get install apache2-utils")
    words = [ab, "-q", "-k", "-l", "-s", "120", "-c", str(clients), "-t", f"{seconds:.0f}", "-n", "1000000"]
    words += ["-p", str(body), "-T", "application/json", f"http://127.0.0.1:{port}/score"]
    before, counted, began = _cpu_seconds(pid), _times(port), time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    spent, clock, after = _cpu_seconds(pid) - before, time.monotonic() - began, _times(port)
    good = {limit: count - counted[limit] for limit, count in after.items()}
    answered = round(good[math.inf])
    if done.returncode:
        raise SetupError(f"ab failed: {done.stderr.strip()[-300:]}")
    requests = int(_number(r"Complete requests:\s+(\d+)", done.stdout))
    refused = int(_number(r"Non-2xx responses:\s+(\d+)", done.stdout, 0))
    if not requests or not answered + refused:
        raise SetupError(
            f"no request was answered within {seconds:.0f} s; the machine is too busy, or give more --seconds"
        )
    return Load(
        way=way,
        rows=rows,
        clients=clients,
        requests_per_second=_number(r"Requests per second:\s+([\d.]+)", done.stdout),
        p50_ms=_number(r"\n\s+50%\s+(\d+)", done.stdout),
        p99_ms=_number(r"\n\s+99%\s+(\d+)", done.stdout),
        refused=refused,
        cpu_us_per_row=1e6 * spent / max(1, rows * answered),
        requests=requests,
        answered=answered,
        answered_per_second=answered / clock,
        good_p99_ms=1000 * min(limit for limit, count in good.items() if count >= 0.99 * answered),
        memory_mib=_process(pid).memory_info().rss / 2**20,
    )


def _number(pattern: str, text: str, default: float | None = None) -> float:
    found = re.search(pattern, text)
    if found is None and default is None:
        raise SetupError(f"ab said nothing of '{pattern}':\n{text[-500:]}")
    return float(found.group(1)) if found else float(default or 0)


def _times(port: int) -> dict[float, float]:
    """Upper end of a bucket of seconds -> requests that were answered with scores within it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'genrec_request_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    return {float(limit): float(count) for limit, count in found}


def _cpu_seconds(pid: int) -> float:
    times = _process(pid).cpu_times()
    return float(times.user + times.system)


def _process(pid: int) -> Any:
    import psutil

    return psutil.Process(pid)


def bodies(rows: Path, sizes: Sequence[int], label: str, folder: Path) -> dict[int, Path]:
    """Requests of so many rows each, as files.

    Args:
        rows: raw rows in Parquet.
        sizes: rows of a request.
        label: a column that is left out.
        folder: where to.

    Raises:
        DataError: the rows cannot be read.
    """
    import polars as pl

    from genrec_adapters.state import read_parquet

    try:
        frame = read_parquet(rows).head(max(sizes)).drop(label, strict=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{rows}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    found = {}
    for size in sizes:
        found[size] = folder / f"{size}.json"
        found[size].write_text(json.dumps({"rows": frame.head(size).to_dicts()}))
    return found


def summary(loads: Sequence[Load]) -> list[list[object]]:
    """Medians of the turns by rows, clients and way, and the ratios to the last way's within a turn.

    Args:
        loads: in turns; each turn has every way once, in any order.
    """
    table: list[list[object]] = []
    for rows, clients in dict.fromkeys((one.rows, one.clients) for one in loads):
        group = [one for one in loads if (one.rows, one.clients) == (rows, clients)]
        ways = {way: [one for one in group if one.way == way] for way in WAYS if any(o.way == way for o in group)}
        base = ways.get("eager") or next(iter(ways.values()))
        for way, found in ways.items():
            rate = [one.answered / max(1, other.answered) for one, other in zip(found, base, strict=True)]
            late = [one.p99_ms / max(1.0, other.p99_ms) for one, other in zip(found, base, strict=True)]
            work = [one.cpu_us_per_row / other.cpu_us_per_row for one, other in zip(found, base, strict=True)]
            table.append(
                [
                    rows,
                    clients,
                    way,
                    round(statistics.median(one.answered_per_second for one in found), 1),
                    f"{statistics.median(rate):.2f} ({min(rate):.2f}-{max(rate):.2f})",
                    round(statistics.median(one.p50_ms for one in found)),
                    round(statistics.median(one.p99_ms for one in found)),
                    f"{statistics.median(late):.2f}",
                    round(statistics.median(one.good_p99_ms for one in found)),
                    f"{statistics.median(work):.2f} ({min(work):.2f}-{max(work):.2f})",
                    f"{sum(one.refused for one in found):,} of {sum(one.requests for one in found):,}",
                    f"{found[0].memory_mib:.0f}-{found[-1].memory_mib:.0f}",
                ]
            )
    return table


COLUMNS = (
    "rows",
    "clients",
    "way",
    "answered/s",
    "rate / eager",
    "p50 ms",
    "p99 ms",
    "p99 / eager",
    "p99 of answered",
    "CPU a row / eager",
    "refused",
    "MiB, first to last",
)


def main(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    export: Annotated[Path, typer.Argument(help="Its export.")],
    rows: Annotated[Path, typer.Argument(help="Raw rows, as Parquet.")],
    sizes: Annotated[str, typer.Option(help="Rows of a request, comma-separated.")] = "1,16,128,512",
    clients: Annotated[int, typer.Option(min=1, help="Clients at the same time; fewer for large requests.")] = 16,
    overload: Annotated[int, typer.Option(min=0, help="Clients of the overload, one row each; 0 for none.")] = 400,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 4,
    turns: Annotated[int, typer.Option(min=1, help="Turns; each begins with another server.")] = 3,
    alone: Annotated[bool, typer.Option("--alone", help="Load ours and no other server.")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write every load here.")] = None,
) -> None:
    """Load three servers in turns and print medians and ratios."""
    from genrec_plugins.cli.table import print_table
    from genrec_plugins.files import check_writable, written_aside
    from genrec_plugins.serving.facts import ExportFacts
    from genrec_plugins.training.run import TrainedRun

    chosen = whole_numbers(sizes, "--sizes")
    if json_ is not None:
        check_writable(json_, instead="name another file")
    loads: list[Load] = []
    TrainedRun.open(run)
    label = str(ExportFacts.read(export).schema["label"])
    with tempfile.TemporaryDirectory(prefix="genrec-load-") as folder, ExitStack() as stack:
        files = bodies(rows, [1, *chosen], label, Path(folder))
        ways = WAYS[: 1 if alone else None]
        started = stack.enter_context(servers(ways, run, export))
        asked = [(size, max(1, min(clients, _IN_FLIGHT // size))) for size in chosen]
        asked += [(1, overload)] * bool(overload)
        for size, count in asked:
            for port, _ in started.values():
                _warm(port, files[size])
            for turn in range(turns):
                for way in np.roll(ways, turn).tolist():
                    one = load(way, started[way], files[size], rows=size, clients=count, seconds=seconds)
                    typer.echo(f"{asdict(one)}", err=True)
                    loads.append(one)
    print_table(COLUMNS, summary(loads))
    if json_ is not None:
        with written_aside(json_) as partial:
            partial.write_text(json.dumps([asdict(one) for one in loads], indent=1))


if __name__ == "__main__":
    run_script(main)
