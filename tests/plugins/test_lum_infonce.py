"""InfoNCE against slow loops; negatives, their correction and masks against what they promise."""

from __future__ import annotations

import math

import pytest
import torch

from genrec_plugins.lum.config import Negatives
from genrec_plugins.lum.negatives import NegativeSampler
from tests.plugins.lum_cases import make_batch_of, make_model

CONDITIONS = {"action": 4}
LENGTHS = [4, 0, 7, 1]


def similarity(model, state, vector):
    if model.objective.similarity == "cosine":
        return (state @ vector / (state.norm() * vector.norm())).item()
    return (state @ vector).item()


def slow_loss(model, batch, negatives, log_q=None, positive_log_q=None):
    """Event by event, negative by negative."""
    states = model.encoder.states(model.events(batch))
    tables = {name: table.weight for name, table in model.item_tables.embeddings.items()}

    def vector(item):
        features = {"item": tables["item"][item], "kind": tables["kind"][item % 3]}
        return model.encoder.item_vectors({name: value[None] for name, value in features.items()})[0]

    losses, tau = [], float(model.temperature)
    for row in range(len(batch)):
        events = range(int(batch.offsets[row]), int(batch.offsets[row + 1]))
        for event in events:
            if model.objective.loss_on == "positive" and not batch.labels[event]:
                continue
            target = int(batch.items[event])
            true = similarity(model, states[event], vector(target)) / tau
            if positive_log_q is not None:
                true -= positive_log_q[target]
            total = math.exp(true)
            for place, item in enumerate(negatives):
                hidden = model.objective.negatives.mask_history and item in batch.items[list(events)].tolist()
                if item == target or hidden:
                    continue
                logit = similarity(model, states[event], vector(item)) / tau
                total += math.exp(logit - (log_q[place] if log_q is not None else 0.0))
            losses.append(math.log(total) - true)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("objective", [
    {"negatives": {"sampled": 0, "log_q": False}},
    {"negatives": {"sampled": 5, "log_q": False}, "similarity": "dot", "temperature": 1.0},
    {"negatives": {"sampled": 5, "in_batch": False, "sampling": "popularity"}, "temperature": 0.3},
    {"negatives": {"sampled": 6}, "temperature": 0.3, "learn_temperature": True},
    {"negatives": {"sampled": 6, "log_q_positive": True}, "temperature": 0.3},
    {"negatives": {"sampled": 6, "mask_history": True}},
    {"negatives": {"sampled": 6}, "loss_on": "positive"},
])  # fmt: skip
def test_loss_is_that_of_the_loop(objective):
    model = make_model(objective, conditions=CONDITIONS)
    batch = make_batch_of(LENGTHS, conditions=CONDITIONS)
    wanted = batch.items[batch.labels > 0] if model.objective.loss_on == "positive" else batch.items
    torch.manual_seed(5)
    drawn = model.sampler.draw(wanted)
    settings = model.objective.negatives
    expected = slow_loss(
        model,
        batch,
        drawn.items.tolist(),
        drawn.log_q.tolist() if settings.log_q else None,
        model.sampler.expected(len(wanted)).log().tolist() if settings.log_q_positive else None,
    )
    torch.manual_seed(5)
    assert model.loss(batch).item() == pytest.approx(expected, rel=2e-5)


def test_gradients_are_those_of_a_loss_with_plain_masks():
    model = make_model({"negatives": {"sampled": 6}, "temperature": 0.3}, conditions=CONDITIONS)
    batch = make_batch_of(LENGTHS, conditions=CONDITIONS)
    torch.manual_seed(5)
    model.loss(batch).backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    torch.manual_seed(5)
    drawn = model.sampler.draw(batch.items)
    states = torch.nn.functional.normalize(model.encoder.states(model.events(batch)), dim=-1)
    true = (states * model.item_vectors(batch.items)).sum(dim=1, keepdim=True) / 0.3
    logits = states @ model.item_vectors(drawn.items).T / 0.3 - drawn.log_q
    logits = logits.masked_fill(batch.items[:, None] == drawn.items[None], -torch.inf)
    (torch.cat([true, logits], dim=1).logsumexp(dim=1) - true.squeeze(1)).mean().backward()
    assert {"item_tables.embeddings.item.weight", "condition_tables.embeddings.action.weight"} <= set(found)
    for name, weight in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_full_softmax_is_cross_entropy_over_all_items_but_the_unknown():
    model = make_model({"full": True, "temperature": 0.3})
    batch = make_batch_of(LENGTHS)
    expected = slow_loss(model, batch, list(range(1, 10)))
    assert model.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_unknown_items_are_context_and_no_targets():
    model = make_model({"full": True}).eval()
    batch = make_batch_of([3, 2])
    batch.items[:] = 0
    assert model.loss(batch).item() == model.encoder.states(model.events(batch)).sum().item() * 0
    batch.items[1] = 4
    only = torch.nn.functional.normalize(model.encoder.states(model.events(batch))[1], dim=0)
    logits = model.catalogue_vectors()[1:] @ only / model.temperature
    assert model.loss(batch).item() == pytest.approx((logits.logsumexp(0) - logits[3]).item(), rel=1e-5)
    assert model.scores(batch, model.catalogue_vectors())[:, 0].tolist() == [-math.inf, -math.inf]


