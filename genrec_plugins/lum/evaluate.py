"""Recall@K and NDCG@K over the whole catalogue: no sampled candidates, ties counted half."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from genrec_adapters.behaviour.splits import EvalSet
from genrec_plugins.lum.batches import SequenceBatch, make_batch, packs
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_registry import ModelError

#: K of the metrics
CUTOFFS = (1, 5, 10, 20, 50)
#: logits held at once
SCORES = 1 << 26


class PretrainModel(Protocol):
    """What an objective's model offers to the trainer and to evaluation; it is an ``nn.Module`` besides."""

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Mean loss of the predicted events."""

    def recommend(
        self,
        batch: SequenceBatch,
        k: int,
        exclude_seen: bool = False,
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """``[B, k]`` catalogue rows, best first."""


@runtime_checkable
class Scorer(Protocol):
    """A model that scores the whole catalogue, so that exact ranks and losses can be told."""

    def catalogue_vectors(self) -> Tensor:
        """``[N, D]``."""

    def scores(self, batch: SequenceBatch, vectors: Tensor, conditions: Mapping[str, Tensor] | None = None) -> Tensor:
        """``[B, N]`` logits, -inf for the unknown item."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How questions are asked.

    Args:
        max_length: events of a history that are seen, the most recent.
        batch_events: events a forward.
        exclude_seen: rank only items that are not in the history; a target that is there is never found.
        fixed: condition ids of every question; None for each target's own.
        amp: bf16 autocast.
    """

    max_length: int
    batch_events: int = 32768
    exclude_seen: bool = False
    fixed: Mapping[str, int] | None = None
    amp: bool = False


def ranks_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Ranks ``[B]`` (0 is best) of the targets: items strictly above, plus half of those that tie.

    Half of the ties is the mean rank over all orders of equal scores, so that a model that scores everything alike
    ends in the middle and not on top.

    Args:
        scores: ``[B, N]``.
        targets: ``[B]``.

    Example::

        >>> ranks_of(torch.tensor([[0.1, 0.9, 0.5], [0.5, 0.5, 0.5]]), torch.tensor([2, 0])).tolist()
        [1.0, 1.0]
    """
    own = scores.gather(1, targets[:, None])
    above = (scores > own).sum(dim=1)
    ties = (scores == own).sum(dim=1) - 1
    return above.double() + ties.double() / 2


