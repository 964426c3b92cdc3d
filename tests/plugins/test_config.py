"""The run file: defaults, overrides, and what a mistake says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from genrec_plugins.config import parse_overrides, parse_run
from genrec_registry import ConfigError

RUN = "dataset: {type: criteo-kaggle, path: x}\nmodel: {interaction: fat}\n"


def test_short_forms_mean_the_long_ones() -> None:
    short = parse_run(RUN + "fields: {'C{1..26}': categorical}\ntrain: bars\n").config
    long = parse_run(
        RUN.replace("fat", "{type: fat}") + "fields: {'C{1..26}': {type: categorical}}\ntrain: {preset: bars}\n"
    ).config
    assert short == long
    assert parse_run(RUN + "train: {epochs: 2}\n").config.train.preset == "torchrec"


def test_overrides_reach_into_short_forms_and_leave_the_rest() -> None:
    run = parse_run(RUN, {"train.epochs": "3", "model.over_arch": "[8, 4]", "plugins.disable": "[nobody]"})
    assert (run.config.train.epochs, run.config.model.over_arch) == (3, (8, 4))
    assert run.config.model.interaction.type == "fat"
    assert parse_overrides(["a.b=c=d"]) == {"a.b": "c=d"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            RUN + "train: {weight_decay: 0.1}\n",
            "<string>:3:1: 'train': 'weight_decay' goes with dense_optimizer",
        ),
        (RUN + "train: {preset: bar}\n", "did you mean 'bars'"),
        (RUN + "split: {type: shufled}\n", "did you mean 'shuffled'"),
        (RUN.replace("path", "pth"), "unknown key 'dataset.pth', did you mean 'path'"),
        (RUN + "model: {}\n", "key 'model' stands twice"),
        (RUN + "seed: -1\n", "<string>:3:1: 'seed'"),
        ("[]", "expected a mapping of keys at the top level"),
    ],
)
def test_mistakes_name_place_key_and_mend(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_run(text)


def test_override_without_value_or_through_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--set train\.epochs: expected KEY=VALUE"):
        parse_overrides(["train.epochs"])
    with pytest.raises(ConfigError, match="'seed' is not a mapping"):
        parse_run(RUN + "seed: 1\n", {"seed.x": "1"})


def test_environment_and_file_both_disable_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_DISABLE_PLUGINS", "genrec-plugins")
    with pytest.raises(ConfigError, match="no usable dataset is installed"):
        parse_run(RUN + "plugins: {disable: [nobody]}\n")


def test_checking_a_run_file_loads_no_torch() -> None:
    code = f"import sys; from genrec_plugins.config import parse_run; parse_run({RUN!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
