"""Which checks of the kit another library's layers fail, as JSON: ``foreign_layers.py torch_rechub|fuxictr``, run where
that library is installed.
"""

import json
import sys
from itertools import combinations

import torch
from torch import Tensor, nn

from genrec_plugins import testing

CHECKS = ("shapes", "batch_independence", "gradients", "fx", "torchscript", "export")
BUILD_CHECKS = ("meta_device", "state_dict", "determinism")


class Wrapped(nn.Module):
    """A layer over tokens, or over flattened tokens; ``config`` says which, and how wide its output is."""

    def __init__(self, config, context):
        super().__init__()
        make, self.flat, width = config
        fields, dim = context.num_tokens, context.embedding_dim
        self.layer = make(fields, dim)
        pairs = len(list(combinations(context.token_names, 2)))
        self.out_features = {"same": fields * dim, "pairs": pairs * dim, "products": pairs}.get(width, width)

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        tokens = torch.cat((dense_features.unsqueeze(1), sparse_features), dim=1)
        return self.layer(tokens.flatten(1) if self.flat else tokens).flatten(1)


def torch_rechub():
    from torch_rechub.basic import layers

    return {
        "CIN": (lambda fields, dim: layers.CIN(fields, [8, 8]), False, 1),
        "FM": (lambda fields, dim: layers.FM(), False, 1),
        "InteractingLayer": (lambda fields, dim: layers.InteractingLayer(dim), False, "same"),
        "CrossNetwork": (lambda fields, dim: layers.CrossNetwork(fields * dim, 2), True, "same"),
        "CrossNetV2": (lambda fields, dim: layers.CrossNetV2(fields * dim, 2), True, "same"),
        "CrossNetMix": (lambda fields, dim: layers.CrossNetMix(fields * dim), True, "same"),
        "SENETLayer": (lambda fields, dim: layers.SENETLayer(fields), False, "same"),
        "BiLinearInteractionLayer": (lambda fields, dim: layers.BiLinearInteractionLayer(dim, fields), False, "pairs"),
        "field_each": (lambda fields, dim: layers.BiLinearInteractionLayer(dim, fields, "field_each"), False, "pairs"),
        "MLP": (lambda fields, dim: layers.MLP(fields * dim, output_layer=False, dims=[16]), True, 16),
    }


def fuxictr():
    from fuxictr.pytorch import layers

    product = layers.InnerProductInteraction
    return {
        "CrossNet": (lambda fields, dim: layers.CrossNet(fields * dim, 2), True, "same"),
        "CrossNetV2": (lambda fields, dim: layers.CrossNetV2(fields * dim, 2), True, "same"),
        "CrossNetMix": (lambda fields, dim: layers.CrossNetMix(fields * dim), True, "same"),
        "CompressedInteractionNet": (lambda fields, dim: layers.CompressedInteractionNet(fields, [8, 8]), False, 1),
        "InteractionMachine": (lambda fields, dim: layers.InteractionMachine(dim, order=3), False, 1),
        "InnerProductInteraction": (lambda fields, dim: product(fields), False, 1),
        "inner_product": (lambda fields, dim: product(fields, "inner_product"), False, "products"),
        "elementwise_product": (lambda fields, dim: product(fields, "elementwise_product"), False, "pairs"),
        "BilinearInteraction": (layers.BilinearInteraction, False, "pairs"),
        "BilinearInteractionV2": (layers.BilinearInteractionV2, False, "pairs"),
        "HolographicInteraction": (lambda fields, dim: layers.HolographicInteraction(fields), False, "pairs"),
        "SqueezeExcitation": (lambda fields, dim: layers.SqueezeExcitation(fields), False, "same"),
        "MLP_Block": (lambda fields, dim: layers.MLP_Block(fields * dim, hidden_units=[16]), True, 16),
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
        except testing.ConformanceError as error:
            print(name, error, file=sys.stderr)
            found.append(name)
    return found


if __name__ == "__main__":
    layers_of = {"torch_rechub": torch_rechub, "fuxictr": fuxictr}[sys.argv[1]]
    print(json.dumps({name: failing(config) for name, config in layers_of().items()}))
