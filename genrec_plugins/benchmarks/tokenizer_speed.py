"""How fast tokenizers fit and encode: RQ-KMeans beside ``faiss.Kmeans`` by hand, codes a second, memory of a stream.

::

    python -m genrec_plugins.benchmarks.tokenizer_speed --repeats 9

The catalogue is drawn: clusters of unequal sizes. All ways take turns in one run, and ratios are taken turn by turn: of
the time on the clock, and of the processor's time, which does not see other programs on the machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from genrec_plugins.benchmarks.runner import run
from genrec_plugins.cli.table import print_json, print_table
from genrec_plugins.tokenizers.configs import RqKmeansConfig
from genrec_plugins.tokenizers.fitted import encode_chunks
from genrec_plugins.tokenizers.inputs import Floats
from genrec_plugins.tokenizers.rq_kmeans import RqKmeans
from genrec_registry import Tokenizer, default_registry, parse_component

STREAMED = ("rq-kmeans", "rq-vae", "opq", "fsq", "hash", "random")


@dataclass(kw_only=True)
class Way:
    """One way of fitting, and how long it took in each turn.

    Args:
        run: does it, and returns the squared error of the reconstruction, which is computed outside the clock.
        seconds: of each turn.
        cpu_seconds: the processor's, of each turn.
        error: mean squared error, ``E |x - x'|^2``.
    """

    run: Callable[[], Callable[[], float]]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    error: float = 0.0


def catalogue(items: int, width: int, seed: int = 0) -> Floats:
    """Embeddings ``[items, width]``: unit noise around 300 centres, whose shares are drawn as well.

    Example::

        >>> catalogue(5, 3).shape
        (5, 3)
    """
    generator = np.random.default_rng(seed)
    centres = 2.0 * generator.standard_normal((300, width), dtype=np.float32)
    owners = generator.choice(300, size=items, p=generator.dirichlet(np.ones(300)))
    return centres[owners] + generator.standard_normal((items, width), dtype=np.float32)


def by_hand(vectors: Floats, levels: int, size: int, iterations: int) -> Callable[[], float]:
    """``faiss.Kmeans`` once a level, each on what the one before left over."""
    import faiss

    residual = vectors
    for level in range(levels):
        kmeans = faiss.Kmeans(vectors.shape[1], size, niter=iterations, seed=level)
        kmeans.cp.min_points_per_centroid = 1
        kmeans.train(residual)
        if level < levels - 1:
            _, found = kmeans.index.search(residual, 1)
            residual = residual - np.asarray(kmeans.centroids)[found[:, 0]]

    def error() -> float:
        distances, _ = kmeans.index.search(residual, 1)
        return float(distances.mean())

    return error


def fit_ours(vectors: Floats, names: list[str], config: RqKmeansConfig) -> Callable[[], float]:
    """A new :class:`~genrec_plugins.tokenizers.rq_kmeans.RqKmeans`, fitted."""
    tokenizer = RqKmeans(config)
    tokenizer.fit(vectors, names)

    def error() -> float:
        found = tokenizer.reconstruct(tokenizer.encode(vectors, names))
        return float(np.square(vectors - np.asarray(found)).sum(axis=1).mean())

    return error


def race(ways: Mapping[str, Way], repeats: int) -> list[dict[str, Any]]:
    """Run all ways in turn, ``repeats`` times, each time beginning with another one; the first turn is not counted."""
    order = list(ways.values())
    for turn in range(repeats + 1):
        for way in order[turn % len(order) :] + order[: turn % len(order)]:
            began, cpu_began = time.perf_counter(), time.process_time()
            error = way.run()
            seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
            if turn:
                way.seconds.append(seconds)
                way.cpu_seconds.append(cpu_seconds)
            else:
                way.error = error()
    rows: list[dict[str, Any]] = []
    for what, way in ways.items():
        ratios = [ours / hand for ours, hand in zip(way.seconds, order[0].seconds, strict=True)]
        cpu = [ours / hand for ours, hand in zip(way.cpu_seconds, order[0].cpu_seconds, strict=True)]
        row = {"median s": statistics.median(way.seconds), "ratio": statistics.median(ratios)}
        row |= {"least": min(ratios), "most": max(ratios), "cpu ratio": statistics.median(cpu), "error": way.error}
        rows.append({"what": what, **{key: round(value, 3) for key, value in row.items()}})
    return rows


def time_stream(
    name: str, vectors: Floats, path: Path, names: list[str], sizes: list[int], rows: int
) -> dict[str, Any]:
    """Codes a second of a fitted tokenizer over a memory-mapped file, and the memory that Python and numpy took for it.

    Args:
        name: the tokenizer's.
        vectors: what it is fitted on.
        path: ``.npy`` of the embeddings to encode.
        names: their ids.
        sizes: codes of each level.
        rows: items of a chunk.
    """
    options: dict[str, Any] = {"levels": [[8, 8, 4]] * len(sizes)} if name == "fsq" else {"sizes": sizes}
    options |= {"epochs": 2} if name in ("rq-vae", "fsq") else {}
    registry = default_registry()
    tokenizer: Tokenizer = registry.create(
        "tokenizer", parse_component(registry, "tokenizer", {"type": name, **options})
    )
    tokenizer.fit(vectors, names[: len(vectors)])
    embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    tokenizer.encode(embeddings[:rows], names[:rows])
    began = time.perf_counter()
    for _ in encode_chunks(tokenizer, embeddings, names, rows):
        pass
    seconds = time.perf_counter() - began
    tracemalloc.start()
    for _ in encode_chunks(tokenizer, embeddings, names, rows):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "tokenizer": name,
        "items/s": round(len(names) / seconds),
        "peak MiB": round(peak / 2**20, 1),
        "embeddings MiB": round(embeddings.nbytes / 2**20, 1),
    }


def main(
    items: Annotated[int, typer.Option(min=2, help="N, items to fit on.")] = 12_000,
    width: Annotated[int, typer.Option(min=1, help="E, width of the embeddings.")] = 128,
    levels: Annotated[int, typer.Option(min=1, help="L, levels of codes.")] = 3,
    size: Annotated[int, typer.Option(min=1, help="K, codes of a level.")] = 256,
    iterations: Annotated[int, typer.Option(min=1, help="Lloyd iterations of a level.")] = 25,
    repeats: Annotated[int, typer.Option(min=1, help="Counted turns of all ways of fitting.")] = 7,
    balanced: Annotated[bool, typer.Option("--balanced", help="Fit balanced codes too.")] = False,
    stream: Annotated[int, typer.Option(min=1, help="Items to encode.")] = 200_000,
    rows: Annotated[int, typer.Option(min=1, help="Items of a chunk.")] = 8192,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time fitting against faiss by hand, and encoding of a stream.

    Examples:

        python -m genrec_plugins.benchmarks.tokenizer_speed

        python -m genrec_plugins.benchmarks.tokenizer_speed --items 50000 --threads 2 --repeats 3
    """
    import faiss

    faiss.omp_set_num_threads(threads)
    vectors, names = catalogue(items, width), [str(row) for row in range(max(stream, items))]
    plain = RqKmeansConfig(sizes=(size,) * levels, iterations=iterations)
    same = plain.model_copy(update={"tolerance": 0.0})
    ways = {
        "faiss.Kmeans by hand": Way(run=lambda: by_hand(vectors, levels, size, iterations)),
        "rq-kmeans, tolerance 0": Way(run=lambda: fit_ours(vectors, names[:items], same)),
        "rq-kmeans": Way(run=lambda: fit_ours(vectors, names[:items], plain)),
    }
    if balanced:
        options = {"balanced": True}
        ways["rq-kmeans, balanced"] = Way(
            run=lambda: fit_ours(vectors, names[:items], plain.model_copy(update=options))
        )
    fits = race(ways, repeats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.npy"
        np.save(path, catalogue(stream, width, seed=1))
        streams = [time_stream(name, vectors, path, names[:stream], [size] * levels, rows) for name in STREAMED]
    if json_:
        print_json({"fit": fits, "encode": streams})
        return
    for table in (fits, streams):
        print_table(list(table[0]), [list(row.values()) for row in table])
        typer.echo("")


if __name__ == "__main__":
    run(main)
