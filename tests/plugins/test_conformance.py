"""The conformance kit over every registered interaction, and over modules that break one rule each."""

import pytest
import torch
from torch import nn

from genrec_plugins.testing import (
    ConformanceError,
    check_batch_independence,
    check_determinism,
    check_distributed,
    check_export,
    check_fx,
    check_gradients,
    check_meta_device,
    check_permutation_invariance,
    check_shapes,
    check_state_dict,
    check_torchscript,
    interaction_subject,
    interaction_suite,
    run_distributed,
)
from genrec_registry import Config, InteractionContext, InteractionRecord, PluginError, Registry

torch.set_num_threads(1)

# Every interaction of every installed plugin, with its defaults.
for _component in Registry().components("interaction"):
    globals()[f"Test{_component.name.title().replace('-', '')}"] = interaction_suite(_component.qualified_name)

# What the defaults leave out; on two ranks these are no different.
_VARIANTS = {
    "fat-hyper": ("fat", {"mode": "hyper"}),
    "fat-shared": ("fat", {"mode": "shared"}),
    "dcn-full": ("dcn", {"low_rank_dim": "full"}),
    "transformer-mean": ("transformer", {"readout": "mean", "dropout": 0.3}),
    "autoint-plain": ("autoint", {"residual": False, "num_layers": 1}),
    "fmfm-pure": ("fmfm", {"deep": False}),
    "final-mlp-tokens": ("final-mlp", {"gate1_tokens": ["dense", "C2"], "gate2_tokens": ["C1"], "dropout": 0.2}),
    "final-mlp-ungated": ("final-mlp", {"feature_gating": False}),
    "masknet-serial": ("masknet", {"mode": "serial", "dropout": 0.2}),
    "wukong-same-tokens": ("wukong", {"fmb_tokens": 3, "lcb_tokens": 2}),
    "rankmixer-flatten": ("rankmixer", {"readout": "flatten", "num_tokens": 3, "width": 12}),
}
for _name, (_interaction, _config) in _VARIANTS.items():
    _capabilities = frozenset({"permutation-invariant"}) if _name == "transformer-mean" else None
    globals()[f"Test{_name.title().replace('-', '')}"] = interaction_suite(
        _interaction, _config, distributed=False, capabilities=_capabilities
    )


# -- modules that break one rule each ----------------------------------------------------------------------------------

CONTEXT = InteractionContext(embedding_dim=8, token_names=("dense", "C1", "C2", "C3", "C4"))


class Base(nn.Module):
    """A correct interaction: a linear map of the flattened tokens."""

    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__()
        self.linear = nn.Linear(context.num_tokens * context.embedding_dim, 6)
        self.out_features = 6

    def tokens(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return torch.cat((dense_features.unsqueeze(1), sparse_features), dim=1)

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return self.linear(self.tokens(dense_features, sparse_features).flatten(1))


class WrongWidth(Base):
    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.out_features = 7


class OtherNames(Base):
    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        return super().forward(dense, sparse)


class InPlace(Base):
    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return super().forward(dense_features.mul_(2.0), sparse_features)


class AcrossBatch(Base):
    """TorchRec's DLRM_Transformer in small: ``batch_first=True`` was forgotten."""

    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.encoder = nn.TransformerEncoderLayer(context.embedding_dim, 2, dim_feedforward=16)

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return self.linear(self.encoder(self.tokens(dense_features, sparse_features)).flatten(1))


class BatchNorm(Base):
    """Independent in eval mode, not in train mode."""

    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(dense_features, sparse_features))


class Counter(Base):
    """A buffer that carries state from batch to batch."""

    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return super().forward(dense_features, sparse_features)


class NoReset(Base):
    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return super().forward(dense_features, sparse_features) * self.gain


