from dataclasses import fields, replace

import pytest
import torch

from milmer.models.bag import EEG, FACE, Bag, Prediction


def test_every_wrong_shape_is_named(bag):
    good = bag()
    for name, shape in [
        ("frame_mask", (2, 1, 4)),
        ("eeg_mask", (2, 6)),
        ("positions", (2, 6, 2)),
        ("window_mask", (3, 1)),
    ]:
        with pytest.raises(ValueError, match=rf"Bag\.{name} has shape .* expected"):
            replace(good, **{name: torch.ones(shape, dtype=getattr(good, name).dtype)})
    with pytest.raises(ValueError, match=r"Bag\.frames has shape \(2, 1, 5, 3, 64, 32\)"):
        replace(good, frames=good.frames[..., :32])


def test_masks_must_be_bool_and_eeg_floating(bag):
    good = bag()
    with pytest.raises(ValueError, match=r"Bag\.frame_mask is torch\.float32, expected bool"):
        replace(good, frame_mask=good.frame_mask.float())
    with pytest.raises(ValueError, match=r"Bag\.eeg is torch\.int64"):
        replace(good, eeg=good.eeg.long())


def test_of_needs_something_and_marks_the_rest_absent():
    with pytest.raises(ValueError, match="neither frames nor eeg"):
        Bag.of()
    with pytest.raises(ValueError, match="without positions"):
        Bag.of(eeg=torch.zeros(1, 1, 2, 8))
    faces = Bag.of(frames=torch.zeros(2, 1, 3, 3, 8, 8))
    assert faces.modality_mask.tolist() == [[False, True]] * 2
    assert faces.eeg.shape == (2, 1, 0, 0) and faces.frame_mask.all()


def test_settled_spreads_masks_and_clears_what_is_masked(bag):
    given = bag(b=3, w=2)
    given.window_mask[0, 1] = False
    given.modality_mask[1, FACE] = False
    given.frame_mask[2] = False
    given.sample_mask[2] = False
    given.eeg[0, 1] = torch.nan
    done = given.settled()
    assert not done.frame_mask[0, 1].any() and done.frame_mask[0, 0].all()
    assert not done.eeg_mask[0, 1].any() and (done.eeg[0, 1] == 0).all()
    assert not done.frame_mask[1].any() and done.modality_mask[1].tolist() == [True, False]
    assert done.modality_mask[2].tolist() == [False, False]
    assert done.eeg.isfinite().all()
    only_face = given.settled(torch.tensor([[False, True]]).expand(3, 2))
    assert not only_face.modality_mask[:, EEG].any() and not only_face.eeg_mask.any()


def test_moves_and_slices(bag):
    given = bag(b=3)
    there = given.to("cpu", non_blocking=True)
    tensors = [f.name for f in fields(Bag) if not f.name.startswith(("body", "prefix"))]
    assert len(tensors) == 8 and all(torch.equal(getattr(given, n), getattr(there, n)) for n in tensors)
    assert len(given) == 3 and len(given[1:]) == 2


def with_body(given: Bag) -> Bag:
    x = torch.arange(len(given) * 2 * 5.0).view(len(given), 1, 2, 5)
    return replace(given, body={"gsr": x}, body_mask={"gsr": torch.ones_like(x, dtype=torch.bool)})


def test_body_signals_move_slice_and_are_masked_with_their_window(bag):
    given = with_body(bag(b=3))
    part = given.to("cpu")[1:]
    assert torch.equal(part.body["gsr"], given.body["gsr"][1:]) and part.body_mask["gsr"].shape == (2, 1, 2, 5)
    given.body["gsr"][1] = torch.nan
    given.body_mask["gsr"][1] = False
    given.window_mask[2] = False
    done = given.settled()
    assert done.body["gsr"][1:].eq(0).all() and not done.body_mask["gsr"][1:].any()
    assert torch.equal(done.body["gsr"][0], given.body["gsr"][0]) and done.body_mask["gsr"][0].all()
    assert given.kinds == ("eeg", "face", "gsr")
    assert given.present().tolist() == [[True, True, True], [True, True, False], [True, True, False]]
    assert given.only(["face", "gsr"]).present()[0].tolist() == [False, True, True]
    assert given.only(["eeg"]).present()[0].tolist() == [True, False, False]
    assert given.settled(body={"gsr": torch.tensor([False, True, True])}).body["gsr"].eq(0).all()
    assert not given.settled(body={}).body


def test_a_bag_of_body_signals_alone():
    x = torch.ones(2, 1, 2, 5)
    x[0, 0, 1, 3:] = torch.nan
    given = Bag.of(body={"gsr": x})
    assert given.body_mask["gsr"].sum() == 18 and given.frames.shape == (2, 1, 0, 3, 1, 1)
    assert not given.modality_mask.any() and len(given) == 2


def test_wrong_body_signals_are_named(bag):
    good = with_body(bag())
    with pytest.raises(ValueError, match=r"Bag\.body has \['gsr'\], Bag\.body_mask \[\]"):
        replace(good, body_mask={})
    with pytest.raises(ValueError, match=r"Bag\.body\['gsr'\] has shape \(2, 1, 2, 4\), its mask \(2, 1, 2, 5\)"):
        replace(good, body={"gsr": good.body["gsr"][..., :4]})
    with pytest.raises(ValueError, match=r"its mask torch\.float32, expected floating point and bool"):
        replace(good, body_mask={"gsr": good.body["gsr"]})


def test_probabilities_sum_to_one():
    said = Prediction(torch.randn(4, 3), torch.zeros(4, 1, 2))
    torch.testing.assert_close(said.probabilities.sum(-1), torch.ones(4))