def metrics_of(ranks: npt.NDArray[np.float64], cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Recall@K, NDCG@K and MRR of one true item a question.

    Args:
        ranks: ``[M]``, 0 is best.
        cutoffs: each K.

    Example::

        >>> {name: round(value, 4) for name, value in metrics_of(np.array([0.0, 2.0, 99.0]), (1, 5)).items()}
        {'recall@1': 0.3333, 'ndcg@1': 0.3333, 'recall@5': 0.6667, 'ndcg@5': 0.5, 'mrr': 0.4478}
    """
    found: dict[str, float] = {}
    gains = 1 / np.log2(ranks + 2)
    for cutoff in cutoffs:
        hit = ranks < cutoff
        found[f"recall@{cutoff}"] = float(hit.mean())
        found[f"ndcg@{cutoff}"] = float((gains * hit).mean())
    found["mrr"] = float((1 / (ranks + 1)).mean())
    return found


def evaluate(
    model: nn.Module,
    questions: EvalSet,
    asked: Asked,
    device: torch.device,
    *,
    chosen: npt.NDArray[np.int64] | None = None,
    reporter: Reporter | None = None,
    name: str = "questions",
) -> dict[str, Any]:
    """Metrics of a model on questions, each of which has one right item among the whole catalogue.

    Args:
        model: a :class:`PretrainModel`; one that is a :class:`Scorer` is ranked by its scores, any other by its list
            of 50, where a right item beyond the list counts as not found.
        questions: histories and targets.
        asked: how to ask.
        device: where the model is.
        chosen: indices of the questions to ask; all if None.
        reporter: told of progress.
        name: of the questions, for progress.

    Returns:
        ``recall@K``, ``ndcg@K``, ``mrr``, ``questions``, and for a Scorer ``loss``: the mean full-softmax
        cross-entropy.
    """
    parts = _asked(model, questions, asked, device, chosen, reporter, name)
    ranks = np.concatenate([ranks for _, ranks, _ in parts])
    found: dict[str, Any] = metrics_of(ranks)
    losses = [loss for _, _, loss in parts if loss is not None]
    if losses:
        found["loss"] = float(torch.cat(losses).double().mean())
    found["questions"] = len(ranks)
    return found


def question_ranks(
    model: nn.Module,
    questions: EvalSet,
    asked: Asked,
    device: torch.device,
    *,
    chosen: npt.NDArray[np.int64] | None = None,
    reporter: Reporter | None = None,
    name: str = "questions",
) -> npt.NDArray[np.float64]:
    """Rank of the right item of each question, as :func:`evaluate` finds it; in the order of the questions.

    Args:
        model: see :func:`evaluate`, as for the others.
        questions: histories and targets.
        asked: how to ask.
        device: where the model is.
        chosen: indices of the questions to ask, ascending; all if None.
        reporter: told of progress.
        name: of the questions, for progress.
    """
    parts = _asked(model, questions, asked, device, chosen, reporter, name)
    rows = np.concatenate([rows for rows, _, _ in parts])
    ranks: npt.NDArray[np.float64] = np.concatenate([ranks for _, ranks, _ in parts])[np.argsort(rows)]
    return ranks


def _asked(
    model: nn.Module,
    questions: EvalSet,
    asked: Asked,
    device: torch.device,
    chosen: npt.NDArray[np.int64] | None,
    reporter: Reporter | None,
    name: str,
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], Tensor | None]]:
    """Batches of question indices, ranks and, from a Scorer, losses."""
    was_training = model.training
    model.eval()
    reporter = reporter or Quiet()
    total = len(questions) if chosen is None else len(chosen)
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], Tensor | None]] = []
    done = 0
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=asked.amp):
        vectors = model.catalogue_vectors() if isinstance(model, Scorer) else None
        most = max(1, SCORES // len(vectors)) if vectors is not None else None
        for rows, batch, targets, conditions in _batches(questions, asked, chosen, most, device):
            losses = None
            if vectors is not None:
                ranks, losses = _scored(model, vectors, batch, targets, conditions, asked.exclude_seen)
            else:
                ranks = _listed(model, batch, targets, conditions, asked.exclude_seen)
            parts.append((rows, ranks.cpu().numpy(), losses))
            done += len(rows)
            reporter.rows(stage=f"asking {name}", rows=done, total=total)
    model.train(was_training)
    return parts


def _scored(
    model: Any,
    vectors: Tensor,
    batch: SequenceBatch,
    targets: Tensor,
    conditions: Mapping[str, Tensor],
    exclude_seen: bool,
) -> tuple[Tensor, Tensor]:
    """Ranks and full-softmax losses of one batch."""
    scores = model.scores(batch, vectors, conditions).float()
    losses = scores.logsumexp(dim=1) - scores.gather(1, targets[:, None]).squeeze(1)
    if bool(losses.isnan().any()):
        raise ModelError("the model's scores are NaN; lower train.lr, or raise objective.temperature")
    if exclude_seen:
        scores[batch.owners, batch.items] = -torch.inf
    return ranks_of(scores, targets), losses


def _listed(
    model: Any, batch: SequenceBatch, targets: Tensor, conditions: Mapping[str, Tensor], exclude_seen: bool
) -> Tensor:
    """Ranks of one batch from the model's list of the longest cutoff; infinite where the target is not on it."""
    listed = model.recommend(batch, max(CUTOFFS), exclude_seen, conditions)
    hits = listed == targets[:, None]
    place = hits.int().argmax(dim=1).double()
    return torch.where(hits.any(dim=1), place, torch.inf)


def _batches(
    questions: EvalSet,
    asked: Asked,
    chosen: npt.NDArray[np.int64] | None,
    most: int | None,
    device: torch.device,
) -> Iterator[tuple[npt.NDArray[np.int64], SequenceBatch, Tensor, dict[str, Tensor]]]:
    """Questions by history length (so that a batch's rows are alike), with targets and conditions."""
    rows = np.arange(len(questions)) if chosen is None else chosen
    lengths = np.minimum(questions.histories.lengths[rows], asked.max_length)
    rows = rows[np.argsort(lengths, kind="stable")]
    # an empty history is a question, too: it counts as one event of the budget
    costs = np.minimum(np.maximum(questions.histories.lengths[rows], 1), asked.max_length)
    for pack in packs(costs, max_events=asked.batch_events, max_rows=most):
        part = rows[pack]
        batch = make_batch(questions.histories, part, asked.max_length)
        batch = replace(batch, users=torch.from_numpy(questions.users[part].astype(np.int64))).to(device)
        targets = torch.from_numpy(questions.targets[part].astype(np.int64)).to(device)
        if asked.fixed is None:
            conditions = {
                name: torch.from_numpy(ids[part].astype(np.int64)).to(device)
                for name, ids in questions.target_conditions.items()
            }
        else:
            conditions = {name: torch.full_like(targets, value) for name, value in asked.fixed.items()}
        yield part, batch, targets, conditions
