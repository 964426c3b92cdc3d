"""Interaction configs and contexts that do not go together are refused in words; records stay light."""

import subprocess
import sys

import pytest

from genrec_plugins.testing import interaction_subject
from genrec_registry import ConfigError, InteractionContext, ModelError


@pytest.mark.parametrize(
    ("name", "config", "context", "message"),
    [
        ("transformer", {"num_heads": 3}, {}, "num_heads = 3 does not divide the embedding width 4"),
        ("final-mlp", {"gate1_tokens": ["C22"]}, {}, "gate1_tokens names an unknown token 'C22', did you mean 'C2'"),
        ("rankmixer", {"num_tokens": 7, "width": 14}, {"embedding_dim": 4}, "set num_tokens to 6"),
        ("fm", None, {"token_names": ("dense",)}, "two tokens or more"),
        ("ffm", {"pair_dim": 3}, {}, "3 tokens with pair_dim = 3 need width 9; set the embedding width to 9"),
    ],
)
def test_what_does_not_fit_the_context_is_refused(name, config, context, message):
    subject = interaction_subject(name, config)
    facts = {"embedding_dim": 4, "token_names": ("dense", "C1", "C2")} | context
    with pytest.raises(ModelError, match=message):
        subject.factory(subject.config, InteractionContext(**facts))


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("dcn", {"num_layers": 0}, "num_layers"),
        ("dcn", {"low_rank_dim": "half"}, "low_rank_dim"),
        ("dcn", {"layers": 2}, "layers"),
        ("final-mlp", {"num_heads": 3}, "num_heads = 3 does not divide"),
        ("rankmixer", {"width": 60}, "not a multiple of num_tokens"),
        ("transformer", {"dropout": 1.0}, "dropout"),
    ],
)
def test_a_wrong_config_is_refused(name, config, message):
    with pytest.raises(ConfigError, match=message):
        interaction_subject(name, config)


def test_records_import_no_torch():
    code = (
        "import sys; from genrec_plugins.interactions import RECORDS; [record.load_config() for record in RECORDS]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
