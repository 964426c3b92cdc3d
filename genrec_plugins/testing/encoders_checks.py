"""Checks of what an encoder computes: shapes, events that do not see later ones, rows that do not see each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor

from genrec_plugins.testing.encoders_subject import (
    EventBatch,
    item_vectors,
    query,
    ragged,
    random_events,
    states,
    user_tokens,
)
from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.subject import largest_difference, tolerance
from genrec_registry import EncoderContext, GenrecError


def check_encoder_shapes(module: nn.Module, context: EncoderContext, batch_sizes: Iterable[int] = (1, 2, 7)) -> None:
    """User tokens are ``[B, num_user_tokens, D]`` and finite, states ``[T, D]``, queries ``[M, D]``, items ``[N, D]``.

    Also for rows without events, for a batch without any, and for int32 or int64 offsets. Inputs are left as they were.

    Args:
        module: the encoder.
        context: what it was built for.
        batch_sizes: values of B to try.

    Raises:
        ConformanceError: they are not.

    Example::

        >>> from genrec_plugins.testing import encoder_subject
        >>> subject = encoder_subject("din")
        >>> check_encoder_shapes(subject.build(), subject.context)
    """
    number = getattr(module, "num_user_tokens", None)
    if not isinstance(number, int) or number < 1:
        raise ConformanceError(
            f"num_user_tokens is {number!r}, expected an int of at least 1: set self.num_user_tokens in __init__ to "
            "the number of tokens a row gets from forward, the interaction is built for it"
        )
    width = context.embedding_dim
    module.eval()
    for batch_size in batch_sizes:
        for lengths in (ragged(context, batch_size), [0] * batch_size):
            batch = random_events(context, lengths)
            untouched = random_events(context, lengths)
            where = f"rows of {lengths} events: "
            _expect_shape(where + "the user tokens", user_tokens(module, batch), [batch_size, number, width])
            if hasattr(module, "states"):
                _expect_shape(where + "the states", states(module, batch), [sum(lengths), width])
                asked = {name: batch.events[name][:0] for name in context.condition_features}
                none = torch.zeros(0, dtype=torch.long)
                _expect_shape(where + "no queries", query(module, batch, none, none, asked), [0, width])
                _expect_shape("the item vectors", item_vectors(module, batch.target), [batch_size, width])
            for name in batch.events:
                if not torch.equal(batch.events[name], untouched.events[name]):
                    raise ConformanceError(f"the embeddings of '{name}' are changed in place; work on a copy")
    _check_kinds_of_jagged_tensors(module, random_events(context, ragged(context, 5)))


def _expect_shape(what: str, found: Tensor, shape: list[int]) -> None:
    if list(found.shape) != shape:
        raise ConformanceError(f"{what}: shape {list(found.shape)}, expected {shape}")
    if not torch.isfinite(found).all():
        raise ConformanceError(
            f"{what}: values that are not finite; a row without events needs a defined result (zeros, a learned start)"
        )


def _check_kinds_of_jagged_tensors(module: nn.Module, batch: EventBatch) -> None:
    expected = user_tokens(module, batch)
    for dtype in (torch.int32, torch.int64):
        offsets = torch.tensor([0, *batch.lengths]).cumsum(0).to(dtype)
        events = {name: JaggedTensor(values, offsets=offsets) for name, values in batch.events.items()}
        try:
            difference = largest_difference(module(events=events, target=batch.target), expected)
        except Exception as error:
            raise ConformanceError(
                f"forward fails on JaggedTensors made of {dtype} offsets: {type(error).__name__}: {error}; "
                "read .offsets().long(), not .lengths()"
            ) from error
        if difference > tolerance(expected):
            raise ConformanceError(f"offsets of type {dtype} give other user tokens, by {difference:.2g}")


def check_causality(module: nn.Module, context: EncoderContext, conditional: bool = False) -> None:
    """A state sees the earlier events of its row (and its own condition, if conditional), all of them and no others.

    Args:
        module: a next-item encoder.
        context: what it was built for.
        conditional: whether it claims ``"conditional"``.

    Raises:
        ConformanceError: a state sees its own item, its condition against the claim, or a later event; or not the past.

    Example::

        >>> from genrec_plugins.testing import encoder_subject
        >>> subject = encoder_subject("hstu")
        >>> check_causality(subject.build(), subject.context)
    """
    module.eval()
    length = context.max_length
    batch = random_events(context, [length, 0, length])
    with torch.no_grad():
        expected = states(module, batch)
        for event in range(length):
            early = batch.place <= event
            found = states(module, batch.changed(batch.place >= event, context.item_features))
            _expect_same(
                found[early],
                expected[early],
                f"the state of event {event} changes with the items of event {event} and later ones: it stands for an "
                "item that it must not see. Mask attention causally, and shift states by one event",
            )
            unseen = batch.place > event if conditional else batch.place >= event
            found = states(module, batch.changed(unseen, context.condition_features))
            hint = (
                "later ones" if conditional else f"event {event} and later ones, though 'conditional' is not declared"
            )
            _expect_same(
                found[early],
                expected[early],
                f"the state of event {event} changes with the conditions of {hint}: only past conditions may be seen",
            )
            found = states(module, batch.first([event + 1, 0, event + 1]))
            _expect_same(
                found,
                expected[early],
                f"the states of the first {event + 1} events change when later events are cut off: count positions "
                "from the first event of a row, and normalise by nothing that later events change",
            )
        found = states(module, batch.changed(batch.place == 0, context.item_features))
    last = batch.place == length - 1
    if length > 1 and largest_difference(found[last], expected[last]) == 0:
        raise ConformanceError(f"the state of event {length - 1} does not depend on the first item of its row")


_MIXES = (
    "rows see each other. Attend within a row only (mask the padding, cut packed rows apart), index rows by offsets, "
    "and use LayerNorm instead of BatchNorm (DIN's Dice is one)"
)


def check_row_independence(module: nn.Module, context: EncoderContext) -> None:
    """A row gives the same alone, beside longer rows, in any order, and whatever its neighbours hold.

    In this way padding and packing are invisible: short rows are examined beside longest ones, and a batch against
    its parts. In train mode, changing one row leaves the others (under one seed), and no buffer changes.

    Args:
        module: the encoder.
        context: what it was built for.

    Raises:
        ConformanceError: rows see each other, or a buffer changes.

    Example::

        >>> from genrec_plugins.testing import encoder_subject
        >>> subject = encoder_subject("sasrec")
        >>> check_row_independence(subject.build(), subject.context)
    """
    lengths = ragged(context, 2 * context.max_length + 2)
    batch = random_events(context, lengths)
    rows = list(range(len(lengths)))
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        module.eval()
        for what, parts in {
            "alone": [[row] for row in rows],
            "in a batch cut in two": [rows[:3], rows[3:]],
            "in another order": [rows[::-1]],
            "without the longest rows beside it": [[row for row in rows if lengths[row] <= 2]],
        }.items():
            for part in parts:
                _expect_same_rows(module, batch, batch.take(part), part, f"a row {what} gives something else: {_MIXES}")
        module.train()
        other = batch.changed(batch.row == 0, list(batch.events))
        kept = batch.row != 0
        for name, function in _outputs(module).items():
            torch.manual_seed(0)
            expected = function(batch)
            torch.manual_seed(0)
            found = function(other)
            keep = kept if name == "states" else torch.tensor(rows) > 0
            _expect_same(found[keep], expected[keep], f"{name} change with another row's events (train mode): {_MIXES}")
        module.eval()
    for name, buffer in module.named_buffers():
        if not torch.equal(buffer, buffers[name]):
            raise ConformanceError(
                f"buffer '{name}' changes in a forward in train mode: it carries state from batch to batch and differs "
                "between ranks (DMP does not broadcast buffers); drop it"
            )


def _outputs(module: nn.Module) -> dict[str, Callable[[EventBatch], Tensor]]:
    """What belongs to rows or events: user tokens, and states if the encoder has them."""
    outputs: dict[str, Callable[[EventBatch], Tensor]] = {"user tokens": lambda batch: user_tokens(module, batch)}
    if hasattr(module, "states"):
        outputs["states"] = lambda batch: states(module, batch)
    return outputs


def _expect_same_rows(module: nn.Module, batch: EventBatch, part: EventBatch, rows: list[int], sentence: str) -> None:
    """The part's user tokens and states are those of the batch."""
    for name, function in _outputs(module).items():
        whole = function(batch)
        expected = whole[rows] if name == "user tokens" else torch.cat([whole[batch.row == row] for row in rows])
        _expect_same(function(part), expected, f"{name}: {sentence}")


