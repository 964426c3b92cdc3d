"""Generative LUM: loss and recommendations against one forward pass an item, on a tiny catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from genrec_adapters.item_codes import ItemCodes
from genrec_plugins.lum import generative
from genrec_plugins.lum.batches import SequenceBatch
from genrec_plugins.lum.generative import GenerativeLum, catalogue_codes
from genrec_registry.errors import DataError

SIZES = (3, 4, 5)
CODES = torch.tensor(
    [[-1, -1, -1], [0, 1, 2], [0, 1, 3], [0, 1, 3], [1, 0, 0], [1, 3, 4], [2, 2, 2], [2, 2, 0], [2, 0, 0], [1, 3, 1]]
)
POPULARITY = torch.tensor([0, 1, 2, 3, 1, 1, 1, 1, 1, 1])


def model(**options) -> GenerativeLum:
    torch.manual_seed(0)
    kwargs = {"hidden": 8, "layers": 2, "heads": 2, "dropout": 0.0, "popularity": POPULARITY} | options
    found = GenerativeLum(CODES, SIZES, {"action": 3}, **kwargs).eval()
    with torch.no_grad():  # far from uniform, so that rankings mean something
        for parameter in found.parameters():
            parameter.mul_(2.0)
    return found


def batch(
    rows: list[list[int]], actions: list[list[int]] | None = None, users: list[int] | None = None
) -> SequenceBatch:
    actions = actions or [[1 + item % 2 for item in row] for row in rows]
    return SequenceBatch(
        users=torch.tensor(users or list(range(len(rows)))),
        offsets=torch.tensor(np.cumsum([0, *map(len, rows)])),
        items=torch.tensor([item for row in rows for item in row], dtype=torch.int64),
        conditions={"action": torch.tensor([action for row in actions for action in row], dtype=torch.int64)},
        times=torch.arange(sum(map(len, rows))),
    )


ROWS = [[1, 4, 5, 2], [], [7], [3, 0, 9, 6, 8]]


def siblings(item: int, level: int) -> list[int]:
    """Codes that some item has behind the same prefix, found by comparing with every item."""
    same = (CODES[1:, :level] == CODES[item, :level]).all(dim=1)
    return sorted(set(CODES[1:][same][:, level].tolist()))


def code_losses(lum: GenerativeLum, items: list[int], actions: list[int], user: int) -> Tensor:
    """Cross-entropy ``[T, L]`` of each code, from tokens put together by hand, one row at a time."""
    tokens, places = [], []
    if lum.tokens.users is not None:
        tokens.append(lum.tokens.users.weight[user % lum.tokens.users.num_embeddings])
    for item, action in zip(items, actions, strict=True):
        places.append(len(tokens))
        tokens.append(lum.tokens.begin + lum.tokens.conditions["action"].weight[action])
        tokens += [lum.tokens.codes[level].weight[CODES[item, level]] for level in range(3)]  # -1 is the last row
    states = lum.stack(torch.stack(tokens), torch.tensor([0, len(tokens)]))
    losses = torch.zeros(len(items), 3)
    for event, item in enumerate(items):
        if item == 0:
            continue  # unknown: nothing to predict
        for level in range(3):
            logits, code = lum.logits(level, states[places[event] + level]), int(CODES[item, level])
            if lum.renormalise:
                among = siblings(item, level)
                logits, code = logits[among], among.index(code)
            smoothed = torch.full_like(logits, lum.label_smoothing / len(logits))
            smoothed[code] += 1 - lum.label_smoothing
            losses[event, level] = -(smoothed * torch.log_softmax(logits, dim=0)).sum()
    return losses


@pytest.mark.parametrize(
    "options",
    [{}, {"tied": True, "label_smoothing": 0.2}, {"user_buckets": 2}, {"renormalise": False, "label_smoothing": 0.2}],
    ids=str,
)
@pytest.mark.parametrize("last_only", [False, True])
def test_the_loss_of_a_jagged_batch_is_that_of_single_rows(options, last_only):
    lum = model(last_only=last_only, **options)
    given = batch(ROWS)
    expected = []
    for user, row in enumerate(ROWS):
        if row:
            losses = code_losses(lum, row, [1 + item % 2 for item in row], user)
            known = [at for at in range(len(row)) if row[at] and (not last_only or at == len(row) - 1)]
            expected += [losses[at] for at in known]
    assert len(expected) == (3 if last_only else 9)
    torch.testing.assert_close(lum.loss(given), torch.stack(expected).mean())


def test_the_loss_is_what_retrieval_scores_items_by():
    """Three levels times the mean loss of one item are minus the log-probability that beam search finds for it."""
    lum = model()
    found = lum.retrieve(batch([[1, 4]]), 9, conditions={"action": torch.tensor([2])})
    for item, score in zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True):
        lum.last_only = True
        loss = lum.loss(batch([[1, 4, item]], [[2, 1, 2]]))
        assert float(loss) * 3 == pytest.approx(-score, abs=1e-5)


def test_items_without_an_id_are_seen_but_not_predicted():
    lum = model()
    of_unknown = lum.loss(batch([[0, 0]]))
    assert of_unknown == 0
    of_unknown.backward()
    torch.testing.assert_close(lum.loss(batch([[0, 0], [1, 4]])), lum.loss(batch([[1, 4]])))
    assert not torch.allclose(lum.loss(batch([[0, 4]])), lum.loss(batch([[4]])))


def renormalised_scores(lum: GenerativeLum, row: list[int], actions: list[int], action: int, user: int) -> Tensor:
    """Log-probability of every item, each behind the history in a forward of its own."""
    scores = torch.full((len(CODES),), -torch.inf)
    for item in range(1, len(CODES)):
        given = batch([[*row, item]], [[*actions, action]], users=[user])
        tokens, offsets, first = lum.history(given)
        states = lum.stack(tokens, offsets)
        scores[item] = 0.0
        for level in range(3):
            logits = lum.logits(level, states[first[-1] + level])
            if lum.renormalise:
                allowed = torch.zeros(len(logits), dtype=torch.bool)
                allowed[siblings(item, level)] = True
                logits = logits.masked_fill(~allowed, -torch.inf)
            scores[item] += torch.log_softmax(logits, dim=0)[CODES[item, level]]
    return scores


@pytest.mark.parametrize("options", [{}, {"renormalise": False}, {"user_buckets": 2, "tied": True}], ids=str)
@pytest.mark.parametrize("exclude_seen", [False, True])
@torch.no_grad()
def test_retrieval_ranks_as_scoring_every_item_does(options, exclude_seen):
    lum = model(**options)
    given, action = batch(ROWS), torch.tensor([1, 2, 2, 0])
    seen = (given.owners, given.items) if exclude_seen else None
    found = lum.retrieve(given, 9, seen=seen, conditions={"action": action})
    for user, row in enumerate(ROWS):
        scores = renormalised_scores(lum, row, [1 + item % 2 for item in row], int(action[user]), user)
        if exclude_seen:
            scores[row] = -torch.inf
        count = int(scores.isfinite().sum())
        expected = sorted(
            range(10), key=lambda item: (-round(float(scores[item]), 5), CODES[item].tolist(), -POPULARITY[item])
        )
        assert found.items[user].tolist() == expected[:count] + [0] * (9 - count)
        torch.testing.assert_close(found.scores[user, :count], scores[expected[:count]], atol=1e-5, rtol=1e-5)
    assert torch.equal(lum.recommend(given, 9, exclude_seen, {"action": action}), found.items)


@torch.no_grad()
def test_items_of_one_id_come_together_the_popular_one_first():
    found = model().retrieve(batch(ROWS), 9)
    for items, scores in zip(found.items.tolist(), found.scores.tolist(), strict=True):
        at = items.index(3)
        assert items[at + 1] == 2
        assert scores[at] == scores[at + 1]


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 12, 8192])
def test_a_user_gets_the_same_whoever_else_is_in_the_batch(beams, monkeypatch):
    monkeypatch.setattr(generative, "BEAMS", beams)  # 12: two users at once
    lum = model(beam_width=6)
    given = batch(ROWS)
    together = lum.retrieve(given, 5, seen=(given.owners, given.items))
    for user, row in enumerate(ROWS):
        seen = (torch.zeros(len(row), dtype=torch.int64), torch.tensor(row, dtype=torch.int64))
        alone = lum.retrieve(batch([row], users=[user]), 5, seen=seen)
        assert torch.equal(alone.items[0], together.items[user])
        torch.testing.assert_close(alone.scores[0], together.scores[user])


@torch.no_grad()
@torch.no_grad()
def test_no_user_at_all():
    found = model().retrieve(batch([]), 5, seen=(batch([]).owners, batch([]).items))
    assert found.items.shape == found.scores.shape == (0, 5)


@torch.no_grad()
def test_conditions_change_the_answer_and_those_not_named_are_unknown():
    lum, given = model(), batch(ROWS)
    like = lum.retrieve(given, 5, conditions={"action": torch.tensor([1, 1, 1, 1])})
    view = lum.retrieve(given, 5, conditions={"action": torch.tensor([2, 2, 2, 2])})
    assert not torch.allclose(like.scores, view.scores)
    unnamed = lum.retrieve(given, 5)
    unknown = lum.retrieve(given, 5, conditions={"action": torch.zeros(4, dtype=torch.int64)})
    torch.testing.assert_close(unnamed.scores, unknown.scores)


def test_hidden_items_are_hidden_in_training_only():
    lum = model(event_dropout=0.999)
    given = batch(ROWS)
    plain, hidden = lum.history(given)[0], lum.train().history(given)[0]
    unknown = model().history(replace(given, items=torch.zeros_like(given.items)))[0]
    assert torch.equal(hidden, unknown)
    assert not torch.equal(plain, hidden)
    assert torch.equal(plain, model().history(given)[0])


def test_it_learns_which_item_follows():
    torch.manual_seed(0)
    rows = [[1 + (start + step * jump) % 9 for step in range(6)] for start in range(9) for jump in (1, 2)]
    codes = CODES.clone()
    codes[3] = torch.tensor([0, 1, 4])  # no two items alike
    lum = GenerativeLum(codes, SIZES, hidden=16, layers=1, heads=2, dropout=0.0)
    given, asked = batch(rows), batch([row[:-1] for row in rows])
    optimizer = torch.optim.Adam(lum.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        lum.loss(given).backward()
        optimizer.step()
    assert lum.eval().recommend(asked, 1)[:, 0].tolist() == [row[-1] for row in rows]


def test_every_parameter_gets_a_gradient():
    lum = model(user_buckets=2)
    lum.loss(batch(ROWS)).backward()
    assert [name for name, parameter in lum.named_parameters() if parameter.grad is None] == []


def test_a_build_on_the_meta_device_is_repaired_by_reset_parameters():
    with torch.device("meta"):
        lum = GenerativeLum(CODES, SIZES, {"action": 3}, hidden=8, layers=1, heads=2, popularity=POPULARITY)
    lum = lum.to_empty(device="cpu").eval()
    for parameter in lum.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    for module in lum.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert torch.isfinite(lum.loss(batch(ROWS)))
    assert lum.retrieve(batch(ROWS), 3).items.min() > 0


def test_items_without_codes_are_counted():
    codes = ItemCodes(items=("a", "c"), codes=np.array([[0, 1], [1, 1]], np.int32), sizes=(2, 2))
    assert catalogue_codes(["", "c", "a"], codes).tolist() == [[-1, -1], [1, 1], [0, 1]]
    with pytest.raises(DataError, match="2 of 4 items have no codes, as 'b'"):
        catalogue_codes(["", "a", "b", "c", "d"], codes)


def test_bf16_autocast_gives_nearly_the_same_loss():
    lum = model(hidden=16)
    exact = lum.loss(batch(ROWS))
    with torch.autocast("cpu", torch.bfloat16):
        coarse = lum.loss(batch(ROWS))
    coarse.backward()
    assert float(coarse) == pytest.approx(float(exact), rel=0.02)
    assert all(parameter.grad.isfinite().all() for parameter in lum.parameters() if parameter.grad is not None)
