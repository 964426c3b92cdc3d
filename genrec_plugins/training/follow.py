"""Train on a directory that grows: each new Parquet file is scored first, trained on next, and then checkpointed.

A checkpoint stands between two files, so that a kill loses at most the work on one, and no file is trained on twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_adapters.datasets.files import natural_key
from genrec_adapters.prepared import Prepared
from genrec_adapters.raw import raw_batches
from genrec_plugins.config import LoadedRun
from genrec_plugins.files import written_aside
from genrec_plugins.models.dynamic_ids import settle
from genrec_plugins.training.checkpoints import forget, plain_weights
from genrec_plugins.training.delta_checkpoints import DeltaStore, Saved
from genrec_plugins.training.evaluation import score
from genrec_plugins.training.guards import why_not_finite
from genrec_plugins.training.launch import launched
from genrec_plugins.training.metrics import Metrics, evaluate_predictions
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.run import train_run
from genrec_plugins.training.steps import make_steps
from genrec_plugins.training.trainer import Trainer
from genrec_registry import SPLITS, ConfigError, DataError, ModelError

DONE = "_DONE"
LOG = "progressive.jsonl"


@dataclass(frozen=True, kw_only=True)
class FollowOptions:
    """What to follow, and how long.

    Args:
        folder: where files of raw rows are renamed into.
        poll: seconds between two looks for new files.
        until_idle: end when there was no new file for so many seconds; None: only a file ``_DONE`` ends it.
        full_every: every so many checkpoints one is full.
    """

    folder: Path
    poll: float = 5.0
    until_idle: float | None = None
    full_every: int = 10


@dataclass(frozen=True, kw_only=True)
class StreamFile:
    """A file of the stream as it is now."""

    path: Path
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> StreamFile:
        """The file at a path."""
        facts = path.stat()
        return cls(path=path, size=facts.st_size, changed_ns=facts.st_mtime_ns)


def waiting_files(folder: Path, done: dict[str, int]) -> list[StreamFile]:
    """The Parquet files of a folder that were not trained on, by name, numbers in it by value.

    Names that begin with ``.`` or ``_`` are files still being written.

    Args:
        folder: of the stream.
        done: name -> size of each file that was trained on.

    Raises:
        DataError: the folder is none, or a file that was trained on is another one now.

    Example::

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("10.parquet", "9.parquet", "8.parquet", "_11.parquet", "notes.txt"):
        ...     _ = (folder / name).write_bytes(b"rows")
        >>> [file.path.name for file in waiting_files(folder, {"8.parquet": 4})]
        ['9.parquet', '10.parquet']
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder; name the one that --follow takes files from")
    found = []
    for path in sorted(folder.glob("*.parquet"), key=lambda path: natural_key(path.name)):
        if path.name[0] in "._" or not path.is_file():
            continue
        file = StreamFile.of(path)
        if path.name not in done:
            found.append(file)
        elif file.size != done[path.name]:
            raise DataError(
                f"{path}: has {file.size} bytes, and had {done[path.name]} when it was trained on; "
                "put new rows into a file of a new name"
            )
    return found