def check_queries(module: nn.Module, context: EncoderContext, conditional: bool = False) -> None:
    """Queries asked together give what each gives alone, and ``states`` at every event's own condition.

    Args:
        module: a next-item encoder.
        context: what it was built for.
        conditional: whether it claims ``"conditional"``.

    Raises:
        ConformanceError: a query sees another one or events behind its prefix; or differs from the state.

    Example::

        >>> from genrec_plugins.testing import encoder_subject
        >>> subject = encoder_subject("lum")
        >>> check_queries(subject.build(), subject.context, conditional=True)
    """
    module.eval()
    batch = random_events(context, ragged(context, 7))
    own = {name: batch.events[name] for name in context.condition_features}
    with torch.no_grad():
        _expect_same(
            query(module, batch, batch.row, batch.place, own),
            states(module, batch),
            "query at every event, with the event's own condition, differs from states",
        )
        # Every prefix of every row, the whole row included, each twice with different conditions, in any order.
        every = [(row, prefix) for row, length in enumerate(batch.lengths) for prefix in range(length + 1)] * 2
        generator = torch.Generator().manual_seed(1)
        row, prefix = torch.tensor(every)[torch.randperm(len(every), generator=generator)].T
        conditions = {name: torch.randn(len(row), context.feature_dim, generator=generator) for name in own}
        together = query(module, batch, row, prefix, conditions)
        for index in range(len(row)):
            # Its prefix is all there is: no later event, no other row, no other query.
            alone = batch.take([int(row[index])]).first([int(prefix[index])])
            asked = {name: values[index : index + 1] for name, values in conditions.items()}
            zero = torch.zeros(1, dtype=torch.long)
            _expect_same(
                query(module, alone, zero, prefix[index : index + 1], asked),
                together[index : index + 1],
                f"a query after {int(prefix[index])} events gives something else alone than among {len(row)}: queries "
                "must see their prefix and themselves, no other query and no event behind the prefix",
            )
        changed = query(module, batch, row, prefix, {name: values + 1.0 for name, values in conditions.items()})
    moved = largest_difference(changed, together) > tolerance(together)
    if own and moved != conditional:
        raise ConformanceError(
            "queries with other conditions give other results, but 'conditional' is not declared; declare it"
            if moved
            else "queries give the same under all conditions, but 'conditional' is declared; drop it, or use them"
        )


