"""One HTML page about runs, which opens from disk and asks nothing of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from genrec_adapters.state import parse_json
from genrec_plugins.files import written_aside
from genrec_plugins.reports import plots
from genrec_plugins.reports.codes import code_paths, prefix_tree
from genrec_plugins.reports.layout import Section, Table, draw
from genrec_plugins.reports.runs import finite, read_runs
from genrec_plugins.reports.sections import (
    calibration_section,
    learning_section,
    run_sections,
    runs_section,
)
from genrec_plugins.reports.study import RunStudy, StudyOptions, study_run
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_registry import DataError, GenrecError


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished report.

    Args:
        title: of the page.
        studies: the runs.
        sections: of the page, in order.
    """

    title: str
    studies: Sequence[RunStudy]
    sections: Sequence[Section]

    def as_dict(self) -> dict[str, Any]:
        """The numbers about the runs, for JSON."""
        found: dict[str, Any] = finite({"title": self.title, "runs": [study.as_dict() for study in self.studies]})
        return found

    def html(self) -> str:
        """The page."""
        import jinja2

        template = (resources.files("genrec_plugins.reports") / "templates" / "report.html.j2").read_text()
        environment = jinja2.Environment(autoescape=True, trim_blocks=True)
        footer = f"Made by genrec-plugins {metadata.version('genrec-plugins')}; the page needs no network."
        return environment.from_string(template).render(title=self.title, sections=self.sections, footer=footer)

    def write(self, path: Path) -> None:
        """Write the page.

        Args:
            path: the file.

        Raises:
            DataError: it cannot be written.
        """
        with written_aside(path) as partial:
            partial.write_text(self.html(), encoding="utf-8")


def make_report(
    directories: Sequence[Path],
    *,
    scale: Path | None = None,
    tokenizers: Sequence[Path] = (),
    options: StudyOptions | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Look into runs and lay out the page.

    Args:
        directories: of the runs.
        scale: what ``genrec scale`` wrote.
        tokenizers: what ``genrec tokenize fit`` or ``encode`` wrote, or published indices; beside those of the runs.
        options: how much to compute.
        reporter: told of progress.

    Raises:
        DataError: no run can be read, or what is named beside them is something else.
    """
    reporter = reporter or Quiet()
    runs = read_runs(directories)
    if all(run.status == "broken" for run in runs):
        raise DataError(f"{runs[0].directory}: is no run directory ({runs[0].note}); name the --out of 'genrec train'")
    scaling = scaling_section(scale)
    codes = codes_section(tokenizers, {field: path for run in runs for field, path in code_paths(run.config).items()})
    studies = [study_run(run, options, reporter) for run in runs]
    own = [section for number, study in enumerate(studies) for section in run_sections(study, f"run-{number + 1}")]
    sections = [runs_section(studies), learning_section(studies), calibration_section(studies), *own, scaling, codes]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return Report(title=f"Report: {title}", studies=studies, sections=sections)


def scaling_section(directory: Path | None) -> Section:
    """The curves of a sweep.

    Args:
        directory: what ``genrec scale`` wrote; None if nothing was named.

    Raises:
        DataError: it is something else.
    """
    from genrec_plugins.scaling.report import FIT_COLUMNS, columns, figure_of, fit_row, from_dict, rows

    title = "Scaling curves"
    if directory is None:
        return Section(key="scaling", title=title, missing="none were named; run 'genrec scale', and pass --scale DIR")
    path = directory / "result.json"
    try:
        swept = [from_dict(one) for one in parse_json(path.read_text())]
    except (OSError, ValueError, TypeError, DataError) as error:
        problem = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise DataError(f"{path}: {problem}; --scale names what 'genrec scale' wrote") from error
    tables, drawn = [], []
    for number, one in enumerate(swept):
        drawn.append(draw(f"scaling-{number}", one.axis.key, figure_of, one))
        tables.append(Table(header=columns(one), rows=rows(one), caption=one.axis.key))
        if one.curve.fits:
            tables.append(Table(header=FIT_COLUMNS, rows=[fit_row(fit) for fit in one.curve.fits]))
    says = [f"{one.axis.key}: {sentence}." for one in swept for sentence in one.curve.says]
    return Section(key="scaling", title=title, says=says, plots=drawn, tables=tables)


def codes_section(named: Sequence[Path], of_runs: dict[str, Path]) -> Section:
    """Semantic IDs: the tree of prefixes, how codes are used, and their quality.

    Args:
        named: tokenizers' directories or files of codes.
        of_runs: field -> where a run read its codes; left out, with a sentence, where they are gone.

    Raises:
        DataError: what is named has no codes.
    """
    from genrec_plugins.tokenizers.pipeline import open_codes, report_on
    from genrec_plugins.tokenizers.quality import comparison
    from genrec_plugins.tokenizers.quality_plot import figure_of

    title, says = "Semantic IDs", []
    sets = [open_codes(path) for path in named]
    known = {path.resolve() for path in named}
    for field, path in of_runs.items():
        if path.resolve() in known:
            continue
        known.add(path.resolve())
        try:
            sets.append(open_codes(path))
        except GenrecError as error:
            says.append(f"Field {field}: {error}.")
    if not sets:
        missing = says[0] if says else "no run has a semantic-id field, and no --tokenizer was named"
        return Section(key="codes", title=title, missing=missing)
    by = next((one for one in sets if one.embeddings is not None), None)
    reports = report_on(sets, by)
    header, rows = comparison(reports)
    drawn = []
    for number, one in enumerate(sets):
        tree = prefix_tree(one.codes, least=max(1, len(one.codes.items) // 1000))
        if tree:
            caption = f"{one.name}: items by prefix"
            drawn.append(draw(f"codes-{number}", caption, plots.tree_figure, tree, len(one.codes.items)))
    firsts = {name: several[0] for name, several in reports.items()}
    drawn.append(draw("codes-usage", "Use of the codes", figure_of, firsts))
    table = Table(header=header, rows=rows, caption="Quality of the codes", folded=len(rows) > 15)
    return Section(key="codes", title=title, says=says, plots=drawn, tables=[table])
