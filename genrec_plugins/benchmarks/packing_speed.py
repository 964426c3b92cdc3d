"""What packing and group queries save, on the histories' real lengths: time of LUM with them and without, side by side.

::

    python -m genrec_plugins.benchmarks.packing_speed movielens=../shared/data/movielens-100k --max-length 200

Embeddings are random: time depends on lengths alone. All ways compute the same, and the largest difference is told.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor, nn
from torchrec import JaggedTensor

from genrec_plugins.benchmarks.runner import run
from genrec_plugins.cli.table import print_json, print_table
from genrec_plugins.encoders.configs import LumConfig
from genrec_plugins.encoders.lum import Lum
from genrec_registry import ConfigError, EncoderContext, default_registry, parse_component

Lengths = npt.NDArray[np.int64]
FEATURES = ("item", "action")


@dataclass(kw_only=True)
class Timing:
    """One way of computing something, and how long it took beside the others.

    Args:
        what: the way.
        seconds: of the fastest of the repetitions.
        tokens: that went through the transformer, padding included.
        max_difference: of its result from that of the first way.
    """

    what: str
    seconds: float
    tokens: int
    max_difference: float


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Histories as embeddings: B rows of T events in all.

    Args:
        lengths: ``[B]``.
        events: ``[T, E]`` by feature name.

    Example::

        >>> rows = Rows(lengths=np.array([1, 2]), events={"item": torch.tensor([[1.0], [2.0], [3.0]])})
        >>> rows.padded().events["item"].flatten().tolist()
        [1.0, 0.0, 2.0, 3.0]
        >>> rows.prefixes(np.array([1, 1]), np.array([1, 2])).events["item"].flatten().tolist()
        [2.0, 2.0, 3.0]
    """

    lengths: Lengths
    events: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def random(cls, lengths: Lengths, width: int) -> "Rows":
        """Normal embeddings."""
        return cls(lengths=lengths, events={name: torch.randn(int(lengths.sum()), width) for name in FEATURES})

    def jagged(self) -> dict[str, JaggedTensor]:
        """As an EmbeddingCollection returns them."""
        lengths = torch.from_numpy(self.lengths)
        return {name: JaggedTensor(values, lengths=lengths) for name, values in self.events.items()}

    def real(self) -> Tensor:
        """Which places of :meth:`padded` hold an event, ``[B * S]``."""
        return torch.from_numpy((np.arange(self.lengths.max()) < self.lengths[:, None]).ravel())

    def padded(self) -> "Rows":
        """All rows filled up with zeros to the longest."""
        longest, real = int(self.lengths.max()), self.real()
        events = {}
        for name, values in self.events.items():
            events[name] = values.new_zeros(len(real), values.shape[1])
            events[name][real] = values.detach()
        return Rows(lengths=np.full_like(self.lengths, longest), events=events)

    def prefixes(self, row: Lengths, prefix: Lengths) -> "Rows":
        """A row for each pair: the first ``prefix`` events of ``row``."""
        starts = (np.cumsum(self.lengths) - self.lengths)[row]
        within = np.arange(prefix.sum()) - np.repeat(np.cumsum(prefix) - prefix, prefix)
        places = torch.from_numpy(np.repeat(starts, prefix) + within)
        return Rows(lengths=prefix, events={name: values[places] for name, values in self.events.items()})


def sample(lengths: Lengths, max_length: int, max_events: int, seed: int) -> Lengths:
    """Lengths of users drawn at random, up to a budget of events; of a longer history the last events are kept.

    Example::

        >>> sample(np.array([9, 9, 9]), max_length=4, max_events=8, seed=0)
        array([4, 4])
    """
    kept = np.minimum(np.random.default_rng(seed).permutation(lengths), max_length)
    return kept[: max(int(np.searchsorted(np.cumsum(kept), max_events, side="right")), 1)]


def time_packing(config: LumConfig, context: EncoderContext, lengths: Lengths, repeats: int) -> list[Timing]:
    """Forward and backward of ``states`` and ``item_vectors``, for rows bucketed, packed, and filled up to the longest.

    Args:
        config: LUM's options; ``attention`` is tried both ways.
        context: widths; the features are :data:`FEATURES`.
        lengths: of the rows.
        repeats: of which the fastest counts; the ways take turns.
    """
    torch.manual_seed(0)
    rows = Rows.random(lengths, context.feature_dim)
    padded, real = rows.padded(), rows.real()
    first = Lum(config, context)
    models = {way: Lum(config.model_copy(update={"attention": way}), context) for way in ("bucketed", "packed")}
    for model in models.values():
        model.load_state_dict(first.state_dict())

    def step(model: nn.Module, given: Rows) -> Tensor:
        assert isinstance(model, Lum)
        states = model.states(given.jagged())
        (states * model.item_vectors({"item": given.events["item"]})).sum().backward()
        return states.detach()

    ways = {
        "bucketed": lambda: step(models["bucketed"], rows),
        "packed": lambda: step(models["packed"], rows),
        "padded to the longest row": lambda: step(models["bucketed"], padded)[real],
    }
    tokens = [2 * int(lengths.sum())] * 2 + [2 * len(real)]
    return _race(ways, tokens, repeats)


