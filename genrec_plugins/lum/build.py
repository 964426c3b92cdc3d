"""The model of a pre-training run: the hook where objectives come in."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from genrec_adapters.behaviour.histories import Catalogue
from genrec_adapters.item_codes import ItemCodes
from genrec_plugins.lum.config import InfoNCEObjective, LumConfig
from genrec_plugins.lum.infonce import InfoNCEModel
from genrec_plugins.room import check_room
from genrec_registry import ConfigError, EncoderContext, Registry


def encoder_context(config: LumConfig, catalogue: Catalogue, conditions: Mapping[str, int]) -> EncoderContext:
    """The facts the run's encoder is built from.

    Args:
        config: the run.
        catalogue: the items.
        conditions: ids of each condition.
    """
    return EncoderContext(
        embedding_dim=config.embedding_dim,
        feature_dim=config.feature_dim or config.embedding_dim,
        max_length=config.max_length,
        item_features=tuple(catalogue.all_features()),
        condition_features=tuple(conditions),
    )


def _check_conditional(term: str, config: LumConfig, conditions: Mapping[str, int], registry: Registry) -> None:
    """Refuse a term of the loss that compares conditions where there is nothing to compare."""
    if not conditions:
        raise ConfigError(f"objective.{term} compares conditions, and the run has none; drop it, or add conditions")
    record = registry.get("encoder", config.encoder.type).record
    if "conditional" not in record.capabilities:
        raise ConfigError(
            f"objective.{term} compares answers under several conditions, and encoder '{record.name}' gives the same "
            "under all; drop it, or take encoder: lum"
        )


def build_model(
    config: LumConfig, catalogue: Catalogue, conditions: Mapping[str, int], counts: torch.Tensor, registry: Registry
) -> nn.Module:
    """The untrained model of a run: an ``nn.Module`` that is a :class:`~genrec_plugins.lum.evaluate.PretrainModel`.

    Args:
        config: the run.
        catalogue: the items.
        conditions: ids of each condition.
        counts: ``[N]`` training events of each catalogue row.
        registry: where the encoder comes from.

    Raises:
        ConfigError: the parts of the run do not go together, or the model takes more memory than there is.
    """
    build = partial(_build, config, catalogue, conditions, counts, registry)
    check_room(build, "the model of the pre-training run")
    return build()


def _build(
    config: LumConfig, catalogue: Catalogue, conditions: Mapping[str, int], counts: torch.Tensor, registry: Registry
) -> nn.Module:
    if isinstance(config.objective, InfoNCEObjective):
        context = encoder_context(config, catalogue, conditions)
        for term in ("rivals", "condition_contrast"):
            if getattr(config.objective, term):
                _check_conditional(term, config, conditions, registry)
        return InfoNCEModel(
            registry.create("encoder", config.encoder, context),
            catalogue,
            conditions,
            config.objective,
            feature_dim=context.feature_dim,
            counts=counts,
            table_init_std=config.table_init_std,
        )
    from genrec_plugins.lum.generative import GenerativeLum, catalogue_codes
    from genrec_plugins.lum.knowing import KnowingLum

    objective = config.objective
    codes = ItemCodes.read(objective.codes)
    of_items = catalogue_codes(catalogue.items.values, codes)
    knows = {"knowledge", "temperature", "condition_contrast"}
    options = objective.model_dump(exclude={"type", "codes"} if objective.knowledge else {"type", "codes", *knows})
    if objective.knowledge:
        if objective.condition_contrast and not conditions:
            raise ConfigError(
                "objective.condition_contrast compares conditions, and the run has none; drop it, or add conditions"
            )
        return KnowingLum(of_items, codes.sizes, conditions, popularity=counts, **options)
    return GenerativeLum(of_items, codes.sizes, conditions, popularity=counts, **options)
