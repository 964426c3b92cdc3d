"""Which checks of the kit torch-rechub's layers fail, as JSON; run where torch-rechub is installed."""

import json
from itertools import combinations

import torch
from torch import Tensor, nn
from torch_rechub.basic import layers

from genrec_plugins import testing

CHECKS = ("shapes", "batch_independence", "gradients", "fx", "torchscript", "export")
BUILD_CHECKS = ("meta_device", "state_dict", "determinism")


class Wrapped(nn.Module):
    """A layer over tokens, or over flattened tokens; ``config`` says which."""

    def __init__(self, config, context):
        super().__init__()
        make, self.flat = config
        self.layer = make(context.num_tokens, context.embedding_dim)
        width, pairs = context.num_tokens * context.embedding_dim, len(list(combinations(context.token_names, 2)))
        widths = {"CIN": 1, "FM": 1, "MLP": 16, "BiLinearInteractionLayer": pairs * context.embedding_dim}
        self.out_features = widths.get(type(self.layer).__name__, width)

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        tokens = torch.cat((dense_features.unsqueeze(1), sparse_features), dim=1)
        return self.layer(tokens.flatten(1) if self.flat else tokens).flatten(1)


LAYERS = {
    "CIN": (lambda fields, width: layers.CIN(fields, [8, 8]), False),
    "FM": (lambda fields, width: layers.FM(), False),
    "InteractingLayer": (lambda fields, width: layers.InteractingLayer(width), False),
    "CrossNetwork": (lambda fields, width: layers.CrossNetwork(fields * width, 2), True),
    "CrossNetV2": (lambda fields, width: layers.CrossNetV2(fields * width, 2), True),
    "CrossNetMix": (lambda fields, width: layers.CrossNetMix(fields * width), True),
    "SENETLayer": (lambda fields, width: layers.SENETLayer(fields), False),
    "BiLinearInteractionLayer": (lambda fields, width: layers.BiLinearInteractionLayer(width, fields), False),
    "field_each": (lambda fields, width: layers.BiLinearInteractionLayer(width, fields, "field_each"), False),
    "MLP": (lambda fields, width: layers.MLP(fields * width, output_layer=False, dims=[16]), True),
}


def failing(config) -> list[str]:
    """Names of the checks that fail."""
    subject = testing.interaction_subject(Wrapped, None)
    found = []
    for name in (*CHECKS, *BUILD_CHECKS):
        check = getattr(testing, f"check_{name}")

        def build() -> nn.Module:
            torch.manual_seed(0)
            return Wrapped(config, subject.context)

        try:
            check(build if name in BUILD_CHECKS else build(), subject.context)
        except testing.ConformanceError:
            found.append(name)
    return found


if __name__ == "__main__":
    print(json.dumps({name: failing(config) for name, config in LAYERS.items()}))
