"""RQ-VAE and FSQ: quantisers against the plain rule, training against inference, and use of the codebooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_plugins.tokenizers.autoencoder import mlp
from genrec_plugins.tokenizers.autoencoder_training import ResidualCodes, RoundedLatents, make_mlp
from genrec_plugins.tokenizers.configs import FsqConfig, RqVaeConfig
from genrec_plugins.tokenizers.fsq import Fsq, bounds
from genrec_plugins.tokenizers.rq_vae import RqVae
from genrec_registry import ModelError
from tests.plugins.tokenizer_cases import clusters, error, items, usage

torch.set_num_threads(1)


def test_inference_without_torch_is_what_torch_computes():
    network = make_mlp((5, 8, 8, 3))
    linears = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    arrays = {f"encoder_{i}_weight": layer.weight.detach().numpy() for i, layer in enumerate(linears)}
    arrays |= {f"encoder_{i}_bias": layer.bias.detach().numpy() for i, layer in enumerate(linears)}
    inputs = np.random.default_rng(0).standard_normal((20, 5))
    expected = network.double()(torch.from_numpy(inputs)).detach().numpy()
    np.testing.assert_allclose(mlp(arrays, "encoder", inputs), expected, rtol=0.0, atol=1e-13)  # of numbers around 1


def test_the_residual_quantiser_against_the_plain_rule():
    torch.manual_seed(0)
    bottleneck = ResidualCodes((4, 3), latent_dim=2, commitment=0.25, restart_below=0.1)
    latents = torch.randn(50, 2, requires_grad=True)
    quantised, loss = bottleneck(latents)
    books = [codes.detach() for codes in bottleneck.codebooks]
    expected_loss = 0.0
    for row in range(50):
        left = latents[row].detach().clone()
        for codes in books:
            code = codes[(codes - left).square().sum(dim=1).argmin()]
            expected_loss += 1.25 * float((code - left).square().sum()) / (50 * 2)
            left = left - code
        torch.testing.assert_close(quantised[row].detach(), latents[row].detach() - left)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
    gradient = torch.autograd.grad(quantised.sum(), latents, retain_graph=True)[0]
    assert (gradient == 1.0).all()  # straight through
    loss.backward()
    assert all(codes.grad is not None and codes.grad.abs().sum() > 0 for codes in bottleneck.codebooks)


def test_codes_that_nobody_takes_are_put_on_items():
    torch.manual_seed(0)
    bottleneck = ResidualCodes((8,), latent_dim=2, commitment=0.25, restart_below=0.1)
    latents = torch.randn(64, 2)
    bottleneck.begin(latents)
    codes = bottleneck.codebooks[0]
    optimizer = torch.optim.Adam(bottleneck.parameters())
    bottleneck(1.2 * latents)[1].backward()  # at the means of k-means there would be no gradient
    optimizer.step()
    bottleneck.uses[0].zero_()
    with torch.no_grad():
        codes[3] = 1e6
    bottleneck(latents)
    assert (optimizer.state[codes]["exp_avg"].abs().sum(dim=1) > 0).all()
    before = codes.detach().clone()
    bottleneck.end_epoch(latents, optimizer)
    changed = (codes.detach() != before).any(dim=1)
    assert changed.tolist() == [False, False, False, True, False, False, False, False]
    assert (latents == codes.detach()[3]).all(dim=1).any()
    assert (optimizer.state[codes]["exp_avg"].abs().sum(dim=1) > 0).tolist() == (~changed).tolist()


def test_rq_vae_does_not_collapse():
    vectors, names = clusters(), items(2000)
    found = {}
    for restart_below in (0.1, 0.0):
        config = RqVaeConfig(sizes=(64, 64), latent_dim=8, hidden_sizes=(32,), epochs=20, restart_below=restart_below)
        tokenizer = RqVae(config)
        tokenizer.fit(vectors, names)
        codes = tokenizer.encode(vectors, names)
        found[restart_below] = usage(codes, config.sizes)
        assert error(tokenizer.reconstruct(codes), vectors) < 0.5 * error(vectors.mean(axis=0), vectors)
    assert min(found[0.1]) >= 62
    assert sum(found[0.1]) > sum(found[0.0])


@settings(max_examples=60, deadline=None)
@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_fsq_rounds_to_so_many_values_in_training_and_inference(levels, seed):
    latents = np.random.default_rng(seed).standard_normal((200, len(levels))) * 3
    latents[:2], latents[2] = [[-50.0], [50.0]], 0.0
    half, offset, shift, middle = bounds(levels)
    digits = np.round(np.tanh(latents + shift) * half - offset) + middle
    assert digits.min(axis=0).tolist() == [0] * len(levels)
    assert digits.max(axis=0).tolist() == [level - 1 for level in levels]
    assert (digits[2] == middle).all()
    quantised, _ = RoundedLatents(tuple(levels))(torch.from_numpy(latents))
    np.testing.assert_allclose(quantised.numpy() * middle + middle, digits, atol=1e-12)


def test_fsq_codes_stand_for_their_digits():
    vectors, names = clusters(300), items(300)
    tokenizer = Fsq(FsqConfig(levels=((3, 4), (5,)), hidden_sizes=(8,), epochs=2))
    tokenizer.fit(vectors, names)
    codes = tokenizer.encode(vectors, names)
    half, offset, shift, middle = bounds([3, 4, 5])
    digits = (np.round(np.tanh(tokenizer.latents(vectors) + shift) * half - offset) + middle).astype(int)
    assert codes.tolist() == np.stack([digits[:, 0] * 4 + digits[:, 1], digits[:, 2]], axis=1).tolist()
    np.testing.assert_allclose(
        tokenizer.reconstruct(codes), tokenizer.decoded((digits - middle) / middle), rtol=1e-5, atol=1e-6
    )


def test_fsq_learns():
    vectors, names, errors = clusters(), items(2000), []
    for epochs in (1, 30):
        tokenizer = Fsq(FsqConfig(levels=((4, 4, 4), (4, 4, 4)), hidden_sizes=(32,), epochs=epochs))
        tokenizer.fit(vectors, names)
        errors.append(error(tokenizer.reconstruct(tokenizer.encode(vectors, names)), vectors))
    assert errors[1] < 0.6 * errors[0]


def test_a_learning_rate_that_blows_up_is_an_error():
    with pytest.raises(ModelError, match="lower its learning rate"):
        RqVae(RqVaeConfig(sizes=(4,), epochs=50, lr=1e18)).fit(clusters(200), items(200))
