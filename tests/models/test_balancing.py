from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from milmer.config import Balancing
from milmer.models.balancing import BALANCINGS, Balance, CrossAttentionBalance, MLPBalance, NoBalance, make_balance
from milmer.models.selection import Kept

K, T, D, Q = 4, 3, 8, 5
every = pytest.mark.parametrize("method", BALANCINGS)
placed = pytest.mark.parametrize("positions", [True, False])


def make(method: str = "cross-attention", *, positions: bool = True, layers: int = 2, width: int = D) -> Balance:
    torch.manual_seed(0)
    config = Balancing(method=method, queries=Q, layers=layers)  # type: ignore[arg-type]  # a name of the registry
    return make_balance(width, T, config, heads=2, positions=positions).eval()


def kept(k: int = K, b: int = 2, seed: int = 0, width: int = D) -> Kept:
    random = torch.Generator().manual_seed(seed)
    mask = torch.ones(b, k, dtype=torch.bool)
    time = ((torch.arange(k) + 0.5) / max(k, 1)).expand(b, -1)
    return Kept(torch.randn(b, k, T, width, generator=random), mask, time)


def slopes(answer: Callable[[Kept], Tensor], given: Kept) -> Tensor:
    """How far the answer moves with the weight of each kept frame, (B, K)."""

    def of_weight(weight: Tensor) -> Tensor:
        return answer(given._replace(tokens=given.tokens * weight[..., None, None]))

    slope = torch.autograd.functional.jacobian(of_weight, torch.ones(given.mask.shape))  # (B, M, D, B, K)
    return slope.square().sum((0, 1, 2)).sqrt()


def test_the_registry_holds_every_method_of_the_configuration():
    assert set(BALANCINGS) == set(get_args(Balancing.model_fields["method"].annotation))
    wanted = {"cross-attention": CrossAttentionBalance, "mlp": MLPBalance, "none": NoBalance}
    assert {method: type(make(method)) for method in BALANCINGS} == wanted


@every
@placed
@pytest.mark.parametrize("k", [0, 1, K, 9])
def test_any_number_of_frames_will_do(method, positions, k):
    visual = make(method, positions=positions)(kept(k))
    wanted = k * T if method == "none" else Q
    assert visual.values.shape == (2, wanted, D) and visual.mask.shape == (2, wanted)
    assert visual.values.isfinite().all() and visual.mask.all() == (k > 0 or wanted == 0)


@every
@placed
def test_masked_frames_change_nothing(method, positions):
    balance, given = make(method, positions=positions), kept()
    given.mask[:, 1] = False
    other = given._replace(tokens=given.tokens.clone())
    other.tokens[:, 1] = 77.0
    rest = [0, 2, 3]
    fewer = Kept(given.tokens[:, rest], given.mask[:, rest], given.time[:, rest])
    answers = [balance(case) for case in (given, other, fewer)]
    present = [answer.values[answer.mask] for answer in answers]
    assert torch.equal(present[0], present[1])
    torch.testing.assert_close(present[0], present[2])
    assert len(present[0]) == 2 * (3 * T if method == "none" else Q)


@every
def test_a_bag_without_frames_is_masked_and_leaves_its_neighbour_alone(method):
    balance, given = make(method), kept()
    given.mask[0] = False
    visual = balance(given)
    assert visual.values.isfinite().all()
    assert not visual.mask[0].any() and visual.mask[1].all()
    torch.testing.assert_close(visual.values[1], balance(kept()).values[1])


@every
@placed
def test_one_bag_alone_is_answered_as_in_a_batch_of_eight(method, positions):
    balance, given = make(method, positions=positions), kept(b=8)
    given.mask[3, 2:] = False
    together = balance(given)
    for row in range(8):
        alone = balance(Kept(*(part[row : row + 1] for part in given)))
        assert torch.equal(alone.mask[0], together.mask[row])
        torch.testing.assert_close(alone.values[0], together.values[row], rtol=1e-5, atol=1e-6)


@every
def test_the_moment_of_a_frame_counts_and_its_row_does_not(method):
    for positions in (True, False):
        balance, given = make(method, positions=positions), kept()
        plain = balance(given).mean()  # (B, D)
        swapped = balance(given._replace(tokens=given.tokens.flip(1))).mean()
        same = torch.allclose(plain, swapped, atol=1e-5)
        assert same != positions  # frames change places in time
        moved = balance(Kept(*(part.flip(1) for part in given))).mean()
        torch.testing.assert_close(moved, plain)  # their times went with them


@every
def test_the_order_of_a_frames_tokens_counts_where_declared(method):
    given = kept()
    turned = given._replace(tokens=given.tokens.flip(2))
    balance = make(method, positions=False)
    same = torch.allclose(balance(given).mean(), balance(turned).mean(), atol=1e-5)
    assert same != balance.looks_at_positions
    balance = make(method)
    assert not torch.allclose(balance(given).mean(), balance(turned).mean(), atol=1e-5)


@every
def test_without_positions_there_are_no_parameters_for_them(method):
    names = {positions: set(dict(make(method, positions=positions).named_parameters())) for positions in (True, False)}
    assert names[True] - names[False] == {"place", "time_gain"} and names[False] < names[True]


@every
@placed
def test_every_parameter_gets_a_gradient(method, positions):
    balance = make(method, positions=positions, width=64).train()
    visual = balance(kept(b=4, width=64)).values
    torch.nn.functional.mse_loss(visual, torch.randn(visual.shape)).backward()
    for name, parameter in balance.named_parameters():
        if not name.endswith(balance.no_gradient or ("no such",)):
            assert parameter.grad is not None, name
            assert parameter.grad.norm() > 1e-6 * parameter.norm(), name


@every
@placed
@pytest.mark.parametrize("k", [1, K])
def test_the_weight_of_a_frame_is_not_normalised_away(method, positions, k):
    balance, given = make(method, positions=positions), kept(k)
    plain = balance(given).values
    weaker = given.tokens * torch.tensor([0.5] + [1.0] * (k - 1))[:, None, None]
    assert (plain - balance(given._replace(tokens=weaker)).values).abs().max() > 1e-2
    assert (slopes(lambda part: balance(part).values, given) > 0.1).all()


@placed
def test_without_balancing_the_weight_outlives_a_second_norm(positions):
    # The encoder's first layer normalises token by token, and with one layer its CLS sees nothing else.
    balance = make("none", positions=positions)
    assert (slopes(lambda part: torch.nn.functional.layer_norm(balance(part).values, (D,)), kept()) > 0.1).all()


def test_without_balancing_the_tokens_stay_apart_in_order():
    given = kept()
    given.mask[0, 2] = False
    visual = make("none")(given)
    assert torch.equal(visual.mask.unflatten(1, (K, T)), given.mask[..., None].expand(2, K, T))
    other = given._replace(tokens=given.tokens.clone())
    other.tokens[:, 1, 2] += torch.randn(D)
    changed = (make("none")(other).values != visual.values).any(-1).unflatten(1, (K, T))
    assert changed.nonzero().tolist() == [[0, 1, 2], [1, 1, 2]]


@every
def test_half_precision_stays_finite_and_near(method):
    balance, given = make(method), kept()
    given.mask[0] = False
    with torch.autocast("cpu", torch.bfloat16):
        half = balance(given).values.float()
    torch.testing.assert_close(half, balance(given).values, rtol=0.1, atol=0.1)
