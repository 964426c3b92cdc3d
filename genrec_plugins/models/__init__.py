"""DLRMs from a config, interactions swapped into existing ones, stock checkpoints loaded into the result."""

from genrec_plugins.models.checkpoint import LoadReport, load_stock_checkpoint
from genrec_plugins.models.dlrm import FieldDLRM, StockDLRM, build_dlrm, embedding_tables
from genrec_plugins.models.field_aware import field_aware_dlrm
from genrec_plugins.models.swap import swap_interaction

__all__ = [
    "FieldDLRM",
    "LoadReport",
    "StockDLRM",
    "build_dlrm",
    "embedding_tables",
    "field_aware_dlrm",
    "load_stock_checkpoint",
    "swap_interaction",
]