def check_target(module: nn.Module, context: EncoderContext, target_aware: bool) -> None:
    """User tokens depend on the target if, and only if, the encoder claims ``"target-aware"``.

    Args:
        module: the encoder.
        context: what it was built for.
        target_aware: whether it claims so.

    Raises:
        ConformanceError: the claim is wrong.

    Example::

        >>> from genrec_plugins.testing import encoder_subject
        >>> subject = encoder_subject("din")
        >>> check_target(subject.build(), subject.context, target_aware=True)
    """
    module.eval()
    batch = random_events(context, ragged(context, 5))
    other = dataclasses.replace(batch, target={name: 1.0 - values for name, values in batch.target.items()})
    with torch.no_grad():
        before, after = user_tokens(module, batch), user_tokens(module, other)
    moved = largest_difference(after, before) > tolerance(before)
    if moved and not target_aware:
        raise ConformanceError(
            "the user tokens depend on the target, but 'target-aware' is not declared: what is stored for a user would "
            "be wrong for other targets; declare it"
        )
    if target_aware and not moved:
        raise ConformanceError("the user tokens do not depend on the target, but 'target-aware' is declared; drop it")


def check_same_parameters_every_step(module: nn.Module, context: EncoderContext) -> None:
    """What takes part in one step takes part in every step: in a batch of long rows, of empty ones, of any number.

    DMP's data-parallel wrapper takes the graph of the first step for that of all others. Examined for ``forward`` (as
    in a ranker), and for ``states`` with ``item_vectors`` (as in pre-training), each by itself.

    Args:
        module: the encoder.
        context: what it was built for.

    Raises:
        ConformanceError: a parameter gets a gradient in one step and none in another.

    Example::

        >>> from genrec_plugins.testing import encoder_subject
        >>> subject = encoder_subject("mean-pool")
        >>> check_same_parameters_every_step(subject.build(), subject.context)
    """
    module.train()
    steps: dict[str, Callable[[EventBatch], Tensor]] = {"forward": lambda batch: user_tokens(module, batch)}
    if hasattr(module, "states"):
        steps["states and item_vectors"] = lambda batch: torch.cat(
            [states(module, batch), item_vectors(module, batch.target)]
        )
    for what, step in steps.items():
        first: set[str] | None = None
        for lengths in ([context.max_length] * 3, ragged(context, 4), [1], [0, 0]):
            module.zero_grad(set_to_none=True)
            output = step(random_events(context, lengths))
            if output.requires_grad:
                output.sum().backward()
            used = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
            first = used if first is None else first
            if used != first:
                raise ConformanceError(
                    f"{what}: parameters {sorted(used ^ first)} take part in some steps only (rows of {lengths} events "
                    "against full ones); let every step use them, if with a factor of zero or an empty tensor"
                )


def check_max_length(module: nn.Module, context: EncoderContext) -> None:
    """A row longer than ``max_length`` gives something finite or a GenrecError, nothing in between.

    Args:
        module: the encoder.
        context: what it was built for.

    Raises:
        ConformanceError: another error is raised, or values are not finite.

    Example::

        >>> from genrec_plugins.testing import encoder_subject
        >>> subject = encoder_subject("sasrec")
        >>> check_max_length(subject.build(), subject.context)
    """
    batch = random_events(context, [context.max_length + 3, 1])
    try:
        with torch.no_grad():
            outputs = [function(batch) for function in _outputs(module.eval()).values()]
    except ConformanceError as error:
        if isinstance(error.__cause__, GenrecError):
            return
        raise ConformanceError(
            f"a row of {context.max_length + 3} events, where max_length is {context.max_length}: {error}; check the "
            "longest row and raise a GenrecError that names both lengths"
        ) from error
    if not all(torch.isfinite(output).all() for output in outputs):
        raise ConformanceError(f"a row longer than max_length {context.max_length} gives values that are not finite")


def _expect_same(found: Tensor, expected: Tensor, sentence: str) -> None:
    difference = largest_difference(found, expected)
    if difference > tolerance(expected):
        raise ConformanceError(f"{sentence} (largest difference {difference:.2g})")
