"""Training of the autoencoder tokenizers; the only part of them that imports torch."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from genrec_plugins.room import check_room
from genrec_plugins.tokenizers.base import Arrays
from genrec_plugins.tokenizers.configs import AutoencoderConfig
from genrec_plugins.tokenizers.fsq import bounds
from genrec_plugins.tokenizers.inputs import Floats
from genrec_registry import ModelError


class Bottleneck(nn.Module):
    """The quantiser between encoder and decoder."""

    def begin(self, latents: Tensor) -> None:
        """See the untrained latents ``[M, Z]`` of the first batch."""

    def end_epoch(self, latents: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Called after each epoch but those of the last tenth, with latents ``[M, Z]`` of a batch of items."""

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Quantised latents, with the gradient of straight-through, and a loss beside the reconstruction's."""
        raise NotImplementedError


def make_mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLUs between them.

    Example::

        >>> make_mlp((8, 4, 2))(torch.zeros(3, 8)).shape
        torch.Size([3, 2])
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train_autoencoder(
    vectors: Floats, config: AutoencoderConfig, latent_dim: int, bottleneck: Bottleneck, first_rows: int = 0
) -> Arrays:
    """Train encoder, bottleneck and decoder on the squared error of the reconstruction; the global seed is left alone.

    The encoder's last layer begins with latents of mean 0 and variance 1, so that the bottleneck sees the same scale
    whatever the data are.

    Args:
        vectors: ``[N, E]``, standardised.
        config: the MLPs and their training.
        latent_dim: Z.
        bottleneck: the quantiser; trained in place.
        first_rows: the first batch, which the bottleneck begins with, has at least so many items if there are.

    Returns:
        The weights of both MLPs as arrays.

    Raises:
        ConfigError: the MLPs take more memory than there is.
        ModelError: the loss became NaN or infinite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        widths = (vectors.shape[1], *config.hidden_sizes, latent_dim)
        check_room(lambda: nn.ModuleList([make_mlp(widths), make_mlp(widths[::-1])]), "tokenizer.hidden_sizes")
        encoder, decoder = make_mlp(widths), make_mlp(widths[::-1])
        first = torch.randperm(len(vectors))[: max(config.batch_size, first_rows)]
        bottleneck.begin(_standardise_latents(encoder, torch.from_numpy(vectors)[first]))
        _train(torch.from_numpy(vectors), config, encoder, bottleneck, decoder)
    arrays = Arrays()
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        linears = [layer for layer in network if isinstance(layer, nn.Linear)]
        for layer, linear in enumerate(linears):
            arrays[f"{name}_{layer}_weight"] = linear.weight.detach().numpy().copy()
            arrays[f"{name}_{layer}_bias"] = linear.bias.detach().numpy().copy()
    return arrays


@torch.no_grad()
def _standardise_latents(encoder: nn.Sequential, first: Tensor) -> Tensor:
    latents = encoder(first)
    mean, deviation = latents.mean(dim=0), latents.std(dim=0, correction=0).clamp_min(1e-6)
    last = encoder[-1]
    assert isinstance(last, nn.Linear)
    last.weight.div_(deviation[:, None])
    last.bias.sub_(mean).div_(deviation)
    return encoder(first)


def _train(
    vectors: Tensor, config: AutoencoderConfig, encoder: nn.Module, bottleneck: Bottleneck, decoder: nn.Module
) -> None:
    modules = nn.ModuleList([encoder, bottleneck, decoder])
    optimizer = torch.optim.Adam(modules.parameters(), lr=config.lr)
    steps = config.epochs * math.ceil(len(vectors) / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(config.epochs):
        for rows in torch.randperm(len(vectors)).split(config.batch_size):
            batch = vectors[rows]
            latents = encoder(batch)
            quantised, extra = bottleneck(latents)
            loss = nn.functional.mse_loss(decoder(quantised), batch) + extra
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if not math.isfinite(loss.item()):
            raise ModelError(f"epoch {epoch + 1}: the tokenizer's loss is {loss.item()}; lower its learning rate")
        if epoch < 0.9 * config.epochs - 1:
            bottleneck.end_epoch(latents.detach(), optimizer)


class ResidualCodes(Bottleneck):
    """RQ-VAE's codebooks (TIGER, arXiv 2305.05065, 3.1): level by level, the nearest code of what is left.

    ``loss = mean_l |sg(r_l) - e_l|^2 + beta |r_l - sg(e_l)|^2``. The codebooks begin as k-means of the first batch; a
    code that an epoch hardly used is put where an item's residual is, and its Adam moments are forgotten.

    Args:
        sizes: codes of each level.
        latent_dim: Z.
        commitment: beta.
        restart_below: share of an even use below which a code is moved; 0 never moves one.
        seed: of the k-means.

    Example::

        >>> bottleneck = ResidualCodes((4, 2), latent_dim=3, commitment=0.25, restart_below=0.1)
        >>> bottleneck.begin(torch.randn(8, 3))
        >>> quantised, loss = bottleneck(torch.randn(5, 3))
        >>> quantised.shape, loss.shape
        (torch.Size([5, 3]), torch.Size([]))
    """

    def __init__(
        self, sizes: tuple[int, ...], latent_dim: int, commitment: float, restart_below: float, seed: int = 0
    ) -> None:
        super().__init__()
        self.commitment = commitment
        self.restart_below = restart_below
        self.seed = seed
        self.codebooks = nn.ParameterList(nn.Parameter(torch.empty(size, latent_dim)) for size in sizes)
        self.uses = [torch.zeros(size) for size in sizes]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw codes from N(0, 1); :meth:`begin` replaces them."""
        for codes in self.codebooks:
            nn.init.normal_(codes)

    @torch.no_grad()
    def begin(self, latents: Tensor) -> None:
        """Put every codebook on the k-means of the residuals that reach it."""
        from genrec_plugins.tokenizers.kmeans import fit_kmeans

        residual = latents
        for level, codes in enumerate(self.codebooks):
            codes.copy_(
                torch.from_numpy(fit_kmeans(residual.numpy(), len(codes), iterations=10, seed=self.seed + level))
            )
            residual = residual - codes[_nearest(residual, codes)]

    @torch.no_grad()
    def end_epoch(self, latents: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Move the codes that the epoch hardly used onto residuals of random items."""
        residual = latents
        for codes, uses in zip(self.codebooks, self.uses, strict=True):
            dead = torch.nonzero(uses < self.restart_below * uses.sum() / len(uses)).flatten()
            if len(dead):
                rows = torch.randint(len(residual), (len(dead),))
                codes[dead] = residual[rows]
                for moment in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[codes][moment][dead] = 0.0
            uses.zero_()
            residual = residual - codes[_nearest(residual, codes)]

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the chosen codes, ``[B, Z]``, and the codebook and commitment loss."""
        residual, chosen, loss = latents, torch.zeros_like(latents), latents.new_zeros(())
        for codes, uses in zip(self.codebooks, self.uses, strict=True):
            rows = _nearest(residual.detach(), codes.detach())
            uses.add_(torch.bincount(rows, minlength=len(codes)))
            code = codes[rows]
            loss = loss + nn.functional.mse_loss(code, residual.detach())
            loss = loss + self.commitment * nn.functional.mse_loss(residual, code.detach())
            residual = residual - code.detach()
            chosen = chosen + code
        return latents + (chosen - latents).detach(), loss

    def arrays(self) -> Arrays:
        """``codes_{level}``: ``[K, Z]`` each."""
        return {f"codes_{level}": codes.detach().numpy().copy() for level, codes in enumerate(self.codebooks)}


def _nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    return (codes.square().sum(dim=1) - 2.0 * vectors @ codes.T).argmin(dim=1)


class RoundedLatents(Bottleneck):
    """FSQ (arXiv 2309.15505, 3): each latent number is bounded by a tanh and rounded to one of a few values.

    Args:
        levels: values of each of the Z latent numbers.

    Example::

        >>> quantised, loss = RoundedLatents((3, 4))(torch.tensor([[0.1, 9.0], [-9.0, -9.0]]))
        >>> quantised.tolist(), loss.item()
        ([[0.0, 0.5], [-1.0, -1.0]], 0.0)
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded numbers in ``[-1, 1]``, ``[B, Z]``; no loss of its own."""
        half, offset, shift, middle = (latents.new_tensor(np.asarray(part)) for part in bounds(self.levels))
        bounded = torch.tanh(latents + shift) * half - offset
        return (bounded + (bounded.round() - bounded).detach()) / middle, latents.new_zeros(())
