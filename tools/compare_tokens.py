"""Channel, band-power and temporal EEG tokens on questions with a known answer: a power, and a fixed phase.

Usage: python tools/compare_tokens.py (--help shows options; prints the Markdown table of docs/eeg-tokens.md).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch
from torch import Tensor, nn

from milmer.models.bag import Bag
from milmer.models.eeg import EEGTokens, make_eeg_tokens

RATE, SAMPLES, CHANNELS, WIDTH, TEST = 128.0, 384, 4, 32, 300
KINDS = ("channel", "bandpower", "temporal")
# Sizes of the oscillation in standard deviations of the background: chosen so that no question is trivial or hopeless.
QUESTIONS = {
    "power at 10 Hz": ("power", 0.3),
    "power at 8-13 Hz": ("wandering power", 0.3),
    "phase at 10 Hz": ("phase", 0.15),
}


def draw(what: str, size: float, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make windows of 1/f background with 10 Hz in them: volts (n, 1, C, S) and class (n,).

    power: class 1 has the oscillation, at a phase of its own in every channel and window, class 0 none.
    wandering power: so too, at a frequency of its own in every window.
    phase: both have it at the same phase in every window and channel, class 1 upside down.
    """
    shape = torch.fft.rfftfreq(SAMPLES, 1 / RATE).clamp_min(1).rsqrt()  # (S/2 + 1,)
    white = torch.fft.rfft(torch.randn(n, 1, CHANNELS, SAMPLES, generator=random))  # (n, 1, C, S/2 + 1)
    ground = torch.fft.irfft(white * shape, SAMPLES)  # (n, 1, C, S)
    y = torch.randint(0, 2, (n,), generator=random)  # (n,)
    phase = 2 * math.pi * torch.rand(n, 1, CHANNELS, 1, generator=random)  # (n, 1, C, 1)
    sign = (2 * y - 1).float()[:, None, None, None]  # (n, 1, 1, 1)
    turned, how = (torch.zeros(1), sign) if what == "phase" else (phase, (sign + 1) / 2)
    hz = 8 + 5 * torch.rand(n, 1, 1, 1, generator=random) if what == "wandering power" else 10.0  # (n, 1, 1, 1)
    wave = how * math.sqrt(2) * torch.sin(2 * math.pi * hz * torch.arange(SAMPLES) / RATE + turned)  # (n, 1, C, S)
    return 1e-5 * (ground / ground.std() + size * wave), y


def as_bag(eeg: Tensor) -> Bag:
    angle = 2 * math.pi * torch.arange(CHANNELS) / CHANNELS  # (C,)
    places = torch.stack([0.8 * angle.sin(), 0.8 * angle.cos(), torch.full((CHANNELS,), 0.6)], dim=-1)  # (C, 3)
    return Bag.of(eeg=eeg, positions=places.expand(len(eeg), -1, -1)).settled()


def accuracy(kind: str, question: str, seed: int, trials: int, epochs: int) -> float:
    """Fit tokens and a linear head over their mean (the head alone, with 0 `epochs`); accuracy on new windows."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    tokens: EEGTokens = make_eeg_tokens(kind, WIDTH, n_times=SAMPLES, sfreq=RATE)
    head = nn.Linear(WIDTH, 2)
    eeg, y = draw(*QUESTIONS[question], trials, random)
    bag = as_bag(eeg)
    tokens.fit([bag])
    test_eeg, test_y = draw(*QUESTIONS[question], TEST, random)
    test = as_bag(test_eeg)
    if epochs == 0:
        with torch.inference_mode():
            x, test_x = tokens(bag).mean(), tokens(test).mean()  # (n, D), (TEST, D)
        return logistic(x.clone(), y, test_x.clone(), test_y)
    optimizer = torch.optim.AdamW([*tokens.parameters(), *head.parameters()], 5e-3, weight_decay=0.01)
    for _ in range(epochs):
        for rows in torch.randperm(trials, generator=random).split(40):
            loss = nn.functional.cross_entropy(head(tokens(bag[rows]).mean()), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.inference_mode():
        return float((head(tokens(test).mean()).argmax(1) == test_y).float().mean())


def logistic(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x.numpy(), y.numpy())
    return float(model.score(test_x.numpy(), test_y.numpy()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=120, help="training windows")
    parser.add_argument("--epochs", type=int, default=10, help="where tokens are fitted too")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| tokens | what is fitted | " + " | ".join(QUESTIONS) + " |")
    print("|---|---|" + "---|" * len(QUESTIONS))
    for kind in asked.kinds:
        for epochs in (0, asked.epochs):
            cells = []
            for question in QUESTIONS:
                found = [100 * accuracy(kind, question, seed, asked.trials, epochs) for seed in range(asked.seeds)]
                cells.append(f"{statistics.mean(found):.0f} ± {statistics.stdev(found):.0f}")
            print(
                f"| {kind} | {'tokens and head' if epochs else 'head alone'} | " + " | ".join(cells) + " |", flush=True
            )
    print(f"\n{asked.seeds} seeds, {asked.trials} training and {TEST} test windows, {time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
