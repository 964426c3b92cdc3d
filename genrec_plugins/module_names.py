"""Names of submodules and tables for features that users name: torch takes no dots, and none of its own words."""

from __future__ import annotations

from torch import nn

_TAKEN = nn.ModuleDict()


def module_name(name: str) -> str:
    """The name itself where a ``nn.ModuleDict`` takes it as a key, else one with colons.

    ``type``, ``values``, ``train`` and others are attributes of a ModuleDict, and a dot separates modules.

    Example::

        >>> module_name("item"), module_name("type"), module_name("user.id")
        ('item', ':type', 'user:id')
    """
    plain = name.replace(".", ":")
    return plain if plain and not hasattr(_TAKEN, plain) else f":{plain}"


def table_name(name: str) -> str:
    """The table of a ranker's feature.

    Example::

        >>> table_name("C1"), table_name("user.id")
        ('t_C1', 't_user:id')
    """
    return "t_" + name.replace(".", ":")
