"""User vectors as soft tokens in a prompt: the adapter, and where its tokens stand among those of the text."""

from torch import Tensor, nn

#: stands for one soft token among token ids
SLOT = -1


class SoftTokenAdapter(nn.Module):
    """User vectors to k soft tokens of a language model's width: ``[B, N, D] -> [B, k, H]``.

    One hidden layer with GELU (or one linear map, as UQABench's adapter), then LayerNorm whose gain begins where a soft
    token is as long as the language model's own embeddings are on average: a frozen model has never seen others.

    Args:
        vectors: N, vectors a user.
        width: D.
        tokens: k.
        llm_width: H.
        llm_norm: mean length of the language model's input embeddings.
        hidden: hidden width; 0 for one linear map.
        dropout: on the hidden layer.

    Example::

        >>> import torch
        >>> adapter = SoftTokenAdapter(vectors=2, width=8, tokens=3, llm_width=16, llm_norm=0.5, hidden=32)
        >>> soft = adapter(torch.randn(5, 2, 8))
        >>> soft.shape, round(soft.norm(dim=-1).mean().item(), 2)
        (torch.Size([5, 3, 16]), 0.5)
    """

    def __init__(
        self,
        *,
        vectors: int,
        width: int,
        tokens: int,
        llm_width: int,
        llm_norm: float,
        hidden: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens, self.llm_width, self.llm_norm = tokens, llm_width, llm_norm
        wide = [nn.Linear(vectors * width, hidden), nn.GELU(), nn.Dropout(dropout)] if hidden else []
        self.layers = nn.Sequential(*wide, nn.Linear(hidden or vectors * width, tokens * llm_width))
        self.norm = nn.LayerNorm(llm_width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the gain to the language model's scale; the linear layers draw their own."""
        nn.init.constant_(self.norm.weight, self.llm_norm / self.llm_width**0.5)
        nn.init.zeros_(self.norm.bias)

    def forward(self, users: Tensor) -> Tensor:
        """Soft tokens.

        Args:
            users: ``[B, N, D]``.

        Returns:
            ``[B, k, H]``.
        """
        soft: Tensor = self.norm(self.layers(users.flatten(1)).unflatten(1, (self.tokens, self.llm_width)))
        return soft


def mean_norm(embeddings: nn.Module) -> float:
    """Mean length of a language model's input embeddings; all-zero rows (padding) are left out.

    Args:
        embeddings: its ``get_input_embeddings()``.

    Example::

        >>> import torch
        >>> table = nn.Embedding(3, 2)
        >>> _ = table.weight.data.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
        >>> mean_norm(table)
        3.0
    """
    weight = embeddings.weight.detach().float()  # type: ignore[operator]
    norms = weight.norm(dim=1)
    return float(norms[norms > 0].mean())


def splice(ids: Tensor, embeddings: nn.Module, soft: Tensor | None) -> Tensor:
    """Input embeddings of prompts, with the soft tokens in their slots.

    Args:
        ids: ``[B, S]`` token ids, ``SLOT`` where a soft token goes: k a row, or none if ``soft`` is None.
        embeddings: the language model's input embeddings.
        soft: ``[B, k, H]``.

    Returns:
        ``[B, S, H]``.

    Example::

        >>> import torch
        >>> ids = torch.tensor([[SLOT, 2, SLOT]])
        >>> table = nn.Embedding(3, 1)
        >>> _ = table.weight.data.copy_(torch.tensor([[0.0], [1.0], [2.0]]))
        >>> splice(ids, table, torch.tensor([[[7.0], [8.0]]])).squeeze().tolist()
        [7.0, 2.0, 8.0]
    """
    text: Tensor = embeddings(ids.clamp(min=0))
    if soft is None:
        return text
    return text.masked_scatter((ids == SLOT).unsqueeze(-1), soft.to(text.dtype))
