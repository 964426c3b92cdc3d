"""A user's history inside a DLRM: ids looked up one by one, and a sequence encoder that makes user tokens of them."""

# No postponed annotations: torch.fx writes what it reads here, and TorchScript reads what fx writes.
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from genrec_registry import BehaviourSpec, ConfigError, EncoderContext, FieldSpec, ModelError, Registry


def encoder_names(field: str, features: Sequence[str]) -> tuple[str, ...]:
    """What the encoder calls features: without the field's name in front, and fit for a submodule's name.

    Example::

        >>> encoder_names("past", ["past.item", "past.scene.id", "other"])
        ('item', 'scene_id', 'other')
    """
    return tuple(feature.removeprefix(f"{field}.").replace(".", "_") for feature in features)


def user_token_names(field: str, encoder: nn.Module) -> list[str]:
    """Names of the tokens that an encoder makes of a field's history: ``past.user_1``, ..."""
    count: Any = encoder.num_user_tokens
    return [f"{field}.user_{place}" for place in range(1, count + 1)]


class BehaviourArch(nn.Module):
    """``KJT -> [B, N, D]``: history and target embeddings through a sequence encoder to user tokens.

    The collection gets the batch's KJT as it is, so that ``TrainPipelineSparseDist`` can look ids up ahead of time.

    Args:
        embedding_collection: tables of the history's features, all of one width E.
        encoder: see :class:`~genrec_registry.contracts.EncoderContext`; its tokens have width ``encoder_dim``.
        field: the field's name.
        spec: which features are history and which are target.
        encoder_dim: width of the encoder's tokens.
        embedding_dim: D; a linear map stands between where the two differ.

    Example::

        >>> from torchrec.modules.embedding_configs import EmbeddingConfig
        >>> class Last(nn.Module):
        ...     num_user_tokens = 1
        ...     def forward(self, events, target):
        ...         return target["item"].unsqueeze(1)
        >>> table = EmbeddingConfig(name="t", embedding_dim=4, num_embeddings=9, feature_names=["past.item", "now"])
        >>> spec = BehaviourSpec(items=("past.item",), targets=("now",), max_length=5)
        >>> arch = BehaviourArch(EmbeddingCollection(tables=[table]), Last(), "past", spec, 4, 8)
        >>> kjt = KeyedJaggedTensor(
        ...     keys=["past.item", "now"], values=torch.tensor([1, 2, 3, 4]), lengths=torch.tensor([0, 2, 1, 1])
        ... )
        >>> arch(kjt).shape, arch.token_names
        (torch.Size([2, 1, 8]), ('past.user_1',))
    """

    def __init__(
        self,
        embedding_collection: EmbeddingCollection,
        encoder: nn.Module,
        field: str,
        spec: BehaviourSpec,
        encoder_dim: int,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.embedding_collection = embedding_collection
        self.encoder = encoder
        self.projection = nn.Linear(encoder_dim, embedding_dim) if encoder_dim != embedding_dim else None
        self.field = field
        self.spec = spec
        self.encoder_dim = encoder_dim
        self.feature_dim = embedding_collection.embedding_dim()
        self.event_features = dict(zip(encoder_names(field, spec.items + spec.conditions), spec.features, strict=False))
        self.target_features = dict(zip(encoder_names(field, spec.items), spec.targets, strict=False))
        self.encoder_frozen = False
        self.tables_frozen = False

    @property
    def token_names(self) -> tuple[str, ...]:
        """Names of the user tokens."""
        return tuple(user_token_names(self.field, self.encoder))

    def tables(self) -> list[nn.Parameter]:
        """The history's tables."""
        return list(self.embedding_collection.parameters())

    def freeze(self, *, encoder: Sequence[str], tables: bool) -> None:
        """Keep parameters of the encoder, or the tables, as they are; the map to D is always trained.

        Frozen tables are cut off from the gradient, so that a fused optimizer, which updates tables inside the
        backward, is never reached. An encoder with frozen parameters runs in eval mode.

        Args:
            encoder: names of its parameters.
            tables: whether the tables are frozen.
        """
        for name in encoder:
            self.encoder.get_parameter(name).requires_grad_(False)
        self.encoder_frozen, self.tables_frozen = bool(encoder), tables
        self.train(self.training)

    def train(self, mode: bool = True) -> "BehaviourArch":
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        return self

    def forward(self, sparse_features: KeyedJaggedTensor) -> Tensor:
        """User tokens ``[B, N, D]``."""
        looked_up = self.embedding_collection(sparse_features)
        events = {name: self._events(looked_up[feature]) for name, feature in self.event_features.items()}
        target = {name: self._values(looked_up[feature]) for name, feature in self.target_features.items()}
        tokens = self.encoder(events, target)
        return tokens if self.projection is None else self.projection(tokens)

    def _events(self, found: JaggedTensor) -> JaggedTensor:
        # Built anew, since a sharded collection gives a promise of a JaggedTensor, not the thing itself.
        return JaggedTensor(values=self._values(found), lengths=found.lengths(), offsets=found.offsets())

    def _values(self, found: JaggedTensor) -> Tensor:
        return found.values().detach() if self.tables_frozen else found.values()


def behaviour_field(encoder: Any, fields: Sequence[FieldSpec]) -> FieldSpec | None:
    """The field whose history the encoder reads; None where there is neither.

    Args:
        encoder: the tagged config of ``model.encoder``, or None.
        fields: the run's fields.

    Raises:
        ConfigError: one is there without the other, or there are two such fields.
    """
    found = [field for field in fields if field.behaviour is not None]
    if len(found) > 1:
        names = " and ".join(f"'{field.name}'" for field in found)
        raise ConfigError(
            f"fields: {names} are both histories, a model reads one; put all events into one, with what tells them "
            "apart as a condition"
        )
    if found and encoder is None:
        raise ConfigError(
            f"model.encoder is missing: the field '{found[0].name}' is a history, which only a sequence encoder reads; "
            "write 'encoder: din' for example ('genrec plugins list --kind encoder' shows all), or drop the field"
        )
    if encoder is not None and not found:
        raise ConfigError(
            f"model.encoder is '{encoder.type}', but no field is a history; declare one of type 'behaviour', or drop "
            "the encoder"
        )
    return found[0] if found else None


def behaviour_tables(field: FieldSpec, feature_dim: int, init_std: float | None = None) -> list[EmbeddingConfig]:
    """The unpooled tables of a history, in order of first use.

    Args:
        field: has a behaviour.
        feature_dim: E.
        init_std: tables begin at N(0, init_std); TorchRec's uniform rule if None.

    Raises:
        ModelError: two features share a table and disagree on its rows.
    """
    tables: dict[str, list[str]] = {}
    rows: dict[str, int] = {}
    for feature in field.sparse:
        if feature.pooling == "none":
            table = feature.table or feature.name
            tables.setdefault(table, []).append(feature.name)
            if rows.setdefault(table, feature.num_embeddings) != feature.num_embeddings:
                raise ModelError(
                    f"table '{table}' is shared by {tables[table]}, which need {rows[table]} and "
                    f"{feature.num_embeddings} rows; give them the same vocabulary, or tables of their own"
                )
    return [
        EmbeddingConfig(
            name="t_" + table.replace(".", "_"),
            embedding_dim=feature_dim,
            num_embeddings=rows[table],
            feature_names=names,
            init_fn=partial(nn.init.normal_, std=init_std) if init_std is not None else None,
        )
        for table, names in tables.items()
    ]


def create_encoder(config: Any, field: FieldSpec, registry: Registry) -> nn.Module:
    """The encoder of ``model.encoder`` for the features of a history.

    Args:
        config: the ``model`` section.
        field: has a behaviour.
        registry: where the encoder comes from.
    """
    assert field.behaviour is not None
    encoder_dim = config.encoder_dim or config.embedding_dim
    context = EncoderContext(
        embedding_dim=encoder_dim,
        feature_dim=config.encoder_feature_dim or encoder_dim,
        max_length=field.behaviour.max_length,
        item_features=encoder_names(field.name, field.behaviour.items),
        condition_features=encoder_names(field.name, field.behaviour.conditions),
    )
    encoder: nn.Module = registry.create("encoder", config.encoder, context)
    return encoder


def build_behaviour_arch(
    config: Any, field: FieldSpec, encoder: nn.Module, embedding_dim: int, device: torch.device
) -> BehaviourArch:
    """A history's tables with the encoder over them.

    Args:
        config: the ``model`` section.
        field: has a behaviour.
        encoder: made by :func:`create_encoder` from the same config.
        embedding_dim: D of the model's other tables, which may differ from the config's: an interaction may ask for it.
        device: where the parameters are made.
    """
    assert field.behaviour is not None
    encoder_dim = config.encoder_dim or config.embedding_dim
    tables = behaviour_tables(field, config.encoder_feature_dim or encoder_dim, config.embedding_init_std)
    collection = EmbeddingCollection(tables=tables, device=device)
    return BehaviourArch(collection, encoder, field.name, field.behaviour, encoder_dim, embedding_dim)
