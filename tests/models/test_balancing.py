import torch

from milmer.config import Balancing
from milmer.models.balancing import Balance
from milmer.models.selection import Kept


def make(queries: int = 4, layers: int = 2) -> Balance:
    torch.manual_seed(0)
    return Balance(8, 3, Balancing(queries=queries, layers=layers), heads=2).eval()


def kept(k: int = 4, seed: int = 0) -> Kept:
    random = torch.Generator().manual_seed(seed)
    mask = torch.ones(2, k, dtype=torch.bool)
    return Kept(torch.randn(2, k, 3, 8, generator=random), mask, (torch.arange(k) + 0.5).expand(2, -1) / k)


def test_any_number_of_frames_becomes_q_tokens():
    balance = make()
    for k in (0, 1, 4, 9):
        visual = balance(kept(k)).values
        assert visual.shape == (2, 4, 8) and visual.isfinite().all()


def test_masked_frames_change_nothing():
    balance, given = make(), kept()
    given.mask[:, 1] = False
    other = given._replace(tokens=given.tokens.clone())
    other.tokens[:, 1] = 77.0
    assert torch.equal(balance(given).values, balance(other).values)
    rest = [0, 2, 3]
    fewer = Kept(given.tokens[:, rest], given.mask[:, rest], given.time[:, rest])
    torch.testing.assert_close(balance(given).values, balance(fewer).values)


def test_without_position_embedding_the_order_of_frames_is_nothing():
    balance, given = make(), kept()
    swapped = given._replace(tokens=given.tokens.flip(1))
    assert not torch.allclose(balance(given).values, balance(swapped).values, atol=1e-4)
    torch.nn.init.zeros_(balance.time_gain)
    torch.testing.assert_close(balance(given).values, balance(swapped).values)


def test_weights_of_frames_are_not_normalised_away():
    balance, given = make(), kept()
    quieter = given._replace(tokens=given.tokens * torch.tensor([0.1, 1, 1, 1])[:, None, None])
    assert (balance(given).values - balance(quieter).values).abs().max() > 1e-2
