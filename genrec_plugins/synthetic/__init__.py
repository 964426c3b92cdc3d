"""Synthetic Criteo and Avazu files from a planted field-aware model, so that the best possible AUC is known.

- :mod:`~genrec_plugins.synthetic.fields`: the columns, with the vocabularies and missing rates of the real files.
- :mod:`~genrec_plugins.synthetic.hashing`: random numbers as a function of (seed, field, row), hence no state.
- :mod:`~genrec_plugins.synthetic.planted`: the model that draws the labels.
- :mod:`~genrec_plugins.synthetic.bayes`: AUC and logloss of the true probabilities.
- :mod:`~genrec_plugins.synthetic.stream`: writes the rows to a file, with a sidecar that has the truth.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "FORMATS": "fields",
    "BayesMetrics": "bayes",
    "bayes_metrics": "bayes",
    "Generated": "stream",
    "generate": "stream",
}
__all__ = ["FORMATS", "BayesMetrics", "Generated", "bayes_metrics", "generate"]

if TYPE_CHECKING:
    from genrec_plugins.synthetic.bayes import BayesMetrics, bayes_metrics
    from genrec_plugins.synthetic.fields import FORMATS
    from genrec_plugins.synthetic.stream import Generated, generate


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
