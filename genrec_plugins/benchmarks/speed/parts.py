"""The parts of the speed table, by name."""

from __future__ import annotations

#: ``module:function``; the function takes :class:`~genrec_plugins.benchmarks.speed.options.Options` and returns a list
#: of :class:`~genrec_plugins.benchmarks.speed.paired.Timed`
PARTS: dict[str, str] = {
    "preprocess": "genrec_plugins.benchmarks.speed.preprocess:preprocess",
    "loader": "genrec_plugins.benchmarks.speed.loader:loader",
    "step": "genrec_plugins.benchmarks.speed.step:step",
    "step-fuxictr": "genrec_plugins.benchmarks.speed.step:step_fuxictr",
    "compiled": "genrec_plugins.benchmarks.speed.compiled:compiled",
    "fat": "genrec_plugins.benchmarks.speed.fat_gemms:fat_gemms",
    "fat-transformer": "genrec_plugins.benchmarks.speed.fat_gemms:fat_transformer",
    "lum": "genrec_plugins.benchmarks.speed.encoders:lum",
    "hstu": "genrec_plugins.benchmarks.speed.encoders:hstu",
}
