"""The checks of a sequence encoder as a pytest class, made by one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel

from genrec_plugins.testing import build_checks, encoders_checks, row_checks
from genrec_plugins.testing.encoders_subject import EncoderFactory, EncoderSubject, encoder_subject
from genrec_plugins.testing.suite import TwoRanks
from genrec_registry import EncoderRecord


class EncoderChecks:
    """Every check that runs in this process; ``subject`` and ``zero_grad_at_init`` are set by the subclass."""

    subject: ClassVar[EncoderSubject]
    zero_grad_at_init: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def module(self) -> torch.nn.Module:
        """A new module of the subject, seeded."""
        torch.manual_seed(0)
        return self.subject.build()

    def _needs(self, capability: str) -> None:
        if capability not in self.subject.capabilities:
            pytest.skip(f"does not declare '{capability}'")

    @pytest.mark.parametrize("batch_size", [1, 2, 7])
    def test_shapes(self, module: torch.nn.Module, batch_size: int) -> None:
        """``[B, num_user_tokens, D]``, ``[T, D]``, ``[M, D]``, ``[N, D]``; ragged rows, empty rows, no events."""
        encoders_checks.check_encoder_shapes(module, self.subject.context, [batch_size])

    def test_causality(self, module: torch.nn.Module) -> None:
        """States see the past, and nothing else."""
        self._needs("next-item")
        conditional = "conditional" in self.subject.capabilities
        encoders_checks.check_causality(module, self.subject.context, conditional)

    def test_row_independence(self, module: torch.nn.Module) -> None:
        """Padding, packing and neighbours are invisible."""
        encoders_checks.check_row_independence(module, self.subject.context)

    def test_queries(self, module: torch.nn.Module) -> None:
        """A group of queries is as many separate ones."""
        self._needs("next-item")
        conditional = "conditional" in self.subject.capabilities
        encoders_checks.check_queries(module, self.subject.context, conditional)

    def test_target(self, module: torch.nn.Module) -> None:
        """What is declared about the target is true."""
        encoders_checks.check_target(module, self.subject.context, "target-aware" in self.subject.capabilities)

    def test_max_length(self, module: torch.nn.Module) -> None:
        """Rows that are too long."""
        encoders_checks.check_max_length(module, self.subject.context)

    def test_gradients(self, module: torch.nn.Module) -> None:
        """Every parameter gets a gradient."""
        row_checks.check_gradients(module, self.subject.context, self.zero_grad_at_init)

    def test_same_parameters_every_step(self, module: torch.nn.Module) -> None:
        """No parameter takes part in some steps only."""
        encoders_checks.check_same_parameters_every_step(module, self.subject.context)

    def test_meta_device(self) -> None:
        """Meta-device build and ``reset_parameters``."""
        build_checks.check_meta_device(self.subject.build, self.subject.context)

    def test_state_dict(self) -> None:
        """State-dict round trip."""
        build_checks.check_state_dict(self.subject.build, self.subject.context)

    def test_determinism(self) -> None:
        """One seed, one result."""
        build_checks.check_determinism(self.subject.build, self.subject.context)


class EncoderSuite(EncoderChecks, TwoRanks):
    """All checks, with the training on two ranks."""


def encoder_suite(
    component: str | EncoderRecord | EncoderFactory,
    config: Mapping[str, Any] | BaseModel | None = None,
    *,
    embedding_dim: int = 8,
    feature_dim: int = 12,
    max_length: int = 5,
    num_item_features: int = 2,
    num_condition_features: int = 1,
    capabilities: frozenset[str] | None = None,
    zero_grad_at_init: Iterable[str] = (),
    distributed: bool = True,
) -> type[EncoderChecks]:
    """A pytest class with every check; bind it to a name that starts with ``Test``.

    Args:
        component: a registered name, a record, or a factory ``(config, context) -> nn.Module`` (a class is one).
        config: its options: a mapping (names and records only), a config object, or nothing.
        embedding_dim: D of the small context it is examined in.
        feature_dim: E, a multiple of 4 (a sharded table needs it).
        max_length: events of the longest row.
        num_item_features: features that say what an item is.
        num_condition_features: features that say under what condition it came; examine an encoder with and without.
        capabilities: what it claims; the record's if None.
        zero_grad_at_init: regular expressions of parameters that get no gradient at first, by design.
        distributed: whether to train on two ranks as well (all selected suites share one pair of processes).

    Raises:
        PluginError: the name is unknown, or a factory is given a mapping.
        ConfigError: the config is wrong.

    Example::

        >>> TestSasRec = encoder_suite("sasrec", {"num_layers": 1}, num_condition_features=0)
        >>> TestSasRec.subject.config.num_layers
        1
    """
    subject = encoder_subject(
        component,
        config,
        embedding_dim=embedding_dim,
        feature_dim=feature_dim,
        max_length=max_length,
        num_item_features=num_item_features,
        num_condition_features=num_condition_features,
        capabilities=capabilities,
    )
    base = EncoderSuite if distributed else EncoderChecks
    return type(
        f"{base.__name__}[{subject.name}]",
        (base,),
        {"subject": subject, "zero_grad_at_init": tuple(zero_grad_at_init), "__doc__": f"Conformance: {subject.name}."},
    )
