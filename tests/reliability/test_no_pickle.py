"""Nothing that a file holds is run: checkpoints with a payload are refused, and no code reads a pickle elsewhere."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from genrec_plugins.training.safe_state import SafeReader, check_files, digest_files, load_state
from genrec_registry import ConfigError, ModelError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("registry/genrec_registry", "adapters/genrec_adapters", "genrec_plugins")
STATE = {
    "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "step": torch.tensor(3),
    "rate": 0.5,
    "betas": (0.9, 0.999),
    "nested": {"flag": True, "nothing": None, "names": ["a", "b"]},
}


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    dcp.save(dict(STATE), checkpoint_id=str(tmp_path / "state"), no_dist=True)
    return tmp_path / "state"


def empty() -> dict[str, Any]:
    tensors = {name: torch.zeros_like(value) for name, value in STATE.items() if isinstance(value, torch.Tensor)}
    return tensors | {"rate": 0.0, "betas": (0.0, 0.0), "nested": {"flag": False, "nothing": 1, "names": ["", ""]}}


def test_what_dcp_saves_is_read_whole(saved: Path) -> None:
    ours, theirs = empty(), empty()
    load_state(ours, saved, no_dist=True)
    dcp.load(theirs, checkpoint_id=str(saved), no_dist=True)
    for name, value in STATE.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(ours[name], value)
            assert torch.equal(theirs[name], value)
        else:
            assert ours[name] == theirs[name] == value


def test_a_payload_in_the_metadata_is_refused_and_not_run(saved: Path, tmp_path: Path) -> None:
    (saved / ".metadata").write_bytes(pickle.dumps(Payload(tmp_path / "made")))
    with pytest.raises(ModelError, match=r"it names (posix|nt)\.mkdir, which the metadata of tensors does not"):
        SafeReader(saved).read_metadata()
    assert not (tmp_path / "made").exists()
    with pytest.raises(CheckpointException):  # what stock DCP does with it
        dcp.load(empty(), checkpoint_id=str(saved), no_dist=True)
    assert (tmp_path / "made").exists()


def test_a_payload_beside_the_tensors_is_refused_and_not_run(saved: Path, tmp_path: Path) -> None:
    payload = io.BytesIO()
    torch.save(Payload(tmp_path / "made"), payload)
    found = pickle.loads((saved / ".metadata").read_bytes())
    place = next(info for index, info in found.storage_data.items() if index.fqn == "rate")
    place.offset, place.length = (saved / place.relative_path).stat().st_size, len(payload.getvalue())
    with (saved / place.relative_path).open("ab") as file:
        file.write(payload.getvalue())
    (saved / ".metadata").write_bytes(pickle.dumps(found))
    with pytest.raises(CheckpointException, match="Weights only load failed"):
        load_state(empty(), saved, no_dist=True)
    assert not (tmp_path / "made").exists()
    dcp.load(empty(), checkpoint_id=str(saved), no_dist=True)  # stock DCP runs it
    assert (tmp_path / "made").exists()


def test_metadata_cannot_name_files_elsewhere(saved: Path, tmp_path: Path) -> None:
    (saved / "__0_0.distcp").rename(tmp_path / "elsewhere")
    data = (saved / ".metadata").read_bytes()
    found = pickle.loads(data)
    for info in found.storage_data.values():
        info.relative_path = "../elsewhere"
    (saved / ".metadata").write_bytes(pickle.dumps(found))
    with pytest.raises(ModelError, match=r"places a tensor into \.\./elsewhere, outside its folder"):
        SafeReader(saved).read_metadata()


def test_a_changed_file_is_told(saved: Path) -> None:
    digests = digest_files(saved)
    check_files(saved, digests)
    data = bytearray((saved / "__0_0.distcp").read_bytes())
    data[len(data) // 2] ^= 1
    (saved / "__0_0.distcp").write_bytes(data)
    with pytest.raises(ModelError, match=r"__0_0\.distcp: was changed"):
        check_files(saved, digests)
    (saved / "__0_0.distcp").unlink()
    with pytest.raises(ModelError, match=r"__0_0\.distcp: is missing"):
        check_files(saved, digests)


def a_language_model(folder: Path) -> Path:
    pytest.importorskip("transformers", reason="genrec uqa is an extra")
    from tests.plugins.uqa_cases import make_language_model

    return make_language_model(folder)


def load(folder: Path) -> None:
    from genrec_plugins.uqa.config import LanguageModel
    from genrec_plugins.uqa.llm import load_language_model

    load_language_model(LanguageModel(path=str(folder)), torch.device("cpu"))


def test_pickled_weights_of_a_language_model_are_not_read(tmp_path: Path) -> None:
    folder = a_language_model(tmp_path / "llm")
    load(folder)
    (folder / "model.safetensors").unlink()
    torch.save(Payload(tmp_path / "made"), folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="in safetensors files"):
        load(folder)
    assert not (tmp_path / "made").exists()


def test_code_beside_a_language_model_is_not_run(tmp_path: Path) -> None:
    folder = a_language_model(tmp_path / "llm")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {name: f"evil.{name}" for name in ("AutoConfig", "AutoModelForCausalLM")},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'made')!r})\n")
    with pytest.raises(ConfigError, match=r"llm\.path"):
        load(folder)
    assert not (tmp_path / "made").exists()


# -- what the code may call ----------------------------------------------------------------------------------------

ALLOWED = {
    # the one place that unpickles, with a list of what may be named
    ("genrec_plugins/training/safe_state.py", "import pickle"),
    # answers of the run's own Ray workers, in memory; Ray pickles all that goes between them anyway
    ("adapters/genrec_adapters/preprocess/on_ray.py", "import pickle"),
    # what the check or the export itself saved, into memory
    ("genrec_plugins/testing/trace_checks.py", "torch.jit.load"),
    ("genrec_plugins/serving/formats.py", "torch.export.load"),
    ("genrec_plugins/serving/formats.py", "torch.jit.load"),
}


PICKLES = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
#: calls that are never right
NEVER = (
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "torch.jit.load",
    "torch.export.load",
    "torch.package.PackageImporter",
    "torch.hub.load",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
)
#: end of a call's name, and the keyword that it must have
NEEDS = (
    ("torch.load", "weights_only", "True"),
    ("np.load", "allow_pickle", "False"),
    ("numpy.load", "allow_pickle", "False"),
    (".from_pretrained", "trust_remote_code", "False"),
    ("LM.from_pretrained", "use_safetensors", "True"),
)


def risky_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything in a module that can run what a file or a text holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, name) for name in risky_imports(node))
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, name) for name in risky_call(node))


def risky_imports(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    names = [name.name for name in node.names]
    for module in [node.module or ""] if isinstance(node, ast.ImportFrom) else names:
        if module.split(".")[0] in PICKLES:
            yield f"import {module}"
        elif module in ("torch", "torch.jit", "torch.export", "numpy", "yaml") and "load" in names:
            yield f"from {module} import load"  # the calls then have another name


def risky_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in NEVER or called.endswith((".read_pickle", ".deserialize")):
        yield called
    for name, keyword, value in NEEDS:
        if called.endswith(name) and keywords.get(keyword) != value:
            yield f"{called} without {keyword}={value}"
    if called.endswith("dcp.load") and "storage_reader" not in keywords:
        yield "dcp.load with the stock reader"
    if keywords.get("shell") == "True":
        yield called


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def test_no_code_reads_a_pickle_or_runs_a_text() -> None:
    found = {
        (str(path.relative_to(ROOT)), what): line
        for path in sources()
        for line, what in risky_calls(ast.parse(path.read_text()))
    }
    assert {key: line for key, line in found.items() if key not in ALLOWED} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "dcp.load(state, checkpoint_id=path)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(name)",
        "AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False)",
        "from torch import load",
        "torch.export.load(path)",
        "pd.read_pickle(path)",
        "pl.LazyFrame.deserialize(path)",
    ],
)
def test_the_check_finds(code: str) -> None:
    assert list(risky_calls(ast.parse(code)))
