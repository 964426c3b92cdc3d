"""A new plugin package from the template in ``plugin/``."""

from __future__ import annotations

import keyword
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_plugins import __version__
from genrec_plugins.doctor import LIGHT, TORCH, TORCHREC
from genrec_registry import KINDS, ConfigError, DataError, SetupError, default_registry, did_you_mean

TEMPLATE = Path(__file__).parent / "plugin"
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40
#: import names that a plugin's package would overwrite for everything that runs beside it
_TAKEN = frozenset(sys.stdlib_module_names) | {
    *("genrec_registry", "genrec_adapters", "genrec_plugins", "torch", "torchrec", "fbgemm_gpu", "numpy", "scipy"),
    *("polars", "pyarrow", "pydantic", "pluggy", "yaml", "typer", "rich", "packaging", "safetensors", "sklearn"),
    *("faiss", "jinja2", "matplotlib", "tensorboard", "pytest", "hypothesis", "copier", "tests"),
}


@dataclass(frozen=True, kw_only=True)
class PluginNames:
    """The names of a new plugin, all made of that of its pip package.

    Args:
        package: name of the pip package.
        kind: what it offers.

    Raises:
        ConfigError: the kind is unknown; or the package's name is not kebab-case, is one of Python's or of what
            genrec-plugins needs, or gives the component the name of a built-in.

    Example::

        >>> names = PluginNames(package="genrec-gated-cross", kind="interaction")
        >>> names.component, names.module
        ('gated-cross', 'genrec_gated_cross')
    """

    package: str
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"--kind is '{self.kind}', expected a kind of component{did_you_mean(self.kind, KINDS)}")
        if not _KEBAB.fullmatch(self.package) or len(self.package) > _LONGEST:
            raise ConfigError(
                f"'{self.package}' cannot name a plugin; expected at most {_LONGEST} small letters, digits and single "
                f"hyphens, a letter first, as in 'acme-cross'{_similar(self.package)}"
            )
        if keyword.iskeyword(self.module) or self.module in _TAKEN:
            raise ConfigError(
                f"'{self.package}' would make a Python package '{self.module}', which hides another one of this name; "
                f"name it 'genrec-{self.package}', or after yourself, as in 'acme-{self.package}'"
            )
        builtin = {name for c in default_registry().components(self.kind) if c.builtin for name in c.names}
        if self.component in builtin:
            raise ConfigError(
                f"'{self.package}' would offer the {self.kind} '{self.component}', which genrec-plugins has already; "
                f"choose another name, as 'genrec-my-{self.component}'"
            )

    @property
    def component(self) -> str:
        """What ``type`` says in a run file: the package's name, without ``genrec-`` in front."""
        return self.package.removeprefix("genrec-")

    @property
    def module(self) -> str:
        """What Python imports."""
        return self.package.replace("-", "_")


def _similar(name: str) -> str:
    """A name of the right form made of a wrong one, as the end of a sentence."""
    near = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-0123456789")[
        :_LONGEST
    ]
    return f"; did you mean '{near}'?" if _KEBAB.fullmatch(near) else ""


def new_plugin(names: PluginNames, directory: Path, *, force: bool = False) -> list[Path]:
    """Write a plugin package: config, module, hook, entry point, tests, CI and README.

    The files are written aside first, so that a mistake leaves nothing behind.

    Args:
        names: what it is called and what it offers.
        directory: the package's own directory.
        force: write into a directory that has files; those of the template replace files of the same names.

    Returns:
        The files written, relative to ``directory``.

    Raises:
        ConfigError: the directory exists and is not empty, or is no directory.
        DataError: it cannot be written.
        SetupError: copier is not installed.

    Example::

        >>> folder = Path(tempfile.mkdtemp()) / "acme-cross"
        >>> files = new_plugin(PluginNames(package="acme-cross", kind="interaction"), folder)
        >>> [str(path) for path in files if path.parts[0] == "src"]
        ['src/acme_cross/__init__.py', 'src/acme_cross/config.py', 'src/acme_cross/interaction.py', ...]
    """
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory}: is a file, expected a directory to write a package into; name another by --to")
    if not force and directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory}: exists and is not empty; name another by --to, or pass --force to write there")
    copier = _copier()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as aside:
            whole = Path(aside) / "package"
            copier.run_copy(str(TEMPLATE), whole, data=_answers(names), defaults=True, quiet=True)
            files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
            shutil.copytree(whole, directory, dirs_exist_ok=True)
    except OSError as error:
        raise DataError(f"{directory}: cannot be written ({error.strerror or error}); name another by --to") from error
    return files


def _copier() -> Any:
    try:
        import copier
    except ImportError as error:
        raise SetupError(
            "'genrec new' needs copier, which is not installed; run: pip install \"genrec-plugins[new]\""
        ) from error
    return copier


def _answers(names: PluginNames) -> dict[str, str]:
    return {
        "name": names.package,
        "kind": names.kind,
        "component": names.component,
        "module": names.module,
        "genrec": __version__,
        "torch": TORCH,
        "torchrec": TORCHREC,
        "light": " ".join(LIGHT),
    }
