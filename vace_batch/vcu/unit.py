"""The Video Condition Unit (VCU): the input of one VACE window. Axes: T frames, H rows, W columns, C = RGB."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vace_batch.geometry import Size, token_count
from vace_batch.vcu.sampling import ResolvedSampling

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VCU:
    """Text, frames, masks and references of one window; the values alone tell the task.

    frames_THWC   uint8, T = 4n+1, H and W multiples of 16
    mask_THW      bool, True = generate (reactive), False = keep (inactive)
    neutral_THW   bool, True = this pixel says nothing: exactly 0.0 once normalised, which no 8-bit value can say
    references    uint8 (H, W, 3) each, on their canvas, in the order in which they precede the frames
    """

    window_id: str
    frames_THWC: Pixels
    mask_THW: Mask
    neutral_THW: Mask
    references: tuple[Pixels, ...] = ()
    prompt: str = ""
    negative_prompt: str | None = None
    seed: int = 0
    sampling: ResolvedSampling

    def __post_init__(self) -> None:
        frames = self.frames_THWC
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"{self._name} frames: expected uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
        try:
            token_count(self.num_frames, self.size)
        except ValueError as error:
            raise ValueError(f"{self._name} frames: {error}; resize and pad them before the VCU is made") from None
        self._check_masks()
        self._check_references()

    def _check_masks(self) -> None:
        frames = self.frames_THWC
        for name, mask in (("mask", self.mask_THW), ("neutral", self.neutral_THW)):
            if mask.shape != frames.shape[:3] or mask.dtype != np.bool_:
                expected = f"bool {frames.shape[:3]} like the frames"
                raise ValueError(f"{self._name} {name}: expected {expected}, got {mask.dtype} {mask.shape}")

    def _check_references(self) -> None:
        frames = self.frames_THWC
        for number, picture in enumerate(self.references):
            if picture.shape != frames.shape[1:] or picture.dtype != np.uint8:
                expected = f"uint8 {frames.shape[1:]} like a frame (see tasks.fit_reference)"
                got = f"{picture.dtype} {picture.shape}"
                raise ValueError(f"{self._name} reference {number}: expected {expected}, got {got}")

    @property
    def _name(self) -> str:
        return f"VCU {self.window_id}"

    @property
    def num_frames(self) -> int:
        return int(self.frames_THWC.shape[0])

    @property
    def size(self) -> Size:
        return Size(int(self.frames_THWC.shape[2]), int(self.frames_THWC.shape[1]))

    @property
    def num_tokens(self) -> int:
        """Number of transformer tokens of this window, references included."""
        return token_count(self.num_frames, self.size, len(self.references))

    @property
    def shape_key(self) -> str:
        """A key that is equal for VCUs whose tensors can be stacked."""
        return _shape_key(self.size, self.num_frames, len(self.references))

    @property
    def batch_key(self) -> str:
        """A key that is equal for VCUs that one forward can take: equal shapes and equal sampling."""
        return batch_key(self.size, self.num_frames, len(self.references), self.sampling)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays as they are sent to another process."""
        pictures = sum(picture.nbytes for picture in (self.frames_THWC, *self.references))
        return pictures + 2 * -(-self.mask_THW.size // 8)

    @property
    def inactive_is_neutral(self) -> bool:
        """Whether all kept pixels are neutral, so that their latent is the constant of the neutral video."""
        return not bool((~self.mask_THW & ~self.neutral_THW).any())

    @property
    def reactive_is_neutral(self) -> bool:
        """Whether all pixels under the mask are neutral, so that their latent is the constant of the neutral video."""
        return not bool((self.mask_THW & ~self.neutral_THW).any())

    def __reduce__(self) -> tuple[Any, ...]:
        """Send masks as bits: an eighth of their size in memory."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("mask_THW", "neutral_THW")}
        return _unpack, (fields, np.packbits(self.mask_THW), np.packbits(self.neutral_THW))


def batch_key(size: Size, num_frames: int, num_references: int, sampling: ResolvedSampling) -> str:
    """Return a key that is equal for windows that one forward can take together: equal shapes and equal sampling."""
    settings = [f"{name}={value}" for name, value in asdict(sampling).items()]
    return " ".join([_shape_key(size, num_frames, num_references), *settings])


def _shape_key(size: Size, num_frames: int, num_references: int) -> str:
    return f"{size}x{num_frames}+{num_references}"


def _unpack(fields: dict[str, Any], mask: Pixels, neutral: Pixels) -> VCU:
    shape = fields["frames_THWC"].shape[:3]
    count = int(np.prod(shape))
    mask_THW, neutral_THW = (np.unpackbits(bits, count=count).view(np.bool_).reshape(shape) for bits in (mask, neutral))
    return VCU(**fields, mask_THW=mask_THW, neutral_THW=neutral_THW)
