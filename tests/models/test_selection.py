import math

import numpy as np
import pytest
import torch

from milmer.config import Selection
from milmer.models.selection import GatedScorer, GatedTopK, KeepAll, frame_times, make_selection, masked_softmax


def make(keep: int = 2, width: int = 6, hidden: int = 5, seed: int = 0, exploration: float = 0.0) -> GatedTopK:
    torch.manual_seed(seed)
    return GatedTopK(width, Selection(keep=keep, hidden=hidden, exploration=exploration))


def full(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def test_gated_attention_agrees_with_numpy():
    torch.manual_seed(1)
    scorer = GatedScorer(6, 5).double()
    h = np.random.default_rng(0).normal(size=(3, 4, 6))
    w = {k: v.detach().numpy() for k, v in scorer.state_dict().items()}
    expected = np.zeros((3, 4))
    for b in range(3):
        for n in range(4):
            centred = h[b, n] - h[b, n].mean()
            normed = centred / np.sqrt((centred**2).mean() + 1e-5) * w["norm.weight"] + w["norm.bias"]
            content = np.tanh(w["content.weight"] @ normed + w["content.bias"])
            gate = 1 / (1 + np.exp(-(w["gate.weight"] @ normed + w["gate.bias"])))
            expected[b, n] = w["score.weight"][0] @ (content * gate)
    np.testing.assert_allclose(scorer(torch.tensor(h)).detach().numpy(), expected, atol=1e-12)


def test_weights_are_a_softmax_over_valid_frames_and_kept_tokens_carry_them():
    select = make().eval()
    frames, mask = torch.randn(2, 6, 3, 6), full(2, 1, 6)
    mask[0, 0, 1] = False
    kept, weights = select(frames, mask)
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2))
    assert weights[0, 0, 1] == 0 and kept.tokens.shape == (2, 2, 3, 6) and kept.mask.all()
    for b in range(2):
        best = sorted(weights[b, 0].topk(2).indices.tolist())
        share = weights[b, 0, best] / weights[b, 0, best].sum() * 2
        torch.testing.assert_close(kept.tokens[b], frames[b, best] * share[:, None, None])
        torch.testing.assert_close(kept.time[b], (torch.tensor(best) + 0.5) / 6)


def test_equal_weights_change_nothing():
    select = make(keep=3).eval()
    torch.nn.init.zeros_(select.scorer.score.weight)
    frames = torch.randn(1, 5, 2, 6)
    kept, weights = select(frames, full(1, 1, 5))
    torch.testing.assert_close(weights, torch.full((1, 1, 5), 0.2))
    torch.testing.assert_close(kept.tokens, frames[:, (kept.time[0] * 5).long()])


def test_fewer_frames_than_wanted():
    select = make(keep=4).eval()
    mask = torch.tensor([[[True, False, True]], [[False, False, False]]])
    kept, weights = select(torch.randn(2, 3, 2, 6), mask)
    assert kept.tokens.shape == (2, 3, 2, 6)
    assert kept.mask.sum(1).tolist() == [2, 0]
    assert (kept.tokens[1] == 0).all() and (weights[1] == 0).all()
    none, weights = select(torch.zeros(2, 0, 2, 6), full(2, 1, 0))
    assert none.tokens.shape == (2, 0, 2, 6) and weights.shape == (2, 1, 0)


def test_a_bag_of_windows_keeps_some_of_each_windows_worth():
    select = make(keep=2).eval()
    mask = full(2, 3, 4)
    mask[1, 1] = False  # a window without a face asks for no frames
    kept, weights = select(torch.randn(2, 12, 2, 6), mask)
    assert kept.mask.sum(1).tolist() == [6, 4] and weights.shape == (2, 3, 4)
    assert (kept.time.diff(dim=1) > 0).all()


@pytest.mark.parametrize("keep", [1, 3])
def test_every_parameter_of_the_scorer_gets_a_gradient(keep):
    select = make(keep=keep).train()
    select.warmth = 0.0
    kept, _ = select(torch.randn(4, 6, 2, 6), full(4, 1, 6))
    (kept.tokens * torch.randn_like(kept.tokens)).sum().backward()
    for name, parameter in select.named_parameters():
        assert parameter.grad is not None and parameter.grad.norm() > 1e-6 * parameter.norm(), name


def test_permuting_frames_permutes_the_weights():
    select = make().eval()
    frames, mask = torch.randn(2, 6, 3, 6), full(2, 1, 6)
    mask[1, 0, 4] = False
    order = torch.randperm(6)
    _, weights = select(frames, mask)
    _, permuted = select(frames[:, order], mask[:, :, order])
    torch.testing.assert_close(permuted, weights[:, :, order])


def test_exploration_reaches_every_frame_only_while_training():
    select = make(keep=1, exploration=2.0)
    select.warmth = 0.2  # 1 + 0.2 * (5 - 1), rounded up: 2 of 5
    frames, mask = torch.randn(1, 5, 2, 6), full(1, 1, 5)

    def chosen(times: int = 100) -> list[tuple[float, ...]]:
        return [tuple(select(frames, mask)[0].time[0].tolist()) for _ in range(times)]

    torch.manual_seed(0)
    assert len(set(sum(select.train() and chosen(), ()))) == 5
    assert len(set(select.eval() and chosen())) == 1
    select.train().warmth = 0.0
    assert len(set(chosen())) == 1
    select.warmth = 0.2
    torch.manual_seed(3)
    first = chosen(20)
    torch.manual_seed(3)
    assert first == chosen(20)


def test_the_number_kept_falls_to_k():
    select = make(keep=3, exploration=0.5).train()
    frames, mask = torch.randn(2, 20, 2, 6), full(2, 2, 10)
    mask[1, 1] = False
    counts = []
    for warmth in (1.0, 0.5, 0.0):
        select.warmth = warmth
        counts.append(select(frames, mask)[0].mask.sum(1).tolist())
    assert counts == [[20, 10], [13, 7], [6, 3]]


def test_mean_keeps_all_that_is_there():
    mask = torch.tensor([[[True, True, False, True]]])
    kept, weights = make_selection(6, Selection(method="mean"))(torch.ones(1, 4, 2, 6), mask)
    assert isinstance(make_selection(6, Selection(method="mean")), KeepAll)
    torch.testing.assert_close(weights, mask / 3)
    assert torch.equal(kept.mask, mask[:, 0]) and kept.tokens.sum() == 3 * 2 * 6


def test_softmax_of_nothing_is_zero_and_has_no_nan_gradient():
    scores = torch.randn(2, 3, requires_grad=True)
    out = masked_softmax(scores, torch.tensor([[True, True, False], [False] * 3]))
    assert out[1].eq(0).all() and math.isclose(float(out[0].detach().sum()), 1, rel_tol=1e-6)
    out.square().sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_times_are_in_windows():
    times = frame_times(full(1, 2, 4))
    torch.testing.assert_close(times, torch.tensor([[0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875]]))
