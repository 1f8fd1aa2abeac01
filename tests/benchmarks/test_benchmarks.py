"""The published design is as large as it was; ratios are of paired repeats; all of it runs at tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.published import Published, quick_linear
from benchmarks.rivals import Rival, answering, learning, tiny_scale
from benchmarks.table import Row, timed_row, to_markdown
from benchmarks.timing import Ratio, Times, growth, interleaved, ratio_of

from benchmarks import counting, gpu, memory, run, training


def test_the_published_design_has_the_parameters_that_were_counted() -> None:
    with torch.device("meta"):
        net = Published()
    count = sum(p.numel() for p in net.parameters())
    assert abs(count - 1_458.5e6) < 0.5e6
    assert net.scorer.weight.shape == (37_632, 37_632)


def test_the_published_design_learns_and_its_scorer_does_not() -> None:
    scale = tiny_scale()
    net = Published(scale.published)
    before = net.scorer.weight.detach().clone()
    step = learning(Rival("published", "published", 4), scale, net)
    net.train(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    frames, eeg = torch.randn(4, 10, 3, 64, 64), torch.randn(4, 32, 384)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(frames, eeg), torch.arange(4))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert net.scorer.weight.grad is None
    step()
    assert torch.equal(net.scorer.weight, before)


def test_a_quick_layer_has_no_page_in_common() -> None:
    layer = quick_linear(200)
    assert layer.weight.is_contiguous() and layer.weight.abs().amin(1).gt(0).all()
    assert torch.equal(layer.weight[0], layer.weight[64])


class Clock:
    """Time passes only where something runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def task(self, seconds: list[float]) -> object:
        left = iter(seconds)

        def run() -> None:
            self.now += next(left)

        return run


def test_rivals_run_in_turn_and_ratios_are_of_pairs() -> None:
    clock = Clock()
    slow, fast = clock.task([9.0, 2.0, 8.0, 4.0]), clock.task([9.0, 1.0, 2.0, 1.0])
    found = interleaved({"slow": (slow, 2.0), "fast": (fast, 1.0)}, 3, clock=clock, processor=clock)  # type: ignore[dict-item]  # made above
    assert found["slow"].wall == [1.0, 4.0, 2.0]
    assert found["fast"].wall == [1.0, 2.0, 1.0]
    ratio = ratio_of(found["slow"].wall, found["fast"].wall)
    assert (ratio.median, ratio.low, ratio.high, ratio.repeats) == (2.0, 1.0, 2.0, 3)


def test_a_quick_call_is_repeated_until_it_can_be_timed() -> None:
    clock = Clock()
    calls = []

    def run() -> None:
        calls.append(1)
        clock.now += 0.01

    found = interleaved({"only": (run, 1.0)}, 1, clock=clock, processor=clock)
    assert len(calls) == 1 + 5
    assert found["only"].wall == [pytest.approx(0.01)]


def test_ratios_want_pairs() -> None:
    with pytest.raises(ValueError, match="as many of both"):
        ratio_of([1.0, 2.0], [1.0])


def test_growth_finds_the_line_and_says_where_there_is_none() -> None:
    sizes = [1, 2, 4, 8]
    fixed, each, worst = growth(sizes, [3.0 + 2.0 * n for n in sizes])
    assert (fixed, each) == (pytest.approx(3.0), pytest.approx(2.0)) and worst < 1e-9
    assert growth(sizes, [float(n**2) for n in sizes])[2] > 0.3


def test_a_row_says_whether_its_target_is_reached() -> None:
    times, base = Times([1.0, 1.0], [1.0, 1.0]), Times([3.0, 5.0], [3.0, 5.0])
    assert timed_row("s", "x", "-", times, base, 4.0).reached is True
    assert timed_row("s", "x", "-", times, base, 4.1).reached is False
    assert timed_row("s", "x", "-", None, base, 4.0).reached is None
    text = to_markdown([timed_row("s", "x", "k=1", times, base, 4.1), Row("s", "y", value=None)])
    assert "| 4x (3 to 5); work 4x | 4.1x | **no** |" in text and "not measured" in text


def test_operations_and_bytes_are_counted() -> None:
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    found = counting.count(lambda: (a @ b).t(), {torch.float32: 1e3}, bandwidth=1e9)
    assert (found.kernels, found.flops, found.bytes) == (1, 2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4))
    assert found.bound == pytest.approx(found.flops / 1e3)


def test_a_switch_without_effect_is_not_measured() -> None:
    assert "changes nothing" in training.lacks(Rival("x", "default", 1, ("training.patience=3",)))
    assert training.lacks(Rival("x", "default", 1, ("training.precision=bf16",))) == ""


def test_peaks_are_of_one_rival_alone() -> None:
    held = np.ones(150_000_000, np.uint8)  # the child must not begin with what its parent holds
    found = memory.measure(Rival("default", "default", 1), "inference", 1, tiny=True)
    assert held.sum() and found["imports"] < found["peak"] < memory.peak_bytes() + 150e6


def test_a_frame_that_is_embedded_is_not_embedded_again() -> None:
    scale = tiny_scale()
    whole, rest = (counting.count(answering(Rival("", "default", given=g), scale)).flops for g in ("pixels", "tokens"))
    assert rest < 0.5 * whole


def test_the_command_writes_figures_and_leaves_the_words_around_them(tmp_path: Path) -> None:
    page = tmp_path / "figures.md"
    page.write_text(f"# Mine\n\n{run.BEGIN}\nold\n{run.END}\n\nafter\n")
    run.main(["--quick", "--only", "inference", "--threads", "1", "--out", str(tmp_path / "figures")])
    text = page.read_text()
    assert text.startswith("# Mine") and text.endswith("after\n") and "old" not in text and "### Inference" in text
    run.main(["--quick", "--only", "bounds", "--threads", "1", "--merge", "--out", str(tmp_path / "figures")])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert set(found["rows"]) == {"inference"} and found["bounds"]["scorer_gb"] > 0
    ratios = [r["ratio"] for r in found["rows"]["inference"] if r["ratio"]]
    assert ratios and all(Ratio(**r).low <= Ratio(**r).median <= Ratio(**r).high for r in ratios)


def test_without_a_gpu_the_gpu_part_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    assert "skipped" in capsys.readouterr().out


def test_the_gpu_part_runs_on_any_device() -> None:
    found = gpu.measure("cpu", 2, 1, tiny=True)
    assert found["rows"][0]["samples_per_second"] > 0 and found["rows"][0]["share_of_matmul"] > 0
    assert found["loader"][0]["times_what_is_taken"] > 0
    assert "samples/s" in gpu.to_markdown(found)


def test_every_training_row_changes_what_is_computed() -> None:
    entered = [rival for rival, _ in training.rivals("default", 1)]
    assert {rival.words(): training.lacks(rival) for rival in entered} == {rival.words(): "" for rival in entered}
