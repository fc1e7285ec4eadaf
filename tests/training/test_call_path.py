"""The path from the command line to the update of the weights is short enough to read."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import tunesmith
from tunesmith.cli import main

PACKAGE = Path(tunesmith.__file__).parent
MAX_FRAMES, MAX_GENERATORS, MODULES = 8, 1, range(4, 7)


class ReachedError(Exception):
    """The update of the weights was reached."""


def own_frames(innermost: FrameType | None) -> list[FrameType]:
    """The frames of this package from `main` down to a frame."""
    frames: list[FrameType] = []
    while innermost is not None:
        frames.insert(0, innermost)
        innermost = innermost.f_back
    own = [frame for frame in frames if Path(frame.f_code.co_filename).is_relative_to(PACKAGE)]
    return own[next(index for index, frame in enumerate(own) if frame.f_code.co_name == "main") :]


def test_the_path_to_an_update(
    tmp_path: Path, make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 8 own frames in 4 to 6 modules from `main` to `optimizer.step()`, and one of them a generator."""
    frames: list[FrameType] = []

    def reached(*_arguments: Any, **_options: Any) -> None:
        frames.extend(own_frames(inspect.currentframe()))
        raise ReachedError

    monkeypatch.setattr(torch.optim.AdamW, "step", reached)
    text = tmp_path / "text.txt"
    text.write_text("".join(f"night {number} of wind and lamp\n" for number in range(40)), "utf-8")
    command = ["train", str(text), "--model", str(make_model_folder()), "--out", str(tmp_path / "out")]
    with suppress(ReachedError):
        main([*command, "--split-on", "line", "--device", "cpu", "--max-steps", "1", "--quiet"])
    modules = {Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix() for frame in frames}
    generators = [frame for frame in frames if frame.f_code.co_flags & inspect.CO_GENERATOR]
    for frame in frames:
        where = f"{Path(frame.f_code.co_filename).relative_to(PACKAGE)}:{frame.f_lineno}"
        print(where, frame.f_code.co_qualname)  # noqa: T201  shown when the test fails
    assert 0 < len(frames) <= MAX_FRAMES
    assert len(modules) in MODULES
    assert len(generators) <= MAX_GENERATORS
