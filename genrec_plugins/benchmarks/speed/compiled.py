"""A training step with and without ``train.compile``."""

from __future__ import annotations

from collections.abc import Sequence

from genrec_plugins.benchmarks.speed.cpu import Stopwatch, on_the_cpu, one_thread
from genrec_plugins.benchmarks.speed.options import Options
from genrec_plugins.benchmarks.speed.paired import Timed, race
from genrec_plugins.profiling.ranker import ranker_subject
from genrec_plugins.profiling.subjects import Shape, Way

INTERACTIONS = ("dot", "dcn", "fat", "transformer")


def compiled(
    options: Options, interactions: Sequence[str] = INTERACTIONS, *, shape: Shape | None = None
) -> list[Timed]:
    """Steps of a ranker on ids that lie ready: its interaction through ``torch.compile``, and as it is.

    Args:
        options: turns.
        interactions: each a part of the table.
        shape: of a batch.
    """
    shape = shape or Shape(batch_size=2048)
    found = []
    with one_thread():
        for name in interactions:
            ours, plain = ranker_subject(name, shape, Way(compiled=True)), ranker_subject(name, shape)
            watch = Stopwatch()
            ours.step()
            first = watch.read().clock
            found += race(
                f"training step, {name}, compiled",
                {"train.compile: true": on_the_cpu(ours.step), "train.compile: false": on_the_cpu(plain.step)},
                amount=shape.batch_size,
                unit="rows/s",
                turns=options.turns,
                notes={"train.compile: true": f"its first step took {first:.0f} s; B {shape.batch_size}"},
            )
    return found
