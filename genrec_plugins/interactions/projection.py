"""``projection``: DLRM's interaction between two learned projections of the tokens."""

from torchrec.models.dlrm import DenseArch, InteractionProjectionArch

from genrec_plugins.interactions.configs import ProjectionConfig
from genrec_registry import InteractionContext


class ProjectionInteraction(InteractionProjectionArch):
    """The dense features and ``Y Z``, with ``Y [F1, D]`` and ``Z [D, F2]`` made by two MLPs of the flattened tokens.

    Source: TorchRec's ``InteractionProjectionArch`` and ``DLRM_Projection``.

    Args:
        config: hidden layers, F1 and F2; each branch's last layer has ``F1 D`` or ``F2 D`` units.
        context: T tokens of width D.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, D + F1 F2]``.

    Example::

        >>> import torch
        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> config = ProjectionConfig(branch1_features=2, branch2_features=3)
        >>> ProjectionInteraction(config, context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 10])
    """

    def __init__(self, config: ProjectionConfig, context: InteractionContext) -> None:
        width = context.embedding_dim
        super().__init__(
            context.num_sparse_features,
            *(
                DenseArch(context.num_tokens * width, [*config.hidden_sizes, features * width])
                for features in (config.branch1_features, config.branch2_features)
            ),
        )
        self.out_features = width + config.branch1_features * config.branch2_features
