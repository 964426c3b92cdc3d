"""One user's history, encoded once for all candidates of a request.

Rows of a request's candidates have the same events. All but the first, their leader, come without them, and get the
leader's user tokens. This goes with encoders that do not read the target; DIN does, so that its tokens differ from
candidate to candidate, and its rows are encoded the plain way.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from genrec_plugins.models.behaviour_arch import BehaviourArch


class TargetWasRead(Exception):
    """The encoder looked at the target."""


class Unread(Mapping[str, Tensor]):
    """A target that nobody may look at.

    Example::

        >>> Unread()["item"]
        Traceback (most recent call last):
        genrec_plugins.serving.shared_history.TargetWasRead
    """

    def __getitem__(self, key: str) -> NoReturn:
        raise TargetWasRead

    def __iter__(self) -> NoReturn:
        raise TargetWasRead

    def __len__(self) -> NoReturn:
        raise TargetWasRead


class SharedHistory(nn.Module):
    """A :class:`BehaviourArch` whose rows may have another row's history: ``KJT -> [B, N, D]``.

    Args:
        arch: the trained one.

    Example::

        >>> from torchrec.modules.embedding_configs import EmbeddingConfig
        >>> from torchrec.modules.embedding_modules import EmbeddingCollection
        >>> from genrec_registry import BehaviourSpec
        >>> class Last(nn.Module):
        ...     num_user_tokens = 1
        ...     def forward(self, events, target):
        ...         return events["item"].values()[events["item"].offsets()[1:] - 1].unsqueeze(1)
        >>> table = EmbeddingConfig(name="t", embedding_dim=4, num_embeddings=9, feature_names=["past.item", "now"])
        >>> spec = BehaviourSpec(items=("past.item",), targets=("now",), max_length=5)
        >>> shared = SharedHistory(BehaviourArch(EmbeddingCollection(tables=[table]), Last(), "past", spec, 4, 4))
        >>> kjt = KeyedJaggedTensor(
        ...     keys=["past.item", "now"], values=torch.tensor([1, 2, 3, 4]), lengths=torch.tensor([2, 0, 1, 1])
        ... )
        >>> with shared.led_by(torch.tensor([0, 0])):
        ...     tokens = shared(kjt)
        >>> tokens.shape, bool((tokens[0] == tokens[1]).all())
        (torch.Size([2, 1, 4]), True)
    """

    def __init__(self, arch: BehaviourArch) -> None:
        super().__init__()
        self.arch = arch
        self._leaders = threading.local()

    @contextmanager
    def led_by(self, leader: Tensor) -> Iterator[None]:
        """Within this block, on this thread, row r has the history of row ``leader[r]``.

        Args:
            leader: ``[B]``; a leader leads itself.
        """
        self._leaders.now = leader
        try:
            yield
        finally:
            self._leaders.now = None

    def forward(self, sparse_features: KeyedJaggedTensor) -> Tensor:
        """User tokens ``[B, N, D]``.

        Raises:
            TargetWasRead: the encoder reads the target, and rows are led by others.
        """
        leader: Tensor | None = getattr(self._leaders, "now", None)
        arch = self.arch
        if leader is None:
            tokens: Tensor = arch(sparse_features)
            return tokens
        leaders, place = torch.unique(leader, return_inverse=True)
        found = arch.embedding_collection(sparse_features)
        events = {}
        for name, feature in arch.event_features.items():
            # a led row has no events, so that these are the leaders' in their order
            lengths = found[feature].lengths()[leaders]
            events[name] = JaggedTensor(values=found[feature].values(), lengths=lengths)
        encoded = arch.encoder(events, Unread())
        if arch.projection is not None:
            encoded = arch.projection(encoded)
        of_rows: Tensor = encoded[place]
        return of_rows


def reads_target(arch: BehaviourArch) -> bool:
    """Whether an encoder looks at the target, tried on histories of one event and of none.

    Args:
        arch: its encoder is in eval mode.
    """
    width = arch.feature_dim
    lengths = torch.tensor([1, 0])
    events = {name: JaggedTensor(values=torch.zeros(1, width), lengths=lengths) for name in arch.event_features}
    try:
        with torch.no_grad():
            arch.encoder(events, Unread())
    except TargetWasRead:
        return True
    except Exception:  # a plugin's encoder, which may wrap what it met; the plain way always works
        return True
    return False


def shared_columns(fields: Mapping[str, Mapping[str, Any]], readers: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """The raw columns of a history that nothing else reads.

    Args:
        fields: field -> its config; at most one is of the type ``behaviour``.
        readers: column -> the fields that read it.

    Returns:
        The columns; none where another field reads one of them, or where there is no such field.

    Example::

        >>> past = {"type": "behaviour", "item": "item", "history": "seen", "conditions": ["how"]}
        >>> sorted(shared_columns({"past": past}, {"item": ("past",), "seen": ("past",), "how": ("past",)}))
        ['how', 'seen']
    """
    for name, config in fields.items():
        if config.get("type") != "behaviour":
            continue
        attributes = config.get("attributes") or {}
        history = {config["history"], *config.get("conditions", ())}
        history |= {one["history"] for one in attributes.values() if one.get("history")}
        targets = {config["item"], *(one["target"] for one in attributes.values() if one.get("target"))}
        if history & targets or any(readers.get(column) != (name,) for column in history):
            return frozenset()
        return frozenset(history)
    return frozenset()
