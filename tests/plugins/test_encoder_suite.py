"""Every built-in encoder passes the suite; every check of the suite catches the encoder that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from genrec_plugins.encoders.configs import DinConfig, LumConfig, MeanPoolConfig
from genrec_plugins.encoders.din import Din
from genrec_plugins.encoders.lum import Lum
from genrec_plugins.encoders.mean_pool import MeanPool
from genrec_plugins.encoders.varlen import Layout
from genrec_plugins.testing import (
    ConformanceError,
    check_causality,
    check_distributed,
    check_encoder_shapes,
    check_gradients,
    check_max_length,
    check_queries,
    check_row_independence,
    check_same_parameters_every_step,
    check_target,
    encoder_subject,
    encoder_suite,
)
from genrec_registry import EncoderContext, PluginError

TestLum = encoder_suite("lum", {"hidden": 8, "num_queries": 3})
TestHstu = encoder_suite("hstu", {"num_heads": 2})
TestSasRec = encoder_suite("sasrec", {"num_heads": 2})
TestMeanPool = encoder_suite("mean-pool")
TestDin = encoder_suite("din")

TestLumLearned = encoder_suite(
    "lum", {"hidden": 12, "positions": "learned", "dropout": 0.2}, embedding_dim=6, distributed=False
)
TestLumPacked = encoder_suite("lum", {"hidden": 8, "attention": "packed"}, distributed=False)
TestHstuPacked = encoder_suite("hstu", {"attention": "packed", "hidden": 4}, distributed=False)

#: one item feature that has the token's width, and no condition
ALONE: dict[str, Any] = {"feature_dim": 8, "num_item_features": 1, "num_condition_features": 0, "distributed": False}
TestLumAlone = encoder_suite("lum", {"hidden": 8}, **ALONE)
TestHstuAlone = encoder_suite("hstu", **ALONE)
TestSasRecAlone = encoder_suite("sasrec", **ALONE)
TestMeanPoolAlone = encoder_suite("mean-pool", **ALONE)
TestDinAlone = encoder_suite("din", {"hidden_sizes": []}, **ALONE)


# -- broken encoders --------------------------------------------------------------------------------------------------

CONTEXT = encoder_subject("mean-pool").context


class Base(MeanPool):
    """Passes every check; the classes below break one thing each."""

    def __init__(self) -> None:
        super().__init__(MeanPoolConfig(), CONTEXT)


class BaseLum(Lum):
    def __init__(self) -> None:
        super().__init__(LumConfig(hidden=8), CONTEXT)


class NeverReset(Base):
    """Its gain is memory that nobody wrote to after DMP has materialised it."""

    def __init__(self, config: None, context: EncoderContext) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(8))
        nn.init.ones_(self.gain)

    def outputs(self, tokens: torch.Tensor, layout: Layout) -> torch.Tensor:
        return super().outputs(tokens, layout) * self.gain


def test_two_ranks_report_what_fails():
    with pytest.raises(ConformanceError, match=r"encoder.gain'\] are not finite after DMP materialised"):
        check_distributed(encoder_subject(NeverReset))


def caught(match: str, check: Callable[..., None], module: nn.Module, *args: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConformanceError, match=match):
        check(module, CONTEXT, *args)


def test_the_bases_pass():
    for module, conditional in ((Base(), False), (BaseLum(), True)):
        check_encoder_shapes(module, CONTEXT)
        check_causality(module, CONTEXT, conditional)
        check_row_independence(module, CONTEXT)
        check_queries(module, CONTEXT, conditional)
        check_target(module, CONTEXT, False)
        check_max_length(module, CONTEXT)
        check_same_parameters_every_step(module, CONTEXT)


def test_shapes_are_checked():
    class NoNumber(Base):
        num_user_tokens = None

    class Flat(Base):
        def forward(self, events, target):
            return super().forward(events, target).flatten(1)

    class NoEvents(Base):
        def forward(self, events, target):
            return super().forward(events, target) / torch.diff(events["item1"].offsets()).view(-1, 1, 1)

    class InPlace(Base):
        def forward(self, events, target):
            events["item1"].values().mul_(2.0)
            return super().forward(events, target)

    class OtherNames(Base):
        def forward(self, past, now):
            return super().forward(past, now)

    class ReadsLengths(Base):
        def forward(self, events, target):
            assert events["item1"].lengths_or_none() is not None
            return super().forward(events, target)

    class Half(Base):
        states = None
        query = None

    class TooManyStates(Base):
        def states(self, events):
            return torch.cat([super().states(events), self.start.unsqueeze(0)])

    caught("num_user_tokens is None", check_encoder_shapes, NoNumber())
    caught(r"user tokens: shape \[1, 8\], expected \[1, 1, 8\]", check_encoder_shapes, Flat())
    caught("row without events needs a defined result", check_encoder_shapes, NoEvents())
    caught("'item1' are changed in place", check_encoder_shapes, InPlace())
    caught("use these two names", check_encoder_shapes, OtherNames())
    caught(r"read .offsets\(\)", check_encoder_shapes, ReadsLengths())
    caught("no method states", check_encoder_shapes, Half())
    caught("the states: shape", check_encoder_shapes, TooManyStates())


def test_causality_is_checked():
    class SeesItself(Base):
        def states(self, events):
            return self.out(self.outputs(self.events(events), Layout(events["item1"].offsets())))

    class SeesAll(Base):
        """Attention without a causal mask."""

        def outputs(self, tokens, layout):
            return layout.apply(lambda rows, mask: rows.mean(1, keepdim=True).expand_as(rows), tokens)

    class CountsFromTheEnd(Base):
        def outputs(self, tokens, layout):
            lengths = torch.diff(layout.offsets)
            left = lengths.repeat_interleave(lengths) - layout.positions
            return super().outputs(tokens, layout) + left.unsqueeze(1)

    class SeesLaterConditions(BaseLum):
        """Every token of the row knows which conditions come."""

        def states(self, events):
            total = Layout(events["item1"].offsets()).apply(
                lambda rows, mask: rows.sum(1, keepdim=True).expand_as(rows), events["condition1"].values()
            )
            return super().states(events) + total.mean(1, keepdim=True)

    class SeesNothing(Base):
        def states(self, events):
            return self.start.expand(len(events["item1"].values()), -1)

    caught("with the items of event 0 and later", check_causality, SeesItself())
    caught("with the items of event 1 and later", check_causality, SeesAll())
    caught("when later events are cut off", check_causality, CountsFromTheEnd())
    caught("with the conditions of later ones", check_causality, SeesLaterConditions(), True)
    caught("though 'conditional' is not declared", check_causality, BaseLum(), False)
    caught("does not depend on the first item", check_causality, SeesNothing())


def test_row_independence_is_checked():
    class Normalised(Base):
        """BatchNorm: rows see each other in train mode, through a buffer in eval mode."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def outputs(self, tokens, layout):
            return self.norm(super().outputs(tokens, layout))

    class SeesPadding(Base):
        """Divides by the longest row of the batch."""

        def outputs(self, tokens, layout):
            return super().outputs(tokens, layout) / max(layout.max_length, 1)

    class NeighbourInTraining(Base):
        def forward(self, events, target):
            tokens = super().forward(events, target)
            return tokens + tokens.mean(0, keepdim=True) if self.training else tokens

    class Counts(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, events, target):
            self.calls += 1.0 if self.training else 0.0
            return super().forward(events, target)

    caught("train mode", check_row_independence, Normalised())
    caught("user tokens: a row alone", check_row_independence, SeesPadding())
    caught("user tokens change with another row", check_row_independence, NeighbourInTraining())
    caught("buffer 'calls'", check_row_independence, Counts())