class OtherReset(NoReset):
    """``reset_parameters`` disagrees with ``__init__``."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gain)


class IndexBuffer(Base):
    """Zeros after DMP materialises it: every row would get token 0 five times."""

    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.register_buffer("order", torch.arange(context.num_tokens), persistent=False)

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return self.linear(self.tokens(dense_features, sparse_features)[:, self.order].flatten(1))


class Unused(Base):
    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.spare = nn.Linear(3, 3)


class ZeroGate(Base):
    """The linear map gets no gradient until the gate has left zero."""

    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.gate = nn.Parameter(torch.zeros(6))

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return super().forward(dense_features, sparse_features) * self.gate


class Branch(Base):
    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        output = super().forward(dense_features, sparse_features)
        return output if dense_features.sum() > 0 else -output


class MetaName(Base):
    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.meta = nn.Linear(6, 6)

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return self.meta(super().forward(dense_features, sparse_features))


class FixedBatch(Base):
    """fx records the batch size that a Python int of the traced run had."""

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        output = super().forward(dense_features, sparse_features)
        return output.unflatten(0, [-1, 2]).flatten(0, 1) if output.shape[0] % 2 == 0 else output


class TextAnnotations(Base):
    """As if the file had ``from __future__ import annotations``."""

    def forward(self, dense_features: "Tensor", sparse_features: "Tensor") -> "Tensor":  # noqa: F821
        return super().forward(dense_features, sparse_features)


class HiddenState(Base):
    """A tensor the output depends on and the state dict does not hold."""

    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        self.register_buffer("shift", torch.randn(6), persistent=False)

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return super().forward(dense_features, sparse_features) + self.shift


class OwnGenerator(Base):
    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        generator = torch.Generator()
        generator.seed()
        nn.init.normal_(self.linear.weight, generator=generator)


class AlwaysDropout(Base):
    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(dense_features, sparse_features), 0.5, training=True)


class FailsOnRank1(Base):
    """Raises in the training step of one rank only: the other one waits in a collective."""

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise RuntimeError("rank 1 has had enough")
        return super().forward(dense_features, sparse_features)


class FailsInBuild(Base):
    def __init__(self, config: Config | None = None, context: InteractionContext = CONTEXT) -> None:
        super().__init__(config, context)
        if self.linear.weight.is_meta:
            raise RuntimeError("never built")


def build_checks(check):
    """Checks that build for themselves take the class, the others a module."""
    return check in (check_meta_device, check_state_dict, check_determinism)


ALL_CHECKS = (
    check_shapes,
    check_batch_independence,
    check_gradients,
    check_meta_device,
    check_state_dict,
    check_determinism,
    check_fx,
    check_torchscript,
    check_export,
)


def run_check(check, component):
    check(component if build_checks(check) else component(), CONTEXT)


@pytest.mark.parametrize("check", ALL_CHECKS, ids=lambda check: check.__name__)
def test_a_correct_module_passes(check):
    run_check(check, Base)


@pytest.mark.parametrize(
    ("component", "check", "message"),
    [
        (WrongWidth, check_shapes, r"shape \[1, 6\], expected \[B, out_features\] = \[1, 7\]"),
        (OtherNames, check_shapes, "by keyword: use these two names"),
        (InPlace, check_shapes, "in place"),
        (
            AcrossBatch,
            check_batch_independence,
            r"row 0 changes by \d.*when row 1 changes \(eval mode\).*batch_first=True",
        ),
        (BatchNorm, check_batch_independence, r"\(train mode\).*LayerNorm"),
        (Counter, check_batch_independence, "buffer 'seen' changes"),
        (NoReset, check_meta_device, "'gain' holds uninitialised memory.*here a NoReset"),
        (OtherReset, check_meta_device, "'gain' is initialised with mean 1 and deviation 0.*but with 0 and 0"),
        (IndexBuffer, check_meta_device, "buffer 'order' differs"),
        (Unused, check_gradients, "'spare.weight' gets no gradient"),
        (ZeroGate, check_gradients, "gradient of parameter 'linear.weight' is zero.*zero_grad_at_init"),
        (Branch, check_fx, "torch.where"),
        (Branch, check_torchscript, "torch.where"),
        (Branch, check_export, "must not branch on tensor values"),
        (MetaName, check_fx, "give the submodule another name"),
        (FixedBatch, check_fx, "must not branch, loop or index on tensor values or sizes"),
        (TextAnnotations, check_torchscript, "from __future__ import annotations"),
        (HiddenState, check_state_dict, "not in the state dict"),
        (OwnGenerator, check_determinism, "'linear.weight' differs between two builds"),
        (AlwaysDropout, check_determinism, "nn.Dropout"),
        (FailsInBuild, check_meta_device, "cannot be built on the meta device"),
    ],
)
def test_a_broken_module_fails_with_advice(component, check, message):
    with pytest.raises(ConformanceError, match=f"(?s){message}"):
        run_check(check, component)


def test_a_declared_zero_gradient_is_examined_after_a_step():
    check_gradients(ZeroGate(), CONTEXT, zero_grad_at_init=[r"linear\..*"])

    class Detached(ZeroGate):
        def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
            return super().forward(dense_features, sparse_features) + 0.0 * self.unused

        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(6))

    with pytest.raises(ConformanceError, match="'unused' is zero"):
        check_gradients(Detached(), CONTEXT, zero_grad_at_init=[r"linear\..*", "unused"])


def test_permutation_invariance_is_checked_as_declared():
    with pytest.raises(ConformanceError, match="drop the capability"):
        check_permutation_invariance(Base(), CONTEXT)


def test_two_ranks_report_what_fails_and_go_on():
    names = {
        "good": Base,
        "fails-in-build": FailsInBuild,
        "no-reset": NoReset,
        "fails-on-rank-1": FailsOnRank1,
        "good-again": Base,
    }
    subjects = {key: interaction_subject(component) for key, component in names.items()}

    problems = run_distributed(subjects, timeout=20.0)
    assert problems["good"] == problems["good-again"] == ""
    assert "RuntimeError: never built" in problems["fails-in-build"]
    assert "inter_arch.gain'] are not finite after DMP materialised" in problems["no-reset"]
    assert "rank 1 has had enough" in problems["fails-on-rank-1"]


def test_what_another_process_cannot_find_is_refused_at_once():
    class Local(Base):
        pass

    with pytest.raises(ConformanceError, match="at the top of a module"):
        check_distributed(interaction_subject(Local))


class GainConfig(Config):
    gain: float = 1.0


class Gain(Base):
    def __init__(self, config: GainConfig, context: InteractionContext) -> None:
        super().__init__(config, context)
        self.gain = config.gain

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        return super().forward(dense_features, sparse_features) * self.gain


RECORD = InteractionRecord(name="gain", config=GainConfig, factory=Gain, summary="Linear with a gain")

# What a plugin author writes: a record or a class of their own, found by the ranks although this file is no package.
TestRecord = interaction_suite(RECORD, {"gain": 2.0}, embedding_dim=4, num_sparse_features=2)
TestFactory = interaction_suite(Gain, GainConfig(gain=3.0))


def test_the_subject_carries_config_and_context():
    assert TestRecord.subject.build().gain == 2.0
    assert TestRecord.subject.context.token_names == ("dense", "C1", "C2")
    assert TestFactory.subject.name == "Gain"
    with pytest.raises(PluginError, match="config object"):
        interaction_suite(Gain, {"gain": 2.0})
    with pytest.raises(PluginError, match="did you mean 'dcn'"):
        interaction_suite("dnc")
