"""What importing, listing and checking must not load: torch takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchrec", "fbgemm_gpu", "polars", "pyarrow", "numpy", "sklearn", "matplotlib", "jinja2")


def _loaded(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after ``code``."""
    program = f"{code}\nimport sys, json\nprint('\\n' + json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_registry_loads_next_to_nothing():
    loaded = _loaded("import genrec_registry")
    assert loaded.isdisjoint({*HEAVY, "pydantic", "pluggy", "yaml", "typer", "rich"})


def test_importing_the_registry_is_cheap_beside_pydantic():
    code = (
        "import time\nstart = time.perf_counter()\nimport genrec_registry\nmiddle = time.perf_counter()\n"
        "import pydantic\nfrom pydantic import BaseModel\nend = time.perf_counter()\n"
        "print((middle - start) / (end - middle))"
    )
    ratios = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(ratios) < 0.5


@pytest.mark.parametrize(
    "code",
    [
        "from genrec_registry import default_registry\nlist(default_registry())",
        "from genrec_plugins.cli.main import run\ntry:\n    run(['--help'])\nexcept SystemExit:\n    pass",
        "from genrec_plugins.cli.main import run\ntry:\n    run(['plugins', 'list'])\nexcept SystemExit:\n    pass",
    ],
    ids=["registry", "help", "plugins-list"],
)
def test_listing_plugins_loads_nothing_heavy(code):
    assert _loaded(code).isdisjoint(HEAVY)


def test_help_loads_neither_rich_nor_pydantic():
    code = "from genrec_plugins.cli.main import run\ntry:\n    run(['--help'])\nexcept SystemExit:\n    pass"
    assert _loaded(code).isdisjoint({"rich", "pydantic", "yaml", "pluggy"})


def test_checking_configs_does_not_load_torch():
    code = (
        "from genrec_registry import default_registry, tagged_config\nregistry = default_registry()\n"
        "for component in registry: tagged_config(registry, component)"
    )
    assert _loaded(code).isdisjoint({"torch", "torchrec", "fbgemm_gpu"})


def test_every_public_name_resolves_and_unknown_ones_do_not():
    import genrec_registry

    for name in genrec_registry.__all__:
        assert getattr(genrec_registry, name) is not None
    assert dir(genrec_registry) == genrec_registry.__all__
    with pytest.raises(AttributeError, match="no attribute 'Registri'"):
        _ = genrec_registry.Registri  # type: ignore[attr-defined]
