"""Control videos: their pictures, which are equal wherever a frame is shown."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.choices import CONTROL_NETWORKS
from vace_batch.vcu.controls import draw, networks
from vace_batch.vcu.controls.models import ControlModels
from vace_batch.vcu.controls.videos import LAYOUTS, SIMPLE, Scale, Source, control_video, measure, simple_control

SIZE = Size(96, 64)
WHOLE = Box(0, 0, 96, 64)


def source(frames: list[np.ndarray], **change: object) -> Source:
    fields = {"frames": frames, "size": SIZE, "box": WHOLE, "model_size": SIZE}
    return Source(**fields | change)  # type: ignore[arg-type]


def moving(count: int, step: int = 2) -> list[np.ndarray]:
    """A picture that slides to the left."""
    return [np.ascontiguousarray(astronaut()[100:164, 150 + step * n : 246 + step * n]) for n in range(count)]


def test_gray_is_gray_and_plain_the_frames_themselves() -> None:
    frames = np.stack(moving(3))
    gray = simple_control("gray", frames)
    assert (gray == gray[..., :1]).all() and gray[..., 0].std() > 20
    assert simple_control("plain", frames) is frames
    with pytest.raises(ValueError, match="control: expected one of gray, scribble, plain, got 'depth'"):
        simple_control("depth", frames)


def test_scribble_draws_dark_lines_on_white_only_where_there_are_edges() -> None:
    frames = np.full((1, 64, 64, 3), 90, np.uint8)
    frames[:, :, 32:] = 200
    drawn = simple_control("scribble", frames)[0, :, :, 0]
    assert (drawn[:, :24] == 255).all() and (drawn[:, 40:] == 255).all()
    assert drawn[32, 28:36].min() < 100


def test_scribble_of_a_frame_does_not_depend_on_the_other_frames() -> None:
    frames = np.stack(moving(4))
    np.testing.assert_array_equal(simple_control("scribble", frames[:1])[0], simple_control("scribble", frames)[0])


def test_flow_has_the_colour_of_its_direction_and_white_where_nothing_moves() -> None:
    frames = moving(3)
    scale = measure("flow", [(frames[0], frames[1]), (frames[1], frames[2])], None)
    assert scale is not None and scale.high == pytest.approx(100 * 2 / 96, rel=0.2)
    left = control_video("flow", source(frames), scale=scale)[1]
    right = control_video("flow", source(frames[::-1]), scale=scale)[1]
    middle = np.s_[16:48, 24:72]
    assert np.abs(left[middle].mean((0, 1)) - right[middle].mean((0, 1))).max() > 60
    still = control_video("flow", source(frames[:1] * 3), scale=scale)
    assert still.min() > 240


def test_flow_is_scaled_by_the_shot_and_not_by_the_frame() -> None:
    fast, slow = moving(2, step=4), moving(2, step=1)
    scale = Scale(low=0.0, high=100 * 4 / 96)
    saturation = [
        float(np.ptp(control_video("flow", source(frames), scale=scale)[1][16:48, 24:72].mean((0, 1))))
        for frames in (fast, slow)
    ]
    assert saturation[0] > 2 * saturation[1] > 0


def test_flow_of_a_frame_is_the_same_behind_a_lead_and_within_a_window() -> None:
    frames = moving(5)
    scale = Scale(low=0.0, high=2.0)
    whole = control_video("flow", source(frames), scale=scale)
    later = control_video("flow", source(frames[1:], lead=True), scale=scale)
    assert len(whole) == 5 and len(later) == 3
    np.testing.assert_array_equal(later, whole[2:])
    np.testing.assert_array_equal(whole[0], whole[1])


def test_flow_of_a_still_shot_is_not_blown_up_to_noise() -> None:
    frame = moving(1)[0]
    scale = measure("flow", [(frame, frame)], None)
    assert scale is not None and scale.high >= 0.2
    assert control_video("flow", source([frame]), scale=scale).min() == 255


def test_flow_knows_no_more_than_its_fastest_colour() -> None:
    flow = np.zeros((4, 4, 2), np.float32)
    flow[..., 0] = 9
    flow[0, 0] = (3, 0)
    drawn = draw.flow_picture(flow, 3.0)
    assert drawn.shape == (4, 4, 3)
    np.testing.assert_array_equal(drawn[1, 1], drawn[0, 0])


@given(left=st.integers(0, 40), top=st.integers(0, 20), width=st.integers(16, 48), height=st.integers(16, 40))
@settings(max_examples=40)
def test_a_crop_of_a_control_shows_what_the_crop_of_the_frame_shows(
    left: int, top: int, width: int, height: int
) -> None:
    y, x = np.mgrid[:64, :96]
    ramp = np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8)
    box = Box(left, top, width, height)
    same = draw.cropped(ramp, SIZE, box, box.size)
    np.testing.assert_array_equal(same, ramp[box.slices])
    doubled = draw.cropped(ramp, SIZE, box, Size(2 * width, 2 * height)).astype(int)
    assert np.abs(doubled[1:-1:2, 1:-1:2] - ramp[box.slices].astype(int)[: height - 1, : width - 1]).max() <= 3
    small = cv2.resize(ramp, (48, 32), interpolation=cv2.INTER_AREA)
    again = draw.cropped(small, SIZE, box, box.size).astype(int)
    assert np.abs(again - ramp[box.slices])[2:-2, 2:-2].max() <= 4


def test_layout_keeps_an_objects_colour_wherever_it_is() -> None:
    first = draw.layout(SIZE, [(1, Box(4, 4, 20, 20)), (2, Box(50, 30, 20, 20))])
    second = draw.layout(SIZE, [(2, Box(10, 10, 30, 30))])
    assert tuple(first[30, 60]) == tuple(second[10, 25]) == draw.object_colour(2)
    assert tuple(first[4, 10]) == draw.object_colour(1) != draw.object_colour(2)
    assert (first[40, 60] == 255).all()


PERSON = np.zeros((17, 3), np.float32)
PERSON[:, 2] = 1
PERSON[:, :2] = [
    (48, 8), (50, 6), (46, 6), (52, 8), (44, 8), (56, 20), (40, 20), (60, 30), (36, 30), (62, 40), (34, 40),
    (53, 40), (43, 40), (53, 50), (43, 50), (53, 60), (43, 60),
]  # fmt: skip


def test_a_skeleton_has_openpose_points_on_black_and_leaves_out_what_is_not_seen() -> None:
    drawn = networks.skeletons(SIZE, PERSON[None])
    assert tuple(drawn[8, 48]) == (255, 0, 0), "the nose"
    assert tuple(drawn[20, 48]) == (255, 85, 0), "the neck, which COCO has not"
    assert (drawn[:, 70:] == 0).all() and (drawn[:, :28] == 0).all()
    hidden = PERSON.copy()
    hidden[[15, 16], 2] = 0.1
    assert (networks.skeletons(SIZE, hidden[None])[55:] == 0).all() and drawn[55:].any()
    assert not networks.skeletons(SIZE, np.zeros((0, 17, 3), np.float32)).any()


def test_pose_draws_faces_as_white_dots_and_pose_body_does_not() -> None:
    whole = np.zeros((1, networks.WHOLE_BODY, 3), np.float32)
    whole[0, :17] = PERSON
    whole[0, 23:91] = [(70 + number % 8, 10 + number // 8, 1) for number in range(68)]
    whole[0, 91:] = (10, 10, 1)  # hands, which VACE's pose leaves out
    body, face = (networks.skeletons(SIZE, whole, faces=faces) for faces in (False, True))
    assert (face[10:18, 70:78] == 255).all() and not body[:, 66:].any()
    assert (face[:, :66] == body[:, :66]).all() and not face[5:15, 5:15].any()
    whole[0, 23:91, 2] = 0.1
    assert (networks.skeletons(SIZE, whole, faces=True) == body).all()


class _Ramp(networks.Estimator):
    """Depth by a rule instead of weights: brighter is nearer."""

    def __init__(self) -> None: ...

    def nearness(self, rgb_HWC: np.ndarray) -> np.ndarray:
        return rgb_HWC[..., 0].astype(np.float32) / 255


def test_depth_is_scaled_by_the_shot_and_not_by_the_frame() -> None:
    dark, bright = (np.full((64, 96, 3), level, np.uint8) for level in (50, 200))
    network = _Ramp()
    scale = measure("depth", [(dark, dark), (bright, bright)], network)
    assert scale is not None
    video = control_video("depth", source([dark, bright]), scale=scale, network=network)
    assert video[0].max() < 10 and video[1].min() > 245
    with pytest.raises(ValueError, match="without the scale, network or layout"):
        control_video("depth", source([dark]), network=network)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Untrained weights of ultralytics' own architectures: real loading code, meaningless estimates."""
    from vace_batch.masks.detectors.yolo import import_ultralytics

    import_ultralytics()
    import torch
    from ultralytics import YOLO
    from ultralytics.nn.tasks import PoseModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    made = {}
    for kind in ("depth", "pose", "seg"):
        made[kind] = str(folder / f"yolo26n-{kind}.pt")
        YOLO(f"yolo26n-{kind}.yaml").save(made[kind])
    made["whole"] = str(folder / "whole.pt")
    whole = YOLO("yolo26n-pose.yaml")
    whole.model = PoseModel("yolo26n-pose.yaml", data_kpt_shape=(networks.WHOLE_BODY, 3), verbose=False)
    whole.model.task = "pose"
    whole.save(made["whole"])
    return made


