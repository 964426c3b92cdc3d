"""The checks as a pytest class, made by one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel

from genrec_plugins.testing import build_checks, row_checks, trace_checks
from genrec_plugins.testing.distributed import run_distributed
from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.subject import Factory, Subject, interaction_subject
from genrec_registry import InteractionRecord

_DISTRIBUTED = pytest.StashKey[dict[type, str]]()


class InteractionChecks:
    """Every check that runs in this process; ``subject`` and ``zero_grad_at_init`` are set by the subclass."""

    subject: ClassVar[Subject]
    zero_grad_at_init: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def module(self) -> torch.nn.Module:
        """A new module of the subject, seeded."""
        torch.manual_seed(0)
        return self.subject.build()

    @pytest.mark.parametrize("batch_size", [1, 2, 7])
    def test_shapes(self, module: torch.nn.Module, batch_size: int) -> None:
        """``[B, out_features]``."""
        row_checks.check_shapes(module, self.subject.context, [batch_size])

    def test_batch_independence(self, module: torch.nn.Module) -> None:
        """Rows do not see each other."""
        row_checks.check_batch_independence(module, self.subject.context)

    def test_gradients(self, module: torch.nn.Module) -> None:
        """Every parameter gets a gradient."""
        row_checks.check_gradients(module, self.subject.context, self.zero_grad_at_init)

    def test_capabilities(self, module: torch.nn.Module) -> None:
        """What the component declares is true."""
        if "permutation-invariant" not in self.subject.capabilities:
            pytest.skip("declares no capability that the kit checks")
        row_checks.check_permutation_invariance(module, self.subject.context)

    def test_meta_device(self) -> None:
        """Meta-device build and ``reset_parameters``."""
        build_checks.check_meta_device(self.subject.build, self.subject.context)

    def test_state_dict(self) -> None:
        """State-dict round trip."""
        build_checks.check_state_dict(self.subject.build, self.subject.context)

    def test_determinism(self) -> None:
        """One seed, one result."""
        build_checks.check_determinism(self.subject.build, self.subject.context)

    def test_fx(self, module: torch.nn.Module) -> None:
        """``torch.fx``."""
        trace_checks.check_fx(module, self.subject.context)

    def test_torchscript(self, module: torch.nn.Module) -> None:
        """fx to TorchScript, saved and loaded."""
        trace_checks.check_torchscript(module, self.subject.context)

    def test_export(self, module: torch.nn.Module) -> None:
        """``torch.export`` with a dynamic batch."""
        trace_checks.check_export(module, self.subject.context)


class TwoRanks:
    """The check that needs two processes; ``subject`` is set by the subclass."""

    subject: ClassVar[Any]

    def test_distributed(self, request: pytest.FixtureRequest) -> None:
        """DMP and TrainPipelineSparseDist on two gloo ranks."""
        # Starting the ranks is what costs: the first suite to come here takes those of all other selected suites along.
        results = request.session.stash.setdefault(_DISTRIBUTED, {})
        if type(self) not in results:
            selected = {
                item.cls
                for item in request.session.items
                if isinstance(item, pytest.Function)
                and item.originalname == "test_distributed"
                and issubclass(item.cls or object, TwoRanks)
            }
            suites = {str(index): suite for index, suite in enumerate({type(self), *selected} - set(results))}
            found = run_distributed({key: suite.subject for key, suite in suites.items()})
            results.update({suite: found[key] for key, suite in suites.items()})
        if results[type(self)]:
            raise ConformanceError(f"{self.subject.name}: {results[type(self)]}")


class InteractionSuite(InteractionChecks, TwoRanks):
    """All checks, with the training on two ranks."""


def interaction_suite(
    component: str | InteractionRecord | Factory,
    config: Mapping[str, Any] | BaseModel | None = None,
    *,
    embedding_dim: int = 8,
    num_sparse_features: int = 4,
    capabilities: frozenset[str] | None = None,
    zero_grad_at_init: Iterable[str] = (),
    distributed: bool = True,
) -> type[InteractionChecks]:
    """A pytest class with every check; bind it to a name that starts with ``Test``.

    Args:
        component: a registered name, a record, or a factory ``(config, context) -> nn.Module`` (a class is one).
        config: its options: a mapping (names and records only), a config object, or nothing.
        embedding_dim: D of the small context it is examined in; a record that needs a certain width overrules it.
        num_sparse_features: F of that context.
        capabilities: what it claims; the record's if None.
        zero_grad_at_init: regular expressions of parameters that get no gradient at first, by design.
        distributed: whether to train on two ranks as well (all selected suites share one pair of processes).

    Raises:
        PluginError: the name is unknown, or a factory is given a mapping.
        ConfigError: the config is wrong.

    Example::

        >>> TestDcn = interaction_suite("dcn", {"num_layers": 2})
        >>> TestDcn.subject.config.num_layers
        2
    """
    subject = interaction_subject(
        component,
        config,
        embedding_dim=embedding_dim,
        num_sparse_features=num_sparse_features,
        capabilities=capabilities,
    )
    base = InteractionSuite if distributed else InteractionChecks
    return type(
        f"{base.__name__}[{subject.name}]",
        (base,),
        {"subject": subject, "zero_grad_at_init": tuple(zero_grad_at_init), "__doc__": f"Conformance: {subject.name}."},
    )
