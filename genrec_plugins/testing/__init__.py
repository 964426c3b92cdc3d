"""Conformance kit: the checks that every interaction passes, here and in a plugin author's own test suite.

One line in a pytest file runs all of them::

    from genrec_plugins.testing import interaction_suite

    TestMine = interaction_suite("my-interaction", {"width": 8})

Each check is also a plain function that raises :class:`ConformanceError` with a sentence on what to mend.
"""

from __future__ import annotations

from genrec_plugins.testing.build_checks import (
    check_determinism,
    check_meta_device,
    check_state_dict,
    materialize_like_dmp,
)
from genrec_plugins.testing.datasets import build_dataset, dataset_suite, scan_all
from genrec_plugins.testing.distributed import check_distributed, run_distributed
from genrec_plugins.testing.encoders import encoder_suite
from genrec_plugins.testing.encoders_checks import (
    check_causality,
    check_encoder_shapes,
    check_max_length,
    check_queries,
    check_row_independence,
    check_same_parameters_every_step,
    check_target,
)
from genrec_plugins.testing.encoders_subject import EncoderSubject, EventBatch, encoder_subject, random_events
from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.field_cases import FieldSubject, field_subject
from genrec_plugins.testing.field_types import field_type_suite
from genrec_plugins.testing.row_checks import (
    check_batch_independence,
    check_gradients,
    check_permutation_invariance,
    check_shapes,
)
from genrec_plugins.testing.subject import Subject, interaction_subject, random_inputs
from genrec_plugins.testing.suite import interaction_suite
from genrec_plugins.testing.tokenizer_checks import TokenizerSubject, tokenizer_subject
from genrec_plugins.testing.tokenizers import tokenizer_suite
from genrec_plugins.testing.trace_checks import check_export, check_fx, check_torchscript

__all__ = [
    "ConformanceError",
    "EncoderSubject",
    "EventBatch",
    "FieldSubject",
    "Subject",
    "TokenizerSubject",
    "build_dataset",
    "check_batch_independence",
    "check_causality",
    "check_determinism",
    "check_distributed",
    "check_encoder_shapes",
    "check_export",
    "check_fx",
    "check_gradients",
    "check_max_length",
    "check_meta_device",
    "check_permutation_invariance",
    "check_queries",
    "check_row_independence",
    "check_same_parameters_every_step",
    "check_shapes",
    "check_state_dict",
    "check_target",
    "check_torchscript",
    "dataset_suite",
    "encoder_subject",
    "encoder_suite",
    "field_subject",
    "field_type_suite",
    "interaction_subject",
    "interaction_suite",
    "materialize_like_dmp",
    "random_events",
    "random_inputs",
    "run_distributed",
    "scan_all",
    "tokenizer_subject",
    "tokenizer_suite",
]
