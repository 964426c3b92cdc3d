"""The ``train`` section of a run. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from genrec_registry import Config
from genrec_registry.sizes import Count, CountOrZero, Threads, Width


class WarmStart(Config):
    """Begin the sequence encoder at pre-trained weights."""

    encoder: str = Field(min_length=1, description="run directory of 'genrec lum pretrain'")
    freeze: bool = Field(False, description="leave the pre-trained weights of the encoder as they are")
    freeze_tables: bool | None = Field(None, description="leave the tables that it reads as they are; null: as freeze")


TrackerName = Literal["mlflow", "wandb"]


class _Training(Config):
    """What both presets share."""

    batch_size: Count = Field(4096, description="B, rows a step, of all processes together")
    eval_batch_size: Count = Field(16384, description="rows a forward in evaluation, of all processes together")
    early_stop_patience: CountOrZero = Field(
        0, description="stop after this many evaluations without a better monitor; 0: never"
    )
    monitor: Literal["auc", "logloss"] = Field("auc", description="validation metric that picks the best weights")
    checkpoint_every: CountOrZero = Field(0, description="steps between checkpoints inside an epoch; 0: epoch ends")
    keep_checkpoints: Count = Field(2, description="checkpoints kept, newest first")
    log_every: Count = Field(20, description="steps between points in TensorBoard and the other trackers")
    trackers: tuple[TrackerName, ...] = Field(
        (), description="told of the run beside TensorBoard; set up by their own environment variables"
    )
    tracker_project: str = Field("genrec", min_length=1, description="MLflow experiment or W&B project of the run")
    device: str = Field("auto", description="auto, cpu or cuda")
    amp: Literal["none", "bf16"] = Field(
        "none",
        description="autocast of the dense part; bf16 pays on GPUs, and on CPUs that multiply in it (AVX512-BF16, AMX)",
    )
    compile: bool = Field(
        False, description="make the interaction's kernels by torch.compile: its first steps take up to minutes"
    )
    threads: Threads = Field(0, description="CPU threads of torch; 0: torch's default")
    warm_start: WarmStart | None = Field(None, description="pre-trained weights that model.encoder begins at")


ShardingType = Literal["table_wise", "column_wise", "row_wise", "data_parallel"]


class TableSharding(Config):
    """How TorchRec's planner may lay a table out over the processes."""

    type: ShardingType | tuple[ShardingType, ...] = Field(
        "table_wise",
        description="table_wise: whole on one process; column_wise: columns cut; row_wise: rows cut (GPUs only); "
        "data_parallel: whole on each; of a list the planner takes what it reckons fastest",
    )
    kernel: Literal["fused", "fused_uvm", "fused_uvm_caching"] = Field(
        "fused", description="where a table lies that is not data_parallel; uvm: in host memory, read by the GPU"
    )
    columns: Width | None = Field(None, description="width of the pieces of a column_wise table; null: 128")

    @model_validator(mode="after")
    def _columns_fit_the_kernels(self) -> Self:
        if self.columns is not None and (self.columns % 4 or "column_wise" not in self.types):
            raise ValueError("'columns' is a multiple of 4 and goes with type: column_wise; change it, or drop it")
        if not self.types:
            raise ValueError("'type' is an empty list; name a sharding type, or drop the key")
        return self

    @property
    def types(self) -> tuple[str, ...]:
        """The sharding types to choose from."""
        return (self.type,) if isinstance(self.type, str) else self.type


class ShardingConfig(TableSharding):
    """How tables lie over the processes; what is said here holds for the tables that ``tables`` does not name."""

    tables: dict[str, TableSharding] = Field(
        default_factory=dict, description="table, or a pattern as 'C{1..3}' -> how it is laid out"
    )
    draw: Literal["whole", "pieces"] = Field(
        "whole",
        description="first values of the tables. whole: every process draws all and keeps its part; pieces: its part "
        "alone, for tables that fit no process; the values differ between the two",
    )
    memory_gb: PositiveFloat | None = Field(
        None, description="memory of a process for tables; null: the GPU's, or its part of the machine's"
    )


class TorchRecTraining(_Training):
    """TorchRec's way: tables are updated in the backward by a fused row-wise Adagrad, the rest by Adam(W)."""

    preset: Literal["torchrec"] = "torchrec"
    epochs: Count = Field(1, description="passes over the training rows")
    embedding_optimizer: Literal["rowwise-adagrad", "adagrad", "sgd"] = Field(
        "rowwise-adagrad", description="the fused optimizer of the tables"
    )
    embedding_lr: PositiveFloat = Field(0.05, description="learning rate of the tables")
    dense_optimizer: Literal["adam", "adamw"] = Field("adam", description="the optimizer of everything else")
    dense_lr: PositiveFloat = Field(1e-3, description="learning rate of everything else")
    interaction_lr: PositiveFloat | None = Field(
        None, description="learning rate of the interaction arch alone; null: dense_lr"
    )
    encoder_lr: PositiveFloat | None = Field(
        None, description="learning rate of the sequence encoder alone; null: dense_lr"
    )
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW's decay of everything else")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how both learning rates fall to zero over the run"
    )
    warmup_steps: CountOrZero = Field(0, description="steps over which both learning rates rise from zero")
    sharding: ShardingConfig = Field(default_factory=ShardingConfig, description="how tables lie over the processes")

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.weight_decay and self.dense_optimizer != "adamw":
            raise ValueError("'weight_decay' goes with dense_optimizer: adamw; set that, or drop weight_decay")
        if self.warm_start is not None and self.sharding.draw == "pieces":
            raise ValueError("'warm_start' goes with sharding.draw: whole; drop one of the two")
        return self


class BarsTraining(_Training):
    """The BARS recipe: dense Adam, L2 on every table row, gradient clip 10, rate x0.1 on plateau, best restored.

    An L2 of lambda adds ``lambda / 2 * ||E||^2`` over all tables to the loss, as FuxiCTR does.
    """

    preset: Literal["bars"] = "bars"
    epochs: Count = Field(100, description="passes at most; the plateau rule stops earlier")
    early_stop_patience: CountOrZero = Field(2, description="evaluations without a better monitor before the stop")
    lr: PositiveFloat = Field(1e-3, description="Adam's learning rate")
    embedding_l2: NonNegativeFloat = Field(1e-5, description="lambda of the L2 penalty on the tables")
    net_l2: NonNegativeFloat = Field(0.0, description="lambda of the L2 penalty on everything else")
    clip_grad_norm: PositiveFloat = Field(10.0, description="largest gradient norm")
    lr_factor: float = Field(0.1, gt=0, lt=1, description="factor of the learning rate on a plateau")
    min_lr: NonNegativeFloat = Field(1e-6, description="smallest learning rate")


TrainConfig = Annotated[TorchRecTraining | BarsTraining, Field(discriminator="preset")]
