"""FAT, the Field-Aware Transformer (arXiv 2511.12081), as a TorchRec interaction arch.

- one token a field, plus a learned field bias (paper 3.1)
- queries, keys, values and both FFN matrices of a field are its own (3.2, 3.3), or composed from shared bases (3.4)
- a learned F x F table multiplies the attention scores: content alignment times cross-field modulation (3.2)
- tokens stay field-major, ``[F, B, d]``, so that every projection is one batched GEMM ``[F, B, d] x [F, d, e]``
- ``fold()`` drops the hypernetwork for serving
"""

import copy

import torch
from torch import Tensor, nn

from genrec_plugins.interactions.fat_attention import FieldAttention
from genrec_plugins.interactions.fat_config import FatConfig
from genrec_plugins.interactions.fat_weights import FieldMeta, FieldWeights, HyperWeights
from genrec_registry import InteractionContext, ModelError, did_you_mean


class FatBlock(nn.Module):
    """One block: attention and FFN with per-field matrices, and its residual form.

    ``block`` (paper, figure 1): ``Z' = FFN(LN(Attn(LN(Z)))) + Z``. ``two``: ``Z = Z + Attn(LN(Z))``, then
    ``Z + FFN(LN(Z))``.

    Args:
        num_fields: F.
        config: FAT's options.
        width: d.

    Example::

        >>> block = FatBlock(num_fields=3, config=FatConfig(num_heads=2), width=4)
        >>> block(torch.randn(3, 5, 4), None).shape
        torch.Size([3, 5, 4])
    """

    def __init__(self, num_fields: int, config: FatConfig, width: int) -> None:
        super().__init__()
        hidden = max(1, round(config.ffn_ratio * width))
        self.hyper = config.mode == "hyper"
        self.two_residuals = config.residual == "two"
        self.attention_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.attention = FieldAttention(num_fields, config, width)
        self.ffn_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        shapes = {"q": (width, width), "k": (width, width), "v": (width, width)}
        shapes |= {"ffn1": (width, hidden), "ffn2": (hidden, width)}
        self.weights = nn.ModuleDict()
        for name, (d_in, d_out) in shapes.items():
            scale = config.branch_scale if name in ("v", "ffn2") else 1.0
            if self.hyper:
                hyper = (config.num_bases, config.meta_dim, config.top_k)
                self.weights[name] = HyperWeights(*hyper, d_in, d_out, scale)
            else:
                self.weights[name] = FieldWeights(1 if config.mode == "shared" else num_fields, d_in, d_out, scale)

    def matrices(self, meta: Tensor | None) -> list[Tensor]:
        """The block's matrices W_Q, W_K, W_V, W_1, W_2, each ``[F or 1, d_in, d_out]``."""
        return [weights(meta) if self.hyper else weights() for weights in self.weights.values()]

    def fold_(self, meta: Tensor) -> None:
        """Put plain matrices in place of the hypernetwork."""
        for name, matrix in zip(list(self.weights), self.matrices(meta), strict=True):
            plain = FieldWeights(matrix.shape[0], matrix.shape[1], matrix.shape[2]).to(matrix)
            plain.weight.copy_(matrix)
            self.weights[name] = plain
        self.hyper = False

    def forward(self, tokens: Tensor, meta: Tensor | None) -> Tensor:
        """Field-major tokens to field-major tokens, ``[F, B, d] -> [F, B, d]``."""
        query, key, value, ffn1, ffn2 = self.matrices(meta)
        qkv = torch.matmul(self.attention_norm(tokens), torch.cat([query, key, value], dim=2))
        attended = self.dropout(self.attention(qkv))
        if self.two_residuals:
            tokens = tokens + attended
            attended = tokens
        hidden = torch.nn.functional.silu(torch.matmul(self.ffn_norm(attended), ffn1))
        return tokens + self.dropout(torch.matmul(hidden, ffn2))


