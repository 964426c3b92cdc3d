"""Raw Criteo rows to ids, against FuxiCTR's preprocessing and TorchRec's conversion."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from genrec_adapters.datasets.criteo import CATEGORIES, LABEL, NUMBERS, criteo_fields
from genrec_adapters.preprocess import prepare
from genrec_plugins.benchmarks.speed.options import Options, Raw
from genrec_plugins.benchmarks.speed.other_python import OtherPython
from genrec_plugins.benchmarks.speed.paired import Timed, race
from genrec_registry import SetupError

MIN_COUNT = 10


def preprocess(options: Options) -> list[Timed]:
    """Vocabularies of 39 fields and encoded rows from raw text.

    FuxiCTR and we do the same: logarithmic buckets of I1..I13 as categories, C1..C26, a minimum count of 10 for all,
    every row a training row. TorchRec's ``tsv_to_npys`` does less: no vocabulary, the categories' hexadecimal numbers.
    """
    raw = options.raw
    notes = {"TorchRec tsv_to_npys": "no vocabularies"}
    ways: dict[str, Callable[[], object]] = {
        "genrec preprocess": lambda: ours(raw, options.folder),
        "TorchRec tsv_to_npys": lambda: torchrecs(raw, options.folder),
    }
    with ExitStack() as others:
        if not options.without_fuxictr("preprocess"):
            csv = with_header(raw, options.folder / "train.csv")
            for how, name in (("ray", "FuxiCTR {}"), ("plain", "FuxiCTR {} without Ray")):
                out = options.folder / f"fuxictr-{how}"
                script = ("fuxictr_preprocess.py", csv, out, MIN_COUNT, how)
                other = others.enter_context(OtherPython(str(options.fuxictr_python), *script))
                ways[name.format(other.facts["version"])] = other.turn
        return race("preprocess", ways, amount=raw.rows, unit="rows/s", turns=options.turns, notes=notes)


def ours(raw: Raw, folder: Path) -> None:
    """Prepare the rows, as BARS does and FuxiCTR by default, into a new folder: what is there is not done again."""
    dataset = {"type": "criteo-kaggle", "train": str(raw.path)}
    out = Path(tempfile.mkdtemp(prefix="ours-", dir=folder)) / "prepared"
    prepare(dataset, out, fields=criteo_fields(min_count=MIN_COUNT, preset=True))


def torchrecs(raw: Raw, folder: Path) -> None:
    """Convert the rows to TorchRec's three arrays."""
    from torchrec.datasets.criteo import BinaryCriteoUtils

    dense, sparse, labels = (str(folder / f"{name}.npy") for name in ("dense", "sparse", "labels"))
    try:
        BinaryCriteoUtils.tsv_to_npys(str(raw.path), dense, sparse, labels, dataset_name="criteo_kaggle")
    except ImportError as error:
        raise SetupError(
            "TorchRec's reader of Criteo files needs the module 'iopath', which is not installed; "
            'pip install "genrec-plugins[bench]"'
        ) from error


def with_header(raw: Raw, path: Path) -> Path:
    """The rows as the CSV that FuxiCTR reads."""
    with raw.path.open("rb") as file, path.open("wb") as out:
        out.write(",".join([LABEL, *NUMBERS, *CATEGORIES]).encode() + b"\n")
        while piece := file.read(1 << 20):
            out.write(piece.replace(b"\t", b","))
    return path
