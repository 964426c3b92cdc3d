"""Contracts of genrec-plugins: hook specs, records, plugin manager, configs, errors. Never imports torch.

Names are loaded on first use, so that ``import genrec_registry`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "config": ("Config", "config_union", "digest", "parse_component", "tagged_config"),
    "contracts": (
        "SPLITS",
        "BehaviourDataset",
        "Dataset",
        "EncoderContext",
        "ErrorPolicy",
        "FieldFitter",
        "FieldState",
        "FieldType",
        "FittedField",
        "InteractionContext",
        "MergeableFitter",
        "SourceFile",
        "Split",
        "Tokenizer",
    ),
    "errors": (
        "ConfigError",
        "DataError",
        "GenrecError",
        "ModelError",
        "PluginError",
        "SetupError",
        "did_you_mean",
    ),
    "features": ("BehaviourSpec", "DenseFeature", "DynamicRows", "FieldSpec", "SparseFeature"),
    "hookspecs": ("PLUGIN_API_VERSION", "hookimpl", "hookspec"),
    "lazy": ("resolve",),
    "manager": ("Component", "PluginFailure", "Registry", "default_registry"),
    "records": (
        "KINDS",
        "DatasetRecord",
        "EncoderRecord",
        "FieldTypeRecord",
        "InteractionRecord",
        "Record",
        "TokenizerRecord",
    ),
    "yaml_source": ("YamlSource", "explain", "parse_yaml", "read_yaml"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from genrec_registry.config import *
    from genrec_registry.contracts import *
    from genrec_registry.errors import *
    from genrec_registry.features import *
    from genrec_registry.hookspecs import *
    from genrec_registry.lazy import *
    from genrec_registry.manager import *
    from genrec_registry.records import *
    from genrec_registry.yaml_source import *


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