class FieldTokens(nn.Module):
    """Structured tokenization (paper 3.1): ``x_f = e_f + b_f``, with a linear map of the field's own if d is not D.

    Args:
        num_fields: F.
        embedding_dim: D.
        width: d.

    Example::

        >>> FieldTokens(num_fields=3, embedding_dim=4, width=8)(torch.randn(3, 5, 4)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, num_fields: int, embedding_dim: int, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(num_fields, 1, width))
        self.projection = FieldWeights(num_fields, embedding_dim, width) if width != embedding_dim else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the field biases to zero."""
        nn.init.zeros_(self.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings to tokens, ``[F, B, D] -> [F, B, d]``."""
        if self.projection is not None:
            embeddings = torch.bmm(embeddings, self.projection())
        return embeddings + self.bias


class Fat(nn.Module):
    """FAT as an interaction arch: ``[B, D], [B, F, D] -> [B, out_features]``.

    Args:
        config: FAT's options.
        context: width and names of the tokens.

    Raises:
        ModelError: the width is not a multiple of the heads, or the target token is unknown.

    Example::

        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> fat = Fat(FatConfig(mode="hyper", num_heads=2, num_bases=8, meta_dim=4), context)
        >>> fat(dense_features=torch.randn(5, 4), sparse_features=torch.randn(5, 2, 4)).shape
        torch.Size([5, 12])
        >>> fat.out_features
        12
    """

    def __init__(self, config: FatConfig, context: InteractionContext) -> None:
        super().__init__()
        width = config.width or context.embedding_dim
        if width % config.num_heads:
            raise ModelError(
                f"fat: width {width} is not a multiple of num_heads {config.num_heads}; change one of them"
            )
        if config.target is not None and config.target not in context.token_names:
            raise ModelError(
                f"fat: target '{config.target}' is not a token{did_you_mean(config.target, context.token_names)}"
            )
        num_fields = context.num_tokens
        self.config = config
        self.context = context
        self.readout = config.readout
        self.target = context.token_names.index(config.target) if config.target is not None else -1
        self.out_features = num_fields * width if config.readout == "flatten" else width
        self.tokens = FieldTokens(num_fields, context.embedding_dim, width)
        self.field_meta = FieldMeta(num_fields, config.meta_dim) if config.mode == "hyper" else None
        self.blocks = nn.ModuleList(FatBlock(num_fields, config, width) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(width, eps=config.norm_eps) if config.final_norm else None

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Interact the fields of each row.

        Args:
            dense_features: token 0, ``[B, D]``.
            sparse_features: tokens 1..F, ``[B, F, D]``.

        Returns:
            ``[B, out_features]``.
        """
        embeddings = torch.cat([dense_features.unsqueeze(0), sparse_features.transpose(0, 1)], dim=0)
        tokens = self.tokens(embeddings)
        meta = self.field_meta() if self.field_meta is not None else None
        for block in self.blocks:
            tokens = block(tokens, meta)
        if self.final_norm is not None:
            tokens = self.final_norm(tokens)
        if self.readout == "flatten":
            return tokens.transpose(0, 1).flatten(1)
        if self.readout == "sum":
            return tokens.sum(dim=0)
        if self.readout == "mean":
            return tokens.mean(dim=0)
        return tokens[self.target]

    @torch.no_grad()
    def fold(self) -> "Fat":
        """A copy for serving whose composed matrices are plain: bases, router and meta-embeddings are gone.

        Example::

            >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
            >>> fat = Fat(FatConfig(mode="hyper", num_heads=2, num_bases=8, meta_dim=4), context).eval()
            >>> row = {"dense_features": torch.randn(1, 4), "sparse_features": torch.randn(1, 2, 4)}
            >>> torch.allclose(fat.fold()(**row), fat(**row), atol=1e-6)
            True
        """
        folded = copy.deepcopy(self)
        if self.field_meta is None:
            return folded
        folded.config = self.config.model_copy(update={"mode": "full"})
        folded.field_meta = None
        meta = self.field_meta()
        for block in folded.blocks:
            if isinstance(block, FatBlock):
                block.fold_(meta)
        return folded.train(self.training)

    @torch.no_grad()
    def pair_modulation(self) -> Tensor:
        """The modulation table, mean over layers and heads, ``[F, F]``; row i attends to column j; ones if none."""
        attentions = [module for module in self.modules() if isinstance(module, FieldAttention)]
        tables = [a.modulation.mean(dim=0) for a in attentions if a.modulation is not None]
        num_fields = self.context.num_tokens
        return torch.stack(tables).mean(dim=0) if tables else torch.ones(num_fields, num_fields)