def test_depth_and_pose_weights_of_ultralytics_load_and_draw(weights: dict[str, str]) -> None:
    models = ControlModels(depth=weights["depth"], pose=weights["pose"])
    frame = moving(1)[0]
    depth = models.load("depth", None)
    near = depth.nearness(frame)
    assert near.shape == (64, 96) and np.isfinite(near).all() and near.min() > 0
    scale = measure("depth", [(frame, frame)], depth)
    assert control_video("depth", source([frame]), scale=scale, network=depth).shape == (1, 64, 96, 3)
    pose = models.load("pose_body", None)
    assert pose.people(frame).shape[1:] == (17, 3)
    assert control_video("pose_body", source([frame]), network=pose).shape == (1, 64, 96, 3)
    with pytest.raises(ClipError, match="see bodies alone, and the control pose draws faces too: ask for pose_body"):
        models.load("pose", None)
    whole = ControlModels(pose=weights["whole"])
    assert whole.load("pose_body", None).sees_faces
    assert control_video("pose", source([frame]), network=whole.load("pose", None)).shape == (1, 64, 96, 3)


def test_weights_of_another_kind_and_weights_that_are_not_there_are_refused(
    weights: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ClipError, match="expected a depth model, got segment"):
        ControlModels(depth=weights["seg"]).load("depth", None)
    with pytest.raises(ClipError, match="control depth needs weights"):
        ControlModels().load("depth", None)
    with pytest.raises(ClipError, match="are not allowed"):
        ControlModels(folders=(str(tmp_path),)).load("pose", weights["pose"])
    assert ControlModels().weights_of(("depth", "gray"), None) == {}
    known = ControlModels(pose=weights["pose"]).weights_of(("pose", "flow"), None)
    assert known == {"control_weights.pose": weights["pose"]}
    assert set(CONTROL_NETWORKS) | set(SIMPLE) | set(LAYOUTS) | {"flow"} == set(_all_controls())


def _all_controls() -> tuple[str, ...]:
    from vace_batch.manifest.choices import CONTROLS

    return CONTROLS