def time_queries(
    config: LumConfig, context: EncoderContext, lengths: Lengths, queries: int, repeats: int, max_events: int
) -> list[Timing]:
    """``queries`` questions after each history (0: one after every event), in one pass and in separate ones.

    Args:
        config: LUM's options.
        context: widths.
        lengths: of the rows.
        queries: N, asked of every row after its last event; 0 asks once after every event, and before the first.
        repeats: of which the fastest counts; the ways take turns.
        max_events: separate passes are cut into batches of so many events.
    """
    torch.manual_seed(0)
    rows = Rows.random(lengths, context.feature_dim)
    model = Lum(config, context).eval()
    row = np.repeat(np.arange(len(lengths)), queries or lengths + 1)
    prefix = lengths[row] if queries else np.concatenate([np.arange(length + 1) for length in lengths])
    asked = torch.randn(len(row), context.feature_dim)

    def ask(given: Rows, row: Lengths, prefix: Lengths, asked: Tensor) -> Tensor:
        places = (torch.from_numpy(row), torch.from_numpy(prefix))
        return model.query(given.jagged(), *places, {"action": asked})

    def separate() -> Tensor:
        parts = np.flatnonzero(np.diff(np.cumsum(prefix + 1) // max_events)) + 1
        answers = []
        for part in np.split(np.arange(len(row)), parts):
            alone = rows.prefixes(row[part], prefix[part])
            answers.append(ask(alone, np.arange(len(part)), prefix[part], asked[torch.from_numpy(part)]))
        return torch.cat(answers)

    ways = {"one group query": lambda: ask(rows, row, prefix, asked), "separate passes": separate}
    tokens = [2 * int(lengths.sum()) + len(row), 2 * int(prefix.sum()) + len(row)]
    with torch.no_grad():
        return _race(ways, tokens, repeats)


def _race(ways: Mapping[str, Callable[[], Tensor]], tokens: Sequence[int], repeats: int) -> list[Timing]:
    first = next(iter(ways.values()))()
    timings = [
        Timing(what=what, seconds=float("inf"), tokens=count, max_difference=float((way() - first).abs().max()))
        for (what, way), count in zip(ways.items(), tokens, strict=True)
    ]
    for _ in range(repeats):
        for timing, way in zip(timings, ways.values(), strict=True):
            began = time.perf_counter()
            way()
            timing.seconds = min(timing.seconds, time.perf_counter() - began)
    return timings


def read_lengths(source: str) -> tuple[str, Lengths]:
    """Events of each user of a dataset given as ``TYPE=PATH``.

    Raises:
        ConfigError: it has another form, or the type is no dataset of events.
    """
    kind, equals, path = source.partition("=")
    registry = default_registry()
    if not equals or "events" not in registry.get("dataset", kind).record.capabilities:
        raise ConfigError(f"{source}: expected TYPE=PATH with a dataset of events, as movielens=ml-100k")
    config = parse_component(registry, "dataset", {"type": kind, "path": path})
    events = registry.create("dataset", config).events()
    return kind, events.group_by("user", maintain_order=True).len()["len"].to_numpy().astype(np.int64)


def main(
    data: Annotated[list[str], typer.Argument(help="Datasets of events, each as TYPE=PATH.")],
    max_length: Annotated[int, typer.Option(min=1, help="Events kept of a history.")] = 50,
    max_events: Annotated[int, typer.Option(min=1, help="Events of a batch.")] = 4096,
    hidden: Annotated[int, typer.Option(min=2, help="h, width of LUM's tokens.")] = 64,
    num_layers: Annotated[int, typer.Option(min=1, help="LUM's blocks.")] = 2,
    queries: Annotated[int, typer.Option(min=1, help="N, queries after each history.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions; the fastest counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the users that are drawn.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time LUM packed against padded, and group queries against separate passes.

    Examples:

        python -m genrec_plugins.benchmarks.packing_speed movielens=ml-100k amazon-reviews=beauty.inter.json.gz
    """
    torch.set_num_threads(threads)
    config = LumConfig(hidden=hidden, num_layers=num_layers)
    context = EncoderContext(
        embedding_dim=hidden,
        feature_dim=hidden,
        max_length=max_length,
        item_features=FEATURES[:1],
        condition_features=FEATURES[1:],
    )
    found = []
    for source in data:
        kind, lengths = read_lengths(source)
        rows = sample(lengths, max_length, max_events, seed)
        few = sample(lengths, max_length, max(max_events // 4, 1), seed)
        what = {
            "forward and backward": time_packing(config, context, rows, repeats),
            f"{queries} queries a user": time_queries(config, context, rows, queries, repeats, max_events),
            "a query after every event": time_queries(config, context, few, 0, repeats, max_events),
        }
        for name, timings in what.items():
            for timing in timings:
                found.append(
                    {
                        "dataset": kind,
                        "what": name,
                        "way": timing.what,
                        "tokens": timing.tokens,
                        "ms": round(1000 * timing.seconds, 1),
                        "times": round(timing.seconds / timings[0].seconds, 2),
                        "max difference": float(f"{timing.max_difference:.1e}"),
                    }
                )
    if json_:
        print_json(found)
    else:
        print_table(list(found[0]), [list(row.values()) for row in found])


if __name__ == "__main__":
    run(main)
