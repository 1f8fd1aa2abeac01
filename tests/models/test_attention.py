import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from milmer.config import Fusion
from milmer.models.attention import Attention, FeedForward, sinusoid
from milmer.models.bag import Tokens
from milmer.models.balancing import CrossAttentionLayer
from milmer.models.fusion import CrossModalFuse, EncoderLayer


def weights_of(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def part(weights: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(name + "."): value for key, value in weights.items() if key.startswith(name + ".")}


def attention(weights, heads: int, queries: np.ndarray, keys: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """softmax(Q Kᵀ / √d) V in plain loops, one bag, one head and one query at a time."""
    width = queries.shape[-1]
    size = width // heads
    answer = np.zeros_like(queries)
    for b in range(len(queries)):
        q = queries[b] @ weights["query.weight"].T + weights["query.bias"]
        k = keys[b] @ weights["key.weight"].T
        v = keys[b] @ weights["value.weight"].T + weights["value.bias"]
        mixed = np.zeros((len(q), width))
        for h in range(heads):
            piece = slice(h * size, (h + 1) * size)
            for i in range(len(q)):
                score = np.array([q[i, piece] @ k[j, piece] / np.sqrt(size) for j in range(len(k)) if mask[b, j]])
                share = np.exp(score - score.max())
                mixed[i, piece] = (share / share.sum()) @ v[mask[b]][:, piece]
        answer[b] = mixed @ weights["out.weight"].T + weights["out.bias"]
    return answer


def norm(weights, x: np.ndarray) -> np.ndarray:
    """(x - mean) / √(variance + 1e-5), gain, shift (Ba et al. 2016)."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weights["weight"] + weights["bias"]


def feedforward(weights, x: np.ndarray) -> np.ndarray:
    """Linear, x Φ(x) (Hendrycks & Gimpel 2016), Linear."""
    hidden = x @ weights["0.weight"].T + weights["0.bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return hidden @ weights["3.weight"].T + weights["3.bias"]


def block(weights, heads: int, x: np.ndarray, keys: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pre-norm attention to `keys` and feed-forward, each added to what came in."""
    x = x + attention(part(weights, "attention"), heads, norm(part(weights, "norm_attention"), x), keys, mask)
    return x + feedforward(part(weights, "feedforward"), norm(part(weights, "norm_feedforward"), x))


def case(layer: nn.Module, length: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give `layer` large random weights in float64; return queries, keys and a mask with a key in every bag."""
    layer.double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    mask = torch.rand(2, keys) < 0.6
    mask[:, 0] = True
    return torch.randn(2, length, 8).double(), torch.randn(2, keys, 8).double(), mask


SIZES = given(st.integers(1, 4), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.integers(0, 99))


@settings(max_examples=20, deadline=None)
@SIZES
def test_attention_agrees_with_numpy(length, keys, heads, seed):
    torch.manual_seed(seed)
    layer = Attention(8, heads)
    q, k, mask = case(layer, length, keys)
    expected = attention(weights_of(layer), heads, q.numpy(), k.numpy(), mask.numpy())
    np.testing.assert_allclose(layer(q, k, mask).detach().numpy(), expected, rtol=0, atol=1e-10)


@settings(max_examples=20, deadline=None)
@SIZES
def test_cross_attention_layer_agrees_with_numpy(length, keys, heads, seed):
    torch.manual_seed(seed)
    layer = CrossAttentionLayer(8, heads, 12)
    q, k, mask = case(layer, length, keys)
    expected = block(weights_of(layer), heads, q.numpy(), k.numpy(), mask.numpy())
    np.testing.assert_allclose(layer(q, k, mask).detach().numpy(), expected, rtol=1e-12, atol=1e-10)


@settings(max_examples=20, deadline=None)
@SIZES
def test_encoder_layer_agrees_with_numpy(length, keys, heads, seed):
    torch.manual_seed(seed)
    layer = EncoderLayer(8, Fusion(heads=heads, feedforward=12))
    _, x, mask = case(layer, length, keys)
    weights = weights_of(layer)
    context = norm(part(weights, "norm_attention"), x.numpy())
    expected = block(weights, heads, x.numpy(), context, mask.numpy())
    np.testing.assert_allclose(layer(x, mask).detach().numpy(), expected, rtol=1e-12, atol=1e-10)


@settings(max_examples=20, deadline=None)
@SIZES
def test_cross_modal_fusion_agrees_with_numpy(length, keys, heads, seed):
    torch.manual_seed(seed)
    fuse = CrossModalFuse(8, Fusion(layers=2, heads=heads, feedforward=12), ("eeg", "face"))
    eeg, face, face_mask = case(fuse, length, keys)
    eeg_mask = torch.ones(2, length, dtype=torch.bool)
    eeg_mask[1] = False  # the second bag has no EEG
    weights = weights_of(fuse)
    parts = {"eeg": (eeg.numpy(), eeg_mask.numpy()), "face": (face.numpy(), face_mask.numpy())}
    columns = []
    for name, other in (("eeg", "face"), ("face", "eeg")):
        values, there = parts[name]
        for layer in range(2):
            own = part(weights, f"roads.{name}.{layer}")
            context = norm(part(own, "norm_attention"), parts[other][0])  # always as it came
            heard = parts[other][1].any(1)
            values = values.copy()
            values[heard] = block(own, heads, values[heard], context[heard], parts[other][1][heard])
        for b in range(2):
            if there[b].any():
                mean = norm(part(weights, f"summary.norms.{name}"), values[b][there[b]].mean(0))
                columns.append(np.append(mean, 1.0))
            else:
                columns.append(np.zeros(9))
    rows = np.concatenate([np.stack(columns[:2]), np.stack(columns[2:])], axis=1)
    expected = rows @ weights["project.weight"].T + weights["project.bias"]
    answer = fuse({"eeg": Tokens(eeg, eeg_mask), "face": Tokens(face, face_mask)})
    np.testing.assert_allclose(answer.detach().numpy(), expected, rtol=1e-12, atol=1e-10)


def test_masked_keys_change_nothing_and_no_key_gives_no_nan():
    torch.manual_seed(0)
    layer = Attention(8, 2)
    q, k = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, False, True, False]])
    other = torch.where(mask[..., None], k, torch.full_like(k, 1e4))
    assert torch.equal(layer(q, k, mask), layer(q, other, mask))
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(layer(q, k, nothing), layer(q, k, ~nothing))
    assert layer(q, k[:, :0], mask[:, :0]).eq(0).all()
    assert layer(q[:, :0], k, mask).shape == (1, 0, 8)


@pytest.mark.parametrize("width", [7, 8])
def test_sinusoid_tells_places_apart(width):
    table = sinusoid(torch.arange(200.0), width)
    assert table.shape == (200, width) and table.abs().max() <= 1
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 1e-2
    torch.testing.assert_close(table[:, 0], torch.arange(200.0).sin())


def test_feedforward_is_token_by_token():
    layer = FeedForward(8, 16)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(layer(x)[:, 2:3], layer(x[:, 2:3]))
