import torch

from milmer.config import Fusion
from milmer.models.fusion import Fuse, Head


def test_absent_tokens_change_nothing():
    torch.manual_seed(0)
    fuse = Fuse(8, Fusion(layers=2, heads=2, feedforward=16), ("eeg", "face")).eval()
    visual, eeg = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    channels = torch.ones(2, 1, 5, dtype=torch.bool)
    channels[:, :, 4] = False
    both, no_face, nothing = (torch.tensor([m, m]) for m in ([True, True], [True, False], [False, False]))
    changed = eeg.clone()
    changed[:, 4] = 99.0
    assert torch.equal(fuse(visual, eeg, both, channels), fuse(visual, changed, both, channels))
    assert torch.equal(fuse(visual, eeg, no_face, channels), fuse(visual + 5, eeg, no_face, channels))
    assert not torch.equal(fuse(visual, eeg, both, channels), fuse(visual + torch.randn(8), eeg, both, channels))
    torch.testing.assert_close(fuse(None, eeg, no_face, channels), fuse(visual, eeg, no_face, channels))
    silent = fuse(visual, eeg, nothing, channels)
    torch.testing.assert_close(silent[0], silent[1])
    assert silent.isfinite().all()


def test_the_kind_of_a_token_matters():
    torch.manual_seed(0)
    fuse = Fuse(8, Fusion(layers=1, heads=2, feedforward=16), ("eeg", "face")).eval()
    tokens = torch.randn(1, 3, 8)
    mask, channels = torch.tensor([[True, True]]), torch.ones(1, 1, 3, dtype=torch.bool)
    as_face, as_eeg = fuse(tokens, None, mask, channels), fuse(None, tokens, mask, channels)
    assert not torch.allclose(as_face, as_eeg, atol=1e-5)


def test_head_starts_near_equal_probabilities():
    torch.manual_seed(0)
    logits = Head(64, 4, 0.0)(torch.randn(100, 64))
    assert logits.shape == (100, 4) and logits.softmax(-1).max() < 0.4
