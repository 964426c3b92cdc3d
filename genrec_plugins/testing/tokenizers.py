"""The tokenizer suite: one line in a plugin's tests runs every check of the contract against a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from genrec_plugins.testing import tokenizer_checks
from genrec_plugins.testing.tokenizer_checks import TokenizerSubject, tokenizer_subject
from genrec_registry import Record, Registry, Tokenizer


class TokenizerChecks:
    """Every check; ``subject`` is set by the subclass."""

    subject: ClassVar[TokenizerSubject]

    def test_codes(self) -> None:
        """Shape, type and range."""
        tokenizer_checks.check_codes(self.subject)

    def test_determinism(self) -> None:
        """One seed, one result."""
        tokenizer_checks.check_determinism(self.subject)

    def test_item_alone(self) -> None:
        """An item's codes do not depend on the batch."""
        tokenizer_checks.check_item_alone(self.subject)

    def test_save(self, tmp_path: Path) -> None:
        """Save and restore, bit for bit, without pickle."""
        tokenizer_checks.check_save(self.subject, tmp_path)

    def test_new_items(self) -> None:
        """Codes without another fit."""
        tokenizer_checks.check_new_items(self.subject)

    def test_reconstruct(self) -> None:
        """Shape and independence of what codes stand for."""
        tokenizer_checks.check_reconstruct(self.subject)

    def test_errors(self) -> None:
        """Bad catalogues are refused in a sentence."""
        tokenizer_checks.check_errors(self.subject)


def tokenizer_suite(
    component: str | Record | Callable[[Any], Tokenizer],
    config: Mapping[str, Any] | BaseModel | None = None,
    *,
    embeddings: np.ndarray | None = None,
    registry: Registry | None = None,
) -> type[TokenizerChecks]:
    """A pytest class with every check; bind it to a name that starts with ``Test``.

    Args:
        component: a registered name, a record, or a factory ``(config) -> Tokenizer`` (a class is one).
        config: its options: a mapping (names and records only), a config object, or nothing. Keep it small: codebooks
            of at most three quarters of the items.
        embeddings: ``[N, E]`` of the catalogue it is tried on; 160 clustered items of width 12 if None.
        registry: where names are looked up; the installed plugins if None.

    Raises:
        PluginError: the name is unknown, or a factory is given a mapping.
        ConfigError: the config is wrong.

    Example::

        >>> TestRqKmeans = tokenizer_suite("rq-kmeans", {"sizes": [16, 8]})
        >>> TestRqKmeans.subject.config.sizes
        (16, 8)
    """
    subject = tokenizer_subject(component, config, embeddings=embeddings, registry=registry)
    return type(
        f"TokenizerSuite[{subject.name}]",
        (TokenizerChecks,),
        {"subject": subject, "__doc__": f"Conformance: {subject.name}."},
    )