# -- negatives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [
    Negatives(sampled=0), Negatives(sampled=8), Negatives(sampled=8, in_batch=False, sampling="popularity"),
    Negatives(sampled=3, sampling="popularity"),
])  # fmt: skip
def test_expected_occurrences_are_those_that_occur(config):
    counts = torch.tensor([5, 40, 20, 20, 10, 10])  # row 0 is no item, whatever its count says
    sampler = NegativeSampler(config, counts)
    share = counts.double().clone()
    share[0] = 0
    torch.manual_seed(0)
    rounds, events = 4000, 6
    found = torch.zeros(6, dtype=torch.float64)
    for _ in range(rounds):
        targets = torch.multinomial(share, events, replacement=True)
        found += torch.bincount(sampler.draw(targets).items, minlength=6)
    expected = sampler.expected(events)
    assert found[0] == expected[0] == 0
    # about four standard errors of counts whose variance is at most their mean
    assert torch.all((found / rounds - expected).abs() < 4 * (expected / rounds).sqrt() + 1e-12)


def test_corrected_negatives_estimate_the_softmax_over_the_catalogue():
    counts = torch.tensor([0, 40, 20, 20, 10, 10])
    sampler = NegativeSampler(Negatives(sampled=8), counts)
    logits = torch.tensor([9.0, 0.5, -1.0, 2.0, 0.1, 1.0])
    torch.manual_seed(0)
    total, rounds = 0.0, 4000
    for _ in range(rounds):
        drawn = sampler.draw(torch.multinomial(counts.double(), 6, replacement=True))
        total += (logits[drawn.items] - drawn.log_q).exp().sum().item()
    assert total / rounds == pytest.approx(logits[1:].exp().sum().item(), rel=0.02)


def test_items_without_probability_are_never_drawn():
    sampler = NegativeSampler(Negatives(sampled=500, in_batch=False, sampling="popularity"), torch.tensor([7, 0, 3, 0]))
    assert set(sampler.draw(torch.tensor([2])).items.tolist()) == {2}


# -- recommending -----------------------------------------------------------------------------------------------------


def test_recommend_is_the_top_of_all_similarities():
    model = make_model(conditions=CONDITIONS).eval()
    batch = make_batch_of(LENGTHS, conditions=CONDITIONS)
    wanted = {"action": torch.tensor([1, 2, 3, 0])}
    vectors = model.catalogue_vectors()
    rows = torch.arange(4)
    answers = model.answers(batch, rows, batch.lengths, wanted)
    order = (answers @ vectors.T)[:, 1:].argsort(dim=1, descending=True) + 1
    assert model.recommend(batch, 5, conditions=wanted).tolist() == order[:, :5].tolist()
    for row, listed in enumerate(model.recommend(batch, 3, exclude_seen=True, conditions=wanted).tolist()):
        seen = set(batch.items[batch.offsets[row] : batch.offsets[row + 1]].tolist())
        assert listed == [item for item in order[row].tolist() if item not in seen][:3]


def test_states_are_answers_under_the_events_own_conditions():
    model = make_model(conditions=CONDITIONS).eval()
    batch = make_batch_of(LENGTHS, conditions=CONDITIONS)
    positions = torch.arange(len(batch.items)) - batch.offsets[batch.owners]
    answers = model.answers(batch, batch.owners, positions, batch.conditions)
    states = torch.nn.functional.normalize(model.encoder.states(model.events(batch)), dim=-1)
    torch.testing.assert_close(answers, states, rtol=0, atol=1e-5)
