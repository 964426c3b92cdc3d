"""Resolve ``"module:attr"`` references on first use, so that listing plugins imports nothing heavy."""

from __future__ import annotations

import importlib
from typing import Any

from genrec_registry.errors import PluginError


def resolve(reference: object) -> Any:
    """Return the object behind ``"module:attr"``; anything that is not a string is returned as it is.

    Args:
        reference: ``"package.module:attribute"`` or an object.

    Raises:
        PluginError: the string has no colon, the module cannot be imported, or it has no such attribute.

    Example::

        >>> resolve("math:tau")
        6.283185307179586
        >>> resolve(3)
        3
    """
    if not isinstance(reference, str):
        return reference
    module_name, colon, attribute = reference.partition(":")
    if not colon or not module_name or not attribute:
        raise PluginError(f"'{reference}' is not a reference; expected 'package.module:attribute'")
    try:
        value: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise PluginError(f"'{reference}' cannot be imported: {error}") from error
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            raise PluginError(f"module '{module_name}' has no attribute '{attribute}'") from error
    return value
