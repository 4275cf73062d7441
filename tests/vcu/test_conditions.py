"""Two processes over one window: the selections are the formulas of VACE's composition annotator, in floats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vace_batch.vcu.conditions import Condition, compose, control, extension, repaint, unseen

T, H, W = 5, 2, 3
Array = np.ndarray


def condition(kind: str, seed: int) -> Condition:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (T, H, W, 3), np.uint8)
    if kind == "extension":
        known = rng.random(T) < 0.5
        known[rng.integers(T)] = True
        return extension(frames, known)
    mask = rng.random((T, H, W)) < 0.5
    return repaint(frames, mask) if kind == "repaint" else control(frames, mask)


def floats(one: Condition) -> tuple[Array, Array]:
    """Return the annotator's factors: frames in -1..1 with neutral pixels at 0, and the mask."""
    frames = one.frames_THWC / 255 * 2 - 1
    frames[one.neutral_THW] = 0
    return frames, one.mask_THW[..., None].astype(float)


def second_over_first(f1: Array, m1: Array, f2: Array, m2: Array) -> tuple[Array, Array]:
    return f1 * (1 - m2) + f2 * m2, m1 * (1 - m2) + m2 * m2


def first_says_where(f1: Array, m1: Array, f2: Array, m2: Array) -> tuple[Array, Array]:
    return f2 * m1 + f1 * (1 - m1), m1 * m2


def repaint_says_where(f1: Array, m1: Array, f2: Array, m2: Array) -> tuple[Array, Array]:
    return f1 * (1 - m1) + f2 * m1, m1


Formula = Callable[[Array, Array, Array, Array], tuple[Array, Array]]

FORMULAS: dict[tuple[str, str], Formula] = {
    ("extension", "repaint"): first_says_where,
    ("extension", "control"): first_says_where,
    ("extension", "extension"): first_says_where,
    ("repaint", "extension"): second_over_first,
    ("control", "extension"): second_over_first,
    ("repaint", "repaint"): second_over_first,
    ("control", "control"): second_over_first,
    ("repaint", "control"): repaint_says_where,
    ("control", "repaint"): lambda f1, m1, f2, m2: repaint_says_where(f2, m2, f1, m1),
}


@given(kinds=st.sampled_from(sorted(FORMULAS)), seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)))
@settings(max_examples=120)
def test_a_composition_is_its_formula(kinds: tuple[str, str], seeds: tuple[int, int]) -> None:
    first, second = (condition(kind, seed) for kind, seed in zip(kinds, seeds, strict=True))
    wanted_frames, wanted_mask = FORMULAS[kinds](*floats(first), *floats(second))
    frames, mask = floats(compose(first, second))
    np.testing.assert_allclose(frames, wanted_frames, atol=1e-12)
    np.testing.assert_array_equal(mask, wanted_mask)


@given(seed=st.integers(0, 999))
@settings(max_examples=30)
def test_what_is_kept_is_never_neutral_and_says_what_the_source_says(seed: int) -> None:
    for kind in ("repaint", "extension"):
        one = condition(kind, seed)
        assert not (one.neutral_THW & ~one.mask_THW).any()
        joined = compose(one, condition("control", seed + 1))
        np.testing.assert_array_equal(joined.frames_THWC[~one.mask_THW], one.frames_THWC[~one.mask_THW])


def test_a_control_alone_says_something_everywhere_and_unseen_nothing() -> None:
    frames = condition("repaint", 0).frames_THWC
    assert control(frames).mask_THW.all() and not control(frames).neutral_THW.any()
    assert unseen(frames).mask_THW.all() and unseen(frames).neutral_THW.all()


def test_processes_of_other_shapes_and_kinds_are_refused() -> None:
    one = condition("repaint", 0)
    short = control(one.frames_THWC[:1])
    with pytest.raises(ValueError, match=r"repaint \+ control: expected frames of one shape"):
        compose(one, short)
    with pytest.raises(ValueError, match="process: expected one of repaint, extension, control, got 'fade'"):
        Condition(kind="fade", frames_THWC=one.frames_THWC, mask_THW=one.mask_THW, neutral_THW=one.neutral_THW)
    with pytest.raises(
        ValueError, match=r"repaint mask: expected bool \(5, 2, 3\) like the frames, got bool \(1, 2, 3\)"
    ):
        repaint(one.frames_THWC, one.mask_THW[:1])
