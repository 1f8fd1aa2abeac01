"""What a frozen prefix gives, kept on disk: whole or not there, of these weights and crops, and the same numbers."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import make_store

from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.evaluation.evaluate import train
from milmer.evaluation.guard import Guard
from milmer.evaluation.probes import SHUFFLES, TOP
from milmer.evaluation.protocols import Split
from milmer.faces.crop import decode_jpeg
from milmer.models.backbone import Backbone, load_backbone
from milmer.models.weights import load_model
from milmer.store import Store
from milmer.store_join import open_stores
from milmer.training import cache as caching
from milmer.training.augment import drawn_view, fixed_view
from milmer.training.cache import FrameCache, NoCache
from milmer.training.data import Bags, make_loader
from milmer.training.fit import fit, predict_bags, train_loader
from milmer.training.prefix import no_use, suited, with_cache
from milmer.training.probes import _put_frames, run_probes

HALF = 1e-3  # relative error of tokens in half precision, as docs/performance.md says
ROWS = np.arange(12)
Usage = namedtuple("Usage", "total used free")


def configured(**overrides: Any) -> Config:
    quick: dict[str, Any] = {"training.epochs": 2, "training.threads": 1, "training.batch": 6, "data.frames": 3}
    quick |= {"model.trainable_stages": 0, "data.window": 3.0}
    return load_config("demo", overrides=quick | {k.replace("__", "."): v for k, v in overrides.items()})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(make_store(tmp_path / "store", subjects=2, trials=3, seconds=6.0))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(1)
    return load_backbone("random:demo", px=64, width=64, trainable_stages=1).eval()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "CHUNK", 16)


def cache_of(store: Store, backbone: Backbone, views: int = 1) -> FrameCache:
    return FrameCache(store, backbone.prefix_key(), backbone.prefix_shape, px=64, views=views)


class Dying:
    """A prefix that dies when it is called for the nth time."""

    def __init__(self, prefix: Callable[[torch.Tensor], torch.Tensor], at: int = 10**9) -> None:
        self.prefix, self.at, self.calls = prefix, at, 0

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.prefix(frames)


def test_rows_come_back_as_the_prefix_gave_them(store: Store, backbone: Backbone) -> None:
    cache = cache_of(store, backbone)
    assert cache.missing(store.keys) == store.keys
    written = cache.ensure(store.keys, backbone.prefix)
    assert cache.missing(store.keys, verify=True) == [] and cache.ensure(store.keys, backbone.prefix) == 0
    sizes = sum(cache.file(key).stat().st_size for key in store.keys)
    assert 0 <= sizes - written <= 256 * len(store.keys)  # what was predicted, and the heads
    frames = Bags(store, configured().data).frames
    for key in store.keys:
        rows = np.flatnonzero(store.faces(key).found)[[3, 0, 17]]
        pixels = torch.from_numpy(np.stack([frames.decode(key, int(r)) for r in rows])).permute(0, 3, 1, 2)
        exact, kept = backbone.prefix(pixels), torch.from_numpy(cache.read(key, rows)).float()
        assert ((kept - exact).norm(dim=(1, 2)) / exact.norm(dim=(1, 2))).max() < HALF
        assert len({x.numpy().tobytes() for x in kept}) == 3
    assert not [fault for _, fault in store.verify() if fault] and Store(store.path).fingerprint == store.fingerprint


def test_a_recording_with_frames_that_show_no_face(store: Store, backbone: Backbone) -> None:
    key = store.keys[0]
    track = store.faces(key)
    whole = cache_of(store, backbone)
    whole.ensure([key], backbone.prefix)
    kept = whole.read(key, np.array([5, 19]))
    shutil.rmtree(store.path / "cache")
    track.found[[0, 4, 11]] = False
    cache = cache_of(store, backbone)
    assert cache.size([key]) < whole.size([key]) + 1
    cache.ensure([key], backbone.prefix)
    np.testing.assert_allclose(cache.read(key, np.array([5, 19])).astype(float), kept.astype(float), atol=2e-3)


def test_an_interrupted_write_goes_on_to_the_same_bytes(store: Store, backbone: Backbone) -> None:
    cache, key = cache_of(store, backbone), store.keys[0]
    cache.ensure([key], backbone.prefix)
    whole, chunks = cache.file(key).read_bytes(), -(-int(store.faces(key).found.sum()) // 16)
    assert chunks >= 3
    shutil.rmtree(store.path / "cache")
    with pytest.raises(KeyboardInterrupt):
        cache.ensure([key], Dying(backbone.prefix, 3))
    assert not cache.file(key).exists() and cache.missing([key]) == [key]
    part = cache.file(key).with_name(f"{cache.file(key).name}.part")
    part.write_bytes(part.read_bytes() + b"half a chunk")
    again = Dying(backbone.prefix)
    cache.ensure([key], again)
    assert again.calls == chunks - 2 and cache.file(key).read_bytes() == whole and not part.exists()


def test_what_was_damaged_before_going_on_is_run_again(store: Store, backbone: Backbone) -> None:
    cache, key = cache_of(store, backbone), store.keys[0]
    with pytest.raises(KeyboardInterrupt):
        cache.ensure([key], Dying(backbone.prefix, 4))
    part = cache.file(key).with_name(f"{cache.file(key).name}.part")
    content = bytearray(part.read_bytes())
    content[-1] ^= 1  # of the third chunk
    part.write_bytes(content)
    again = Dying(backbone.prefix)
    cache.ensure([key], again)
    assert again.calls == -(-int(store.faces(key).found.sum()) // 16) - 2
    assert cache.missing([key], verify=True) == []


def test_a_damaged_file_is_found_and_written_again(store: Store, backbone: Backbone) -> None:
    cache, key = cache_of(store, backbone), store.keys[0]
    cache.ensure(store.keys, backbone.prefix)
    file = cache.file(key)
    sound = file.read_bytes()
    for spoilt in (sound[:-3], b"x" + sound[1:]):  # seen at a glance
        file.write_bytes(spoilt)
        assert cache.missing(store.keys) == [key]
    file.write_bytes(sound[:-9] + bytes([sound[-9] ^ 4]) + sound[-8:])
    assert cache.missing(store.keys) == [] and cache.missing(store.keys, verify=True) == [key]
    assert cache.ensure(store.keys, backbone.prefix, verify=True) == cache.size([key])
    assert file.read_bytes() == sound


def test_other_weights_views_and_crops_are_other_tokens(store: Store, backbone: Backbone) -> None:
    cache = cache_of(store, backbone)
    cache.ensure(store.keys, backbone.prefix)
    torch.manual_seed(2)
    other = load_backbone("random:demo", px=64, width=64, trainable_stages=1).eval()
    frozen = load_backbone("random:demo", px=64, width=64, trainable_stages=0).eval()
    names = {c.name for c in (cache, cache_of(store, other), cache_of(store, frozen), cache_of(store, backbone, 2))}
    assert len(names) == 4
    store.info["recordings"][store.keys[0]]["faces.bin"][1] = "another hash"  # prepared anew
    assert cache.missing(store.keys) == store.keys[:1]


def test_caches_of_something_else_are_counted_and_told_of(store: Store, backbone: Backbone) -> None:
    old, said = cache_of(store, backbone), list[str]()
    old.ensure(store.keys, backbone.prefix)
    assert old.others(store.keys) == 0
    cached = with_cache(configured(), Bags(store, configured().data), build=True, say=said.append).cache
    assert cached is not None and cached.name != old.name
    assert 0 <= cached.others(store.keys) - old.size(store.keys) < 4096 * len(store.keys)
    assert len(said) == 1 and "of other backbones or views beside it" in said[0]


def test_a_file_that_cannot_be_read_is_written_again(
    store: Store, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, key = cache_of(store, backbone), store.keys[0]
    cache.ensure([key], backbone.prefix)
    file, opened = cache.file(key), Path.open

    def refused(path: Path, mode: str = "r", **named: Any) -> Any:
        if path == file:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, mode, **named)

    monkeypatch.setattr(Path, "open", refused)
    assert cache.missing([key]) == [key]


def test_a_second_process_waits_says_so_and_runs_nothing(store: Store, backbone: Backbone) -> None:
    cache, other, told = cache_of(store, backbone), cache_of(store, backbone), list[str]()
    again = Dying(backbone.prefix)
    waiting, late = threading.Event(), list[threading.Thread]()

    def hear(done: int, total: int, text: str) -> None:
        told.append(text)
        waiting.set()

    def slow(frames: torch.Tensor) -> torch.Tensor:
        if not late:  # a lock is of an open file, so that a thread stands for a process here
            late.append(threading.Thread(target=other.ensure, args=(store.keys, again), kwargs={"progress": hear}))
            late[0].start()
            assert waiting.wait(20)
        return backbone.prefix(frames)

    cache.ensure(store.keys, slow)
    late[0].join(20)
    assert told[0].startswith("waiting for another process") and again.calls == 0
    assert other.missing(store.keys, verify=True) == []


def test_two_stores_read_as_one_have_a_cache_each(store: Store, backbone: Backbone, tmp_path: Path) -> None:
    second = make_store(tmp_path / "second", subjects=2, trials=3, seconds=6.0, seed=7)
    info = json.loads((second / "study.json").read_text())
    (second / "study.json").write_text(json.dumps(info | {"study": "other"}))
    trials = pd.read_parquet(second / "trials.parquet")
    trials.assign(study="other").to_parquet(second / "trials.parquet")
    both = open_stores([store.path, second])
    cache = cache_of(both, backbone)
    cache.ensure(both.keys, backbone.prefix)
    alone = {s.path: cache_of(s, backbone) for s in (store, Store(second))}
    for one in alone.values():  # written once, and read where a store is alone too
        assert one.missing(one.store.keys, verify=True) == []
    seen = set()
    for key in both.keys:
        rows = np.flatnonzero(both.faces(key).found)[[2, 9]]
        own, own_key = both.part(key)
        assert np.array_equal(cache.read(key, rows), alone[own.path].read(own_key, rows))
        seen.add(cache.read(key, rows).tobytes())
    assert len(seen) == len(both.keys) == 4


def test_what_the_disk_cannot_hold_is_refused_before_it_is_written(
    store: Store, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, bags, said = cache_of(store, backbone), Bags(store, configured().data), list[str]()
    need = cache.size(store.keys)
    for free, room in ((caching.MARGIN + need - 1, False), (caching.MARGIN + need, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(10**12, 0, free))
        if room:
            assert cache.ensure(store.keys, backbone.prefix) == need
        else:
            with pytest.raises(NoCache, match=r"it takes 0\.00 GB, and .*store has 1\.00 GB free"):
                cache.ensure(store.keys, backbone.prefix)
            assert not list(store.path.glob("cache/*/*.npy*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 0))
    assert with_cache(configured(), bags, build=True, say=said.append).cache is None
    assert len(said) == 1 and "go on without, slower" in said[0]
    with pytest.raises(UserError, match=r"training\.cache is require: .*takes.*use training\.cache=auto"):
        with_cache(configured(training__cache="require"), bags, build=True)


def test_a_store_that_cannot_be_written_to_is_no_fault(store: Store) -> None:
    (store.path / "cache").write_text("in the way")
    said: list[str] = []
    bags = with_cache(configured(), Bags(store, configured().data), build=True, say=said.append)
    assert bags.cache is None and "cannot be written" in said[0] and "\n" not in said[0]


def test_a_disk_that_somebody_else_fills_gets_its_room_back(store: Store, backbone: Backbone) -> None:
    calls = 0

    def full(frames: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return backbone.prefix(frames)

    with pytest.raises(NoCache, match="No space left"):
        cache_of(store, backbone).ensure(store.keys, full)
    assert calls == 3 and not list(store.path.glob("cache/*/*.part"))


def test_tokens_too_large_for_half_precision_are_not_kept(store: Store, backbone: Backbone) -> None:
    with pytest.raises(NoCache, match="too large for half precision"):
        cache_of(store, backbone).ensure(store.keys, lambda x: backbone.prefix(x) * 1e6)


def test_when_there_is_nothing_to_keep() -> None:
    assert no_use(configured()) == "" and no_use(configured(data__modalities=["eeg"]))
    spec = {"depths": [1, 1]}
    assert "no stage" in no_use(configured(model__trainable_stages="all"))
    views = {"model__trainable_stages": 1, "training__cache_views": 2}
    assert no_use(configured(**views), spec) == "" and "no stage" in no_use(configured(**views), {"depths": [1]})
    assert "afresh" in no_use(configured(model__trainable_stages=1))
    assert no_use(configured(model__trainable_stages=1, training__augment=False)) == ""


def test_views_are_a_function_of_recording_trial_and_number() -> None:
    frames = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    one, two = (fixed_view(frames, "s01", 30, 1) for _ in range(2))
    assert torch.equal(one, two) and fixed_view(frames, "s01", 30, 0) is frames
    assert float(one.min()) >= 0 and float(one.max()) <= 1
    others = [fixed_view(frames, *a) for a in (("s02", 30, 1), ("s01", 60, 1), ("s01", 30, 3), ("s01", 30, 2))]
    assert all(not torch.equal(one, other) for other in others)
    drawn = [drawn_view(0, epoch, index, 3) for epoch in range(8) for index in range(8)]
    assert set(drawn) == {0, 1, 2} and drawn == [drawn_view(0, e, i, 3) for e in range(8) for i in range(8)]
    assert drawn != [drawn_view(1, e, i, 3) for e in range(8) for i in range(8)]


def test_views_are_trained_on_and_answers_are_of_the_plain_one(store: Store) -> None:
    """Whether they come from a cache or from pixels, an epoch sees the same views."""
    config = configured(model__trainable_stages=1, training__cache_views=3)
    pixels = Bags(store, config.data)
    cached = with_cache(config, pixels, build=True)
    assert cached.cache is not None and cached.cache.views == 3
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        model = load_backbone("random:demo", px=64, width=64, trainable_stages=1).eval()
    assert model.prefix_key() == cached.cache.of  # the very weights that a fit would draw
    seen = []
    loaders = [[train_loader(config, b, ROWS) for b in (cached, pixels)]]
    loaders += [[make_loader(b, ROWS, 6) for b in (cached, pixels)]]
    for pair in loaders:
        for (one, _, items), (other, _, _) in zip(*pair, strict=True):
            assert one.prefix is not None and one.frames.shape[-2:] == (0, 0) and other.prefix is None
            with torch.no_grad():
                exact = model(other.frames, other.frame_mask)
                error = (model(one.frames, one.frame_mask, one.prefix) - exact).norm() / exact.norm()
            assert float(error) < HALF
            seen += [(int(i), x.half().numpy().tobytes()) for (_, i), x in zip(items, one.prefix, strict=True)]
    trained, plain = dict(seen[: len(ROWS)]), dict(seen[len(ROWS) :])
    assert 0 < sum(trained[i] != plain[i] for i in trained) < len(ROWS)


def test_guarded_bags_are_read_from_the_cache_and_still_guarded(store: Store) -> None:
    bags = with_cache(configured(), Bags(store, configured().data), build=True)
    guard = Guard(Split(0, ROWS[:6], ROWS[6:9], ROWS[9:]), bags.table)
    view = guard.view("weights", bags)
    ((bag, _, _),) = make_loader(view, ROWS[:6], 6, workers=1)  # travels to another process
    assert bag.prefix is not None and bool(bag.prefix.any())
    with pytest.raises(Exception, match=r"row 9|may not|not see"):
        view.__getitems__([(0, 9)])


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"model__trainable_stages": 1, "training__cache_views": 2, "training__gradients": "kept"},
        {"model__fusion__method": "ensemble"},
    ],
)
def test_a_fit_learns_the_same_with_and_without(asked: dict[str, Any], store: Store, tmp_path: Path) -> None:
    config = configured(**asked)
    pixels = Bags(store, config.data)
    found = []
    for name, bags in (("pixels", pixels), ("cached", with_cache(config, pixels, build=True))):
        guard = Guard(Split(0, ROWS[:8], ROWS[8:], np.zeros(0, dtype=np.int64)), bags.table)
        fit(config, bags, guard, tmp_path / name)
        found.append(predict_bags(tmp_path / name, bags, ROWS)[0])
    np.testing.assert_allclose(found[1], found[0], atol=0.01)
    sure = np.sort(found[0], axis=1)  # (n, classes)
    clear = sure[:, -1] - sure[:, -2] > 0.02  # (n,)
    assert (found[0].argmax(1) == found[1].argmax(1))[clear].all() and clear.any()
    assert not np.array_equal(found[0], found[1])  # it did read the cache


def test_a_cache_of_other_weights_is_left_alone(store: Store, tmp_path: Path) -> None:
    config = configured()
    bags = with_cache(config, Bags(store, config.data), build=True)
    guard = Guard(Split(0, ROWS[:8], ROWS[8:], np.zeros(0, dtype=np.int64)), bags.table)
    other = configured(training__seed=5)
    fit(other, bags, guard, tmp_path / "fit")
    model, _ = load_model(tmp_path / "fit")
    assert suited(bags, model).cache is None
    plain = predict_bags(tmp_path / "fit", bags.with_cache(None), ROWS)[0]
    assert np.array_equal(predict_bags(tmp_path / "fit", bags, ROWS)[0], plain)
    fit(other, bags.with_cache(None), guard, tmp_path / "pixels")
    assert np.array_equal(predict_bags(tmp_path / "pixels", bags, ROWS)[0], plain)  # nor was it learned from


def test_probes_ask_the_same_of_tokens(store: Store, tmp_path: Path) -> None:
    config = configured()
    bags = with_cache(config, Bags(store, config.data), build=True)
    guard = Guard(Split(0, ROWS[:8], ROWS[8:], np.zeros(0, dtype=np.int64)), bags.table)
    fit(config, bags, guard, tmp_path / "fit")
    model, _ = load_model(tmp_path / "fit")
    tables = [run_probes(model, b, ROWS, (TOP, *SHUFFLES), keep=1) for b in (bags, bags.with_cache(None))]
    columns = [c for c in tables[0] if str(c).startswith("prob_")]
    assert (tables[0]["probe"] == tables[1]["probe"]).all() and not tables[0]["unchanged"].all()
    np.testing.assert_allclose(tables[0][columns], tables[1][columns], atol=0.005)


def test_a_probe_puts_in_the_very_frame_that_it_names(store: Store) -> None:
    """Of whatever recording: of pixels and of tokens."""
    pixels = Bags(store, configured().data)
    cached = with_cache(configured(), pixels, build=True)
    assert cached.cache is not None
    first, second = store.keys
    swaps = [[(1, second, 17)], [(0, first, 8), (2, first, 3)]]
    for bags in (pixels, cached):
        before = bags.__getitems__([(0, 0), (0, 1)])
        after = _put_frames(bags, swaps)(before, np.arange(2))
        for b, swap in enumerate(swaps):
            named = {place: (key, row) for place, key, row in swap}
            for place in range(3):
                key, row = named.get(place, (first, int(bags.face_rows[b, 0, place])))
                if bags.cache is None:
                    wanted = torch.tensor(decode_jpeg(store.crop(key, row), 64)).permute(2, 0, 1)
                    assert torch.equal(after.frames[b, 0, place], wanted) or row < 0
                else:
                    assert after.prefix is not None
                    wanted = torch.from_numpy(bags.cache.read(key, np.array([row]))[0])
                    assert torch.equal(after.prefix[b, 0, place], wanted) or row < 0


def test_a_run_builds_it_before_its_fits_and_says_so(store: Store, tmp_path: Path) -> None:
    for epochs, there in ((1, False), (2, True)):
        config = configured(training__epochs=epochs, evaluation__probes=False)
        train(store, config, tmp_path / str(epochs))
        assert bool(list(store.path.glob("cache/*/*.npy"))) == there
        assert ("GB in" in (tmp_path / str(epochs) / "log.txt").read_text()) == there