class Follower:
    """A model that goes on learning from a folder of files.

    Args:
        run: the run.
        directory: the run directory; its model was trained on the prepared rows, or is here.
        prepared: its prepared rows, for the vocabularies of the fields.
        options: what to follow.
        reporter: told of progress.
        restart: forget what was learned.

    Raises:
        ConfigError: the run cannot be followed.
        ModelError: its checkpoints belong to another config, or cannot be read.
    """

    def __init__(
        self,
        run: LoadedRun,
        directory: Path,
        prepared: Prepared,
        options: FollowOptions,
        reporter: Reporter | None = None,
        *,
        restart: bool = False,
    ) -> None:
        if launched():
            raise ConfigError("--follow trains in one process; start it without --nproc and torchrun")
        if getattr(run.config.train, "lr_schedule", "constant") != "constant":
            raise ConfigError("train.lr_schedule falls over a whole run, and a stream has no end; use constant")
        waiting_files(options.folder, {})
        self.run, self.directory, self.prepared, self.options = run, directory, prepared, options
        self.reporter = reporter or Quiet()
        streamed = directory / "stream"
        if restart:
            forget(streamed)
        elif any(streamed.glob("delta-*")) and not any(streamed.glob("step-*")):
            raise ModelError(
                f"{streamed}: has deltas, and no full checkpoint that they follow; put one back, or pass --restart to "
                "train from scratch here"
            )
        if restart or not any(streamed.glob("step-*")):
            train_run(run, directory, prepared, self.reporter, restart=restart)
        self.trainer = Trainer(run.config, prepared, run.registry, directory)
        assert self.trainer.store is not None
        settings = run.config.train
        identity, keep = self.trainer.store.config_digest, settings.keep_checkpoints
        self.store = DeltaStore(streamed, identity, options.full_every, keep)
        self._recipe = self.trainer.recipe
        self._steps = make_steps(self._recipe, self.trainer.device, settings.amp == "bf16")
        self.progress = self._restore()
        self._written_at = -1

    def _restore(self) -> dict[str, Any]:
        progress = self.store.load_newest(self._recipe)
        if progress is None:
            base = self.trainer.fit()  # it was trained: this loads the end of it
            progress = {"step": 0, "train_step": base.history[-1]["step"], "rows": 0, "files": [], "log_bytes": 0}
            self.store.save(self._recipe, progress)
        else:
            self.reporter.message(f"going on after file {progress['step']}{self.store.passed_over}")
        log = self.directory / LOG
        if log.exists() or progress["log_bytes"]:
            with log.open("ab") as file:  # lines of files that are trained on again
                file.truncate(min(progress["log_bytes"], file.tell()))
        return progress

    def follow(self) -> dict[str, Any]:
        """Take files until the stream ends.

        Returns:
            ``files``, ``rows``, and ``progressive``, the lines of this call's files as in ``progressive.jsonl``.

        Raises:
            DataError: a file cannot be read, has a bad row, or was changed.
            ModelError: the loss became NaN or infinite, or a checkpoint cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        begun_at = self.progress["log_bytes"]
        folder = self.directory / "tensorboard" / "stream"
        with SummaryWriter(str(folder), purge_step=self.progress["step"] + 1) as writer:
            for file in self._arriving():
                line, metrics, saved = self._take(file)
                for name, value in metrics.as_dict().items():
                    if name != "rows" and math.isfinite(value):
                        writer.add_scalar(f"progressive/{name}", value, line["number"])
                writer.add_scalar("train/loss", line["train_loss"], line["number"])
                writer.add_scalar("checkpoint/bytes", saved.size, line["number"])
                self.reporter.message(
                    f"{file.path.name}: {metrics.rows:,} rows, AUC {metrics.auc:.5f}, logloss {metrics.logloss:.5f}, "
                    f"NE {metrics.ne:.5f} before training on it; {saved.kind} checkpoint of {saved.size:,} bytes"
                )
                if saved.kind == "full":
                    self._write_weights()
        self._write_weights()
        return {"files": self.progress["step"], "rows": self.progress["rows"], "progressive": self._lines(begun_at)}

    def _arriving(self) -> Iterator[StreamFile]:
        """Files in the order of their names among those that are there, until the stream ends."""
        idle_since = time.monotonic()
        while True:
            ended = (self.options.folder / DONE).exists()  # looked for first: what came before it is taken
            done = {name: size for name, size, _ in self.progress["files"]}
            waiting = waiting_files(self.options.folder, done)
            if waiting:
                yield waiting[0]
                idle_since = time.monotonic()
                continue
            idle = time.monotonic() - idle_since
            if ended or (self.options.until_idle is not None and idle >= self.options.until_idle):
                return
            left = math.inf if self.options.until_idle is None else self.options.until_idle - idle
            time.sleep(min(self.options.poll, left))

    def _take(self, file: StreamFile) -> tuple[dict[str, Any], Metrics, Saved]:
        """Score a file, train on it, and put both on record."""
        settings, began = self.run.config.train, time.perf_counter()
        with file.path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        batches = self._batches(file, settings.eval_batch_size)
        metrics = evaluate_predictions(
            *score(
                self._recipe.model,
                batches,
                settings,
                self.trainer.device,
                name=str(file.path),
                dense=self.prepared.dense_features,
            )
        )
        number = self.progress["step"] + 1
        loss = self._train(file, number, metrics.rows)
        if StreamFile.of(file.path) != file:
            raise DataError(f"{file.path}: was changed while it was read; rename files into the folder when they end")
        settle(self._recipe.model)
        line = {"number": number, "file": file.path.name, "bytes": file.size, "sha256": sha256}
        line |= {name: value if math.isfinite(value) else None for name, value in metrics.as_dict().items()}
        line |= {"train_loss": loss, "seconds": round(time.perf_counter() - began, 3)}
        self.progress["step"] = number
        self.progress["rows"] += metrics.rows
        self.progress["files"].append([file.path.name, file.size, sha256])
        self.progress["log_bytes"] = self._log(line)
        return line, metrics, self.store.save(self._recipe, self.progress)

    def _train(self, file: StreamFile, number: int, rows: int) -> float:
        settings, recipe = self.run.config.train, self._recipe
        recipe.model.train()
        total, loss_sum = -(-rows // settings.batch_size), 0.0
        for done, batch in enumerate(self._batches(file, settings.batch_size), start=1):
            step = self.progress["train_step"]
            recipe.set_progress(step, step + 1)
            value, size = self._steps(iter([batch])).item(), len(batch.labels)
            if not math.isfinite(value):
                amp, stepped = settings.amp == "bf16", not self._steps.refuses
                why = why_not_finite(recipe.model, batch, self.prepared, stepped=stepped, amp=amp)
                raise ModelError(f"{file.path}, batch {done}: the loss is {value}; {why}")
            self.progress["train_step"] += 1
            loss_sum += value * size
            self.reporter.step(epoch=number, done=done, total=max(total, done), rows=size, loss=value)
        return loss_sum / rows

    def _batches(self, file: StreamFile, batch_size: int) -> Iterator[Any]:
        config = self.run.config.dataset.model_dump(exclude_none=True)
        if config["type"] != "parquet":
            config = {"type": "parquet", "label": self.prepared.manifest.label}
        dataset = {key: value for key, value in config.items() if key not in SPLITS} | {"path": str(file.path)}
        return raw_batches(self.prepared, dataset, self.run.registry, batch_size)

    def _log(self, line: dict[str, Any]) -> int:
        """Append a line to the log; the log's length then."""
        path = self.directory / LOG
        try:
            with path.open("ab") as file:
                file.write((json.dumps(line) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be written ({error.strerror or error}); free space, then run the same command again"
            ) from error

    def _lines(self, begun_at: int) -> list[dict[str, Any]]:
        """The log from a byte on: read back and not kept, since a stream need not end."""
        if self.progress["log_bytes"] == begun_at:
            return []
        with (self.directory / LOG).open("rb") as file:
            file.seek(begun_at)
            return [json.loads(line) for line in file]

    def _write_weights(self) -> None:
        """Make the newest weights those that the run directory is evaluated and served by."""
        from safetensors.torch import save_file

        if self._written_at == self.progress["step"]:
            return
        with written_aside(self.directory / "model.safetensors", instead="free space") as partial:
            save_file(plain_weights(self._recipe.model), partial)
        self._written_at = self.progress["step"]


def follow_run(
    run: LoadedRun,
    directory: str | Path,
    prepared: Prepared,
    options: FollowOptions,
    reporter: Reporter | None = None,
    *,
    restart: bool = False,
) -> dict[str, Any]:
    """Train a run, then go on with the files of a folder as they come; or go on with that where it stopped.

    Args:
        run: the run.
        directory: the run directory.
        prepared: its prepared rows.
        options: what to follow.
        reporter: told of progress.
        restart: forget earlier checkpoints.

    Returns:
        See :meth:`Follower.follow`.
    """
    follower = Follower(run, Path(directory), prepared, options, reporter, restart=restart)
    return follower.follow()
