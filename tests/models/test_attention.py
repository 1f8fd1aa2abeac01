import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.models.attention import Attention, FeedForward, sinusoid


def reference(layer: Attention, queries: np.ndarray, keys: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Attention in plain loops, one bag, one head and one query at a time."""
    weights = {k: v.detach().double().numpy() for k, v in layer.state_dict().items()}
    width = queries.shape[-1]
    size = width // layer.heads
    answer = np.zeros_like(queries)
    for b in range(len(queries)):
        q = queries[b] @ weights["query.weight"].T + weights["query.bias"]
        k = keys[b] @ weights["key.weight"].T
        v = keys[b] @ weights["value.weight"].T + weights["value.bias"]
        mixed = np.zeros((len(q), width))
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            for i in range(len(q)):
                score = np.array([q[i, part] @ k[j, part] / np.sqrt(size) for j in range(len(k)) if mask[b, j]])
                share = np.exp(score - score.max())
                mixed[i, part] = (share / share.sum()) @ v[mask[b]][:, part]
        answer[b] = mixed @ weights["out.weight"].T + weights["out.bias"]
    return answer


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.integers(0, 99))
def test_attention_agrees_with_numpy(length, keys, heads, seed):
    torch.manual_seed(seed)
    layer = Attention(8, heads).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    q, k = torch.randn(2, length, 8).double(), torch.randn(2, keys, 8).double()
    mask = torch.rand(2, keys) < 0.6
    mask[:, 0] = True
    expected = reference(layer, q.numpy(), k.numpy(), mask.numpy())
    np.testing.assert_allclose(layer(q, k, mask).detach().numpy(), expected, atol=1e-10)


def test_masked_keys_change_nothing_and_no_key_gives_no_nan():
    torch.manual_seed(0)
    layer = Attention(8, 2)
    q, k = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, False, True, False]])
    other = torch.where(mask[..., None], k, torch.full_like(k, 1e4))
    assert torch.equal(layer(q, k, mask), layer(q, other, mask))
    assert layer(q, k, torch.zeros_like(mask)).isfinite().all()
    assert layer(q, k[:, :0], mask[:, :0]).eq(0).all()


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
