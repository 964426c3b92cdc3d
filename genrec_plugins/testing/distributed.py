"""Train interactions inside a TorchRec DLRM, and encoders over their tables, on two gloo ranks: the parent's side.

Importing torch and torchrec costs seconds in each process, so one pair of processes takes many interactions in turn.
The processes are plain ``python -m genrec_plugins.testing.worker``: nothing is pickled, a factory and a config travel
as module, name and JSON, and a hung rank is killed. A pair that lost its step with an interaction is replaced for the
rest.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from genrec_plugins.testing.encoders_subject import EncoderSubject
from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.subject import Subject

WORLD_SIZE = 2
AnySubject = Subject | EncoderSubject


def _reference(thing: Any) -> dict[str, str]:
    """Where a class or function can be imported from, also if its file is no importable module (a test file)."""
    module, qualname = getattr(thing, "__module__", ""), getattr(thing, "__qualname__", "")
    if not module or not qualname or "<" in qualname:
        raise ConformanceError(
            f"{thing!r} cannot be found by another process; define the factory and its config at the top of a module"
        )
    file = getattr(sys.modules.get(module), "__file__", None)
    return {"module": module, "qualname": qualname, "file": str(file or "")}


def _case(key: str, subject: AnySubject) -> dict[str, Any]:
    config: dict[str, Any] | None = None
    if isinstance(subject.config, BaseModel):
        # A config of a run carries the registry's tag and a class made on the fly: send the author's own class.
        model = next(m for m in type(subject.config).__mro__ if "type" not in getattr(m, "model_fields", {}))
        data = subject.config.model_dump(mode="json", include=set(model.model_fields))  # type: ignore[attr-defined]
        config = {"class": _reference(model), "data": data}
    elif subject.config is not None:
        raise ConformanceError(f"the config of {subject.name} is {subject.config!r}, expected a pydantic model or None")
    kind = "encoder" if isinstance(subject, EncoderSubject) else "interaction"
    context = dataclasses.asdict(subject.context)
    return {"key": key, "kind": kind, "factory": _reference(subject.factory), "config": config, "context": context}


def run_distributed(subjects: Mapping[str, AnySubject], timeout: float = 60.0) -> dict[str, str]:
    """Train each component for a few steps on two ranks.

    A TorchRec ``DLRM`` with the interaction, or an ``EmbeddingCollection`` with the encoder over it, is built on the
    meta device, its tables are forced ``table_wise`` with RowWise Adagrad in the backward, and it runs under
    ``DistributedModelParallel`` and ``TrainPipelineSparseDist``. The loss has to be finite and to fall, and the dense
    parameters of both ranks to stay equal.

    Args:
        subjects: key -> interaction or encoder.
        timeout: seconds without progress after which the pair is killed.

    Returns:
        key -> what went wrong, with the rank's traceback; the empty string where all is well.
    """
    problems: dict[str, str] = {}
    cases = []
    for key, subject in subjects.items():
        try:
            cases.append(_case(key, subject))
        except ConformanceError as error:
            problems[key] = str(error)
    while cases:
        with tempfile.TemporaryDirectory(prefix="genrec-conformance-") as folder:
            done = _run_pair(cases, Path(folder), timeout)
        problems |= done
        cases = [case for case in cases if case["key"] not in done]
    return problems


def check_distributed(subject: AnySubject) -> None:
    """:func:`run_distributed` for one component.

    Raises:
        ConformanceError: it does not train on two ranks.
    """
    problem = run_distributed({subject.name: subject})[subject.name]
    if problem:
        raise ConformanceError(problem)


def _run_pair(cases: Sequence[dict[str, Any]], folder: Path, timeout: float) -> dict[str, str]:
    """Results of the cases that one pair of processes got through: at least the first."""
    (folder / "cases.json").write_text(json.dumps(list(cases)))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "GENREC_CONFORMANCE_TIMEOUT": str(timeout),
    }
    workers = []
    for rank in range(WORLD_SIZE):
        with (folder / f"rank{rank}.log").open("w") as log:
            command = [sys.executable, "-m", "genrec_plugins.testing.worker", str(folder), str(rank)]
            workers.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
    try:
        timed_out = _wait(workers, folder, timeout)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if not all((folder / f"rank{rank}.started").exists() for rank in range(WORLD_SIZE)):
        logs = "\n".join(_tail(folder / f"rank{rank}.log", rank) for rank in range(WORLD_SIZE))
        return {case["key"]: f"the two ranks did not start:\n{logs}" for case in cases}
    results = [_read_results(folder / f"rank{rank}.jsonl") for rank in range(WORLD_SIZE)]
    done: dict[str, str] = {}
    for case in cases:
        key = case["key"]
        if all(key in result for result in results) and not any(result[key] for result in results):
            done[key] = ""
            continue
        reports = [f"rank {rank}: {result[key]}" for rank, result in enumerate(results) if result.get(key)]
        if not reports:
            reason = f"no progress for {timeout:g} s, killed" if timed_out else "a rank ended without a result"
            reports = [reason, *(_tail(folder / f"rank{rank}.log", rank) for rank in range(WORLD_SIZE))]
        done[key] = "training on two ranks fails: " + "\n".join(reports)
        if not all(result.get(key) for result in results) or not _goes_on(results, cases, key):
            break  # the pair lost its step here
    return done


def _goes_on(results: Iterable[Mapping[str, str]], cases: Sequence[dict[str, Any]], key: str) -> bool:
    """Whether both ranks reported a case after this one."""
    keys = [case["key"] for case in cases]
    later = keys[keys.index(key) + 1 :]
    return bool(later) and all(later[0] in result for result in results)


def _wait(workers: Sequence[subprocess.Popen[bytes]], folder: Path, timeout: float) -> bool:
    """Wait for all ranks; True if they had to be given up on."""
    size, since = -1, time.monotonic()
    while any(worker.poll() is None for worker in workers):
        time.sleep(0.05)
        written = sum(path.stat().st_size for path in folder.glob("rank*.jsonl"))
        if written != size:
            size, since = written, time.monotonic()
        # A rank that ended badly leaves the other in a collective: a short grace, then stop.
        limit = min(timeout, 3.0) if any(worker.poll() not in (None, 0) for worker in workers) else timeout
        if time.monotonic() - since > limit:
            return limit == timeout
    return False


def _read_results(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    complete = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {entry["key"]: entry["problem"] for entry in map(json.loads, complete)}


def _tail(path: Path, rank: int, lines: int = 25) -> str:
    text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
    return f"--- last lines of rank {rank} ---\n" + "\n".join(text)
