"""The terms that compare conditions, against loops over events; event dropout."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from genrec_plugins.lum.batches import SequenceBatch
from genrec_plugins.lum.contrast import MOST, questions
from genrec_plugins.lum.rivals import rival_mask
from genrec_plugins.lum.run import pretrain
from genrec_registry import ConfigError
from tests.plugins.lum_cases import make_model, run_of, write_lists, write_ratings


def make_batch_of(rows, actions):
    """A batch of these items and actions."""
    flat = torch.tensor([item for row in rows for item in row])
    return SequenceBatch(
        users=torch.arange(len(rows)),
        offsets=torch.tensor([0, *[len(row) for row in rows]]).cumsum(0),
        items=flat,
        conditions={"action": torch.tensor([action for row in actions for action in row])},
        times=torch.arange(len(flat)),
    )


@pytest.fixture
def batch():
    return make_batch_of([[1, 2, 3, 2], [], [4, 5], [6]], actions=[[1, 2, 1, 2], [], [2, 1], [1]])


def _answer(model, batch, event, action):
    """The answer to one question, alone in its pass."""
    row = int(batch.owners[event])
    prefix = event - int(batch.offsets[row])
    asked = {"action": torch.tensor([action])}
    return model.answers(batch, torch.tensor([row]), torch.tensor([prefix]), asked)[0]


def test_contrast_is_a_softmax_over_the_conditions_of_the_same_item(batch):
    model = make_model({"condition_contrast": 1.0}, conditions={"action": 3})
    expected = []
    for event in range(len(batch.items)):
        item = model.item_vectors(batch.items[event : event + 1])[0]
        logits = torch.stack([_answer(model, batch, event, action) @ item for action in (1, 2)]) / model.temperature
        expected.append(functional.cross_entropy(logits[None], batch.conditions["action"][event : event + 1] - 1))
    found = model._contrast_loss(batch, torch.arange(len(batch.items)))
    assert torch.allclose(found, torch.stack(expected).mean(), atol=1e-5)


def test_contrast_asks_under_the_most_frequent_conditions_only():
    actions = [[1 + at % (MOST + 3) for at in range(4 * (MOST + 3))] + [1, 2]]
    batch = make_batch_of([[1 + at % 8 for at in range(len(actions[0]))]], actions=actions)
    asked = questions(batch, torch.arange(len(batch.items)))
    assert asked.count == MOST
    assert len(asked.events) < len(batch.items)
    own = asked.conditions["action"].view(-1, MOST).gather(1, asked.own[:, None]).squeeze(1)
    assert torch.equal(own, batch.conditions["action"][asked.events])


def test_rivals_are_the_rows_items_under_other_conditions(batch):
    items, place = torch.unique(batch.items, return_inverse=True)
    found = rival_mask(batch, place, len(items))
    for event in range(len(batch.items)):
        same_row = batch.owners == batch.owners[event]
        same = batch.conditions["action"] == batch.conditions["action"][event]
        own = set(batch.items[same_row & same].tolist())
        expected = set(batch.items[same_row].tolist()) - own
        assert set(items[found[event]].tolist()) == expected


def test_rival_loss_against_a_loop(batch):
    model = make_model({"rivals": 1.0}, conditions={"action": 3})
    chosen = torch.arange(len(batch.items))
    states = model._comparable(model.encoder.states(model.events(batch)))
    items, place = torch.unique(batch.items, return_inverse=True)
    mask, expected = rival_mask(batch, place, len(items)), []
    for event in range(len(batch.items)):
        logits = model.item_vectors(items) @ states[event] / model.temperature
        kept = [logits[place[event]], *logits[mask[event]]]
        expected.append(torch.stack(kept).logsumexp(0) - logits[place[event]])
    assert torch.allclose(model._rival_loss(states, batch, chosen), torch.stack(expected).mean(), atol=1e-5)


@pytest.mark.parametrize("term", ["rivals", "condition_contrast"])
def test_terms_are_part_of_the_loss_and_reach_every_weight(batch, term):
    plain, model = (make_model(options, conditions={"action": 3}) for options in ({}, {term: 2.0}))
    torch.manual_seed(3)
    base = plain.loss(batch)
    torch.manual_seed(3)
    loss = model.loss(batch)
    assert float((loss - base).detach()) > 1e-3
    loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "queries" not in name)


@pytest.mark.parametrize("term", ["rivals", "condition_contrast"])
def test_terms_need_conditions_and_an_encoder_that_reads_them(term, tmp_path):
    lists = {"type": "amazon-reviews", "path": str(write_lists(tmp_path / "lists.json"))}
    with pytest.raises(ConfigError, match=f"objective.{term} compares conditions, and the run has none"):
        pretrain(run_of(lists, objective={term: 1.0}), tmp_path / "a")
    ratings = {"type": "movielens", "path": str(write_ratings(tmp_path / "ratings"))}
    with pytest.raises(ConfigError, match="encoder 'mean-pool' gives the same under all"):
        pretrain(run_of(ratings, encoder="mean-pool", objective={term: 1.0}), tmp_path / "b")


def test_thinning_leaves_out_events_and_keeps_rows_in_step(batch):
    torch.manual_seed(0)
    thin = batch.thinned(0.5)
    assert len(thin) == len(batch)
    assert 0 < len(thin.items) < len(batch.items)
    for row in range(len(batch)):
        old, new = (slice(int(b.offsets[row]), int(b.offsets[row + 1])) for b in (batch, thin))
        pairs = list(zip(batch.items[old].tolist(), batch.conditions["action"][old].tolist(), strict=True))
        kept = iter(pairs)
        assert all(
            pair in kept  # a subsequence: order is kept
            for pair in zip(thin.items[new].tolist(), thin.conditions["action"][new].tolist(), strict=True)
        )
    assert torch.equal(batch.thinned(0.0).items, batch.items)
