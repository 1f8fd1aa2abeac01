import torch

from milmer.config import Fusion
from milmer.models.bag import Tokens
from milmer.models.fusion import Fuse, Head


def some(values: torch.Tensor, *absent: int) -> Tokens:
    mask = torch.ones(values.shape[:2], dtype=torch.bool)
    mask[:, list(absent)] = False
    return Tokens(values, mask)


def none(values: torch.Tensor) -> Tokens:
    return Tokens(values, torch.zeros(values.shape[:2], dtype=torch.bool))


def test_absent_tokens_change_nothing():
    torch.manual_seed(0)
    fuse = Fuse(8, Fusion(layers=2, heads=2, feedforward=16), ("eeg", "face")).eval()
    visual, eeg = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    changed = eeg.clone()
    changed[:, 4] = 99.0
    assert torch.equal(fuse(some(visual), some(eeg, 4)), fuse(some(visual), some(changed, 4)))
    assert torch.equal(fuse(none(visual), some(eeg)), fuse(none(visual + 5), some(eeg)))
    assert not torch.equal(fuse(some(visual), some(eeg)), fuse(some(visual + torch.randn(8)), some(eeg)))
    torch.testing.assert_close(fuse(None, some(eeg)), fuse(none(visual), some(eeg)))
    silent = fuse(none(visual), none(eeg))
    torch.testing.assert_close(silent[0], silent[1])
    assert silent.isfinite().all()


def test_the_kind_of_a_token_matters():
    torch.manual_seed(0)
    fuse = Fuse(8, Fusion(layers=1, heads=2, feedforward=16), ("eeg", "face")).eval()
    tokens = some(torch.randn(1, 3, 8))
    assert not torch.allclose(fuse(tokens, None), fuse(None, tokens), atol=1e-5)


def test_head_starts_near_equal_probabilities():
    torch.manual_seed(0)
    logits = Head(64, 4, 0.0)(torch.randn(100, 64))
    assert logits.shape == (100, 4) and logits.softmax(-1).max() < 0.4