def test_queries_are_checked():
    class Mutual(Base):
        """Queries see each other, where there are others than the states' own."""

        def query(self, events, row, prefix, conditions):
            found = super().query(events, row, prefix, conditions)
            return found + found.mean(0) if len(row) != len(events["item1"].values()) else found

    class Late(Base):
        """Sees one event too many, where there is one."""

        def query(self, events, row, prefix, conditions):
            lengths = torch.diff(events["item1"].offsets())
            return super().query(events, row, torch.minimum(prefix + 1, lengths[row]), conditions)

    class Beyond(BaseLum):
        """Right for the states' queries, but sees the whole row otherwise."""

        def query(self, events, row, prefix, conditions):
            if len(row) != len(events["item1"].values()):
                prefix = torch.diff(events["item1"].offsets().long())[row]
            return super().query(events, row, prefix, conditions)

    class Deaf(BaseLum):
        """One answer for all conditions, in states too."""

        def _condition_tokens(self, conditions, number):
            return super()._condition_tokens({name: torch.zeros_like(x) for name, x in conditions.items()}, number)

    caught("something else alone than among", check_queries, Mutual())
    caught("differs from states", check_queries, Late())
    caught("something else alone than among", check_queries, Beyond(), True)
    caught("'conditional' is declared; drop it", check_queries, Deaf(), True)
    caught("'conditional' is not declared; declare it", check_queries, BaseLum(), False)


def test_claims_about_the_target_are_checked():
    class Target(Base):
        def forward(self, events, target):
            return super().forward(events, target) + target["item1"].mean(1).view(-1, 1, 1)

    caught("'target-aware' is not declared", check_target, Target(), False)
    caught("do not depend on the target", check_target, Base(), True)
    check_target(Target(), CONTEXT, True)


def test_rows_that_are_too_long_are_checked():
    class Table(Base):
        def __init__(self, rows: int) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(rows, 8))

        def outputs(self, tokens, layout):
            return tokens + self.table[layout.positions]

    class Overflows(Base):
        def outputs(self, tokens, layout):
            return tokens / (CONTEXT.max_length + 3 - 1 - layout.positions).unsqueeze(1)

    check_max_length(Table(20), CONTEXT)
    caught("raise a GenrecError", check_max_length, Table(CONTEXT.max_length))
    caught("not finite", check_max_length, Overflows())


def test_parameters_of_some_steps_are_caught():
    class StartWhenNeeded(Base):
        def forward(self, events, target):
            tokens = self.out(self.outputs(self.events(events), Layout(events["item1"].offsets())))
            ends = events["item1"].offsets()[1:].long() - 1
            empty = torch.diff(events["item1"].offsets()) == 0
            found = tokens[ends.clamp(min=0)] if len(tokens) else tokens.new_zeros(len(ends), 8)
            return (
                torch.where(empty.unsqueeze(1), self.start, found).unsqueeze(1) if empty.any() else found.unsqueeze(1)
            )

    class Unused(Base):
        def __init__(self) -> None:
            super().__init__()
            self.never = nn.Parameter(torch.ones(1))

    caught("'start'.* take part in some steps only", check_same_parameters_every_step, StartWhenNeeded())
    caught("'never' gets no gradient", check_gradients, Unused())


def test_an_encoder_without_next_item_is_only_asked_what_it_has():
    assert encoder_suite(Din, DinConfig()).subject.capabilities == frozenset()
    with pytest.raises(PluginError, match="is a factory"):
        encoder_suite(Din, {"hidden_sizes": [4]})
