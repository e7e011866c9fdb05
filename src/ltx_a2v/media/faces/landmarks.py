"""How far the mouth of a photographed or filmed face is open, by the landmarks of its lips.

Two small networks of MediaPipe run on a CPU (see NOTICE): one finds the face, the other its 468 landmarks in a square
around it. In the next frame the square follows the landmarks, so the first network runs only where a face was lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ltx_a2v.errors import MissingExtra

Array = npt.NDArray[np.float32]

EXTRA = "sync"
FOLDER = Path(__file__).parent
DETECTOR, LANDMARKER = FOLDER / "face_detection_short_range.tflite", FOLDER / "face_landmark.tflite"
DETECTOR_SIZE, LANDMARKER_SIZE = 128, 192
ANCHORS = ((16, 2), (8, 6))
"""Of the detector: cells per side, and anchors in each cell."""
FOUND = 0.5
"""Probability from which a face counts."""
MARGIN = 1.5
"""Side of the cut square, of the face's longer side: as the landmark network was trained."""
EYE_CORNERS = (33, 263)
INNER_LIPS = ((82, 87), (13, 14), (312, 317))
"""Upper and lower landmark, at three places across the mouth."""


@dataclass(frozen=True)
class Square:
    """A cut of a picture, in its pixels; turned so that the eyes are level."""

    x: float
    y: float
    """Its middle."""
    side: float
    angle: float
    """Radians, clockwise as seen."""

    def cut(self, picture: Image.Image, size: int) -> Array:
        """float32 [1, size, size, 3] in 0..1; black outside of the picture."""
        step = self.side / size
        a, b = math.cos(self.angle) * step, math.sin(self.angle) * step
        half = size / 2
        corners = (a, -b, self.x - (a - b) * half, b, a, self.y - (a + b) * half)
        cut = picture.transform((size, size), Image.Transform.AFFINE, corners, Image.Resampling.BILINEAR)
        values: Array = np.asarray(cut, np.float32)[None] / np.float32(255)
        return values

    def placed(self, points: Array, size: int) -> Array:
        """[N, 2 or 3] in pixels of the cut -> in those of the picture."""
        step = self.side / size
        moved = points * step
        x, y = moved[:, 0] - self.side / 2, moved[:, 1] - self.side / 2
        moved[:, 0] = self.x + x * math.cos(self.angle) - y * math.sin(self.angle)
        moved[:, 1] = self.y + x * math.sin(self.angle) + y * math.cos(self.angle)
        return moved


class FaceMeter:
    """Follows the largest face through the frames of one video."""

    def __init__(self) -> None:
        """Raises `MissingExtra` where the networks' runtime is not installed."""
        self._detector, self._landmarker = _network(DETECTOR), _network(LANDMARKER)
        self._anchors = _anchors()
        self._followed: Square | None = None

    def opening(self, frame: npt.NDArray[np.uint8]) -> float:
        """uint8 [H, W, 3] -> the gap between the lips, of the distance between the eyes' outer corners; NaN without a
        face."""
        points = self.landmarks(Image.fromarray(frame))
        if points is None:
            return math.nan
        eyes = np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]])
        gaps = [np.linalg.norm(points[above] - points[below]) for above, below in INNER_LIPS]
        return float(np.mean(gaps) / max(eyes, 1e-6))

    def landmarks(self, picture: Image.Image) -> Array | None:
        """[468, 3] in the picture's pixels, the depth in the same unit; None without a face."""
        followed = self._landmarks_in(picture, self._followed) if self._followed else None
        if followed is None and (found := self._find(picture)) is not None:
            followed = self._landmarks_in(picture, found)
        self._followed = None if followed is None else _around(followed)
        return followed

    def _landmarks_in(self, picture: Image.Image, square: Square) -> Array | None:
        points, presence = self._landmarker(square.cut(picture, LANDMARKER_SIZE))
        if _probability(float(presence.reshape(-1)[0])) < FOUND:
            return None
        return square.placed(points.reshape(-1, 3), LANDMARKER_SIZE)

    def _find(self, picture: Image.Image) -> Square | None:
        """The square around the largest face."""
        width, height = picture.size
        whole = Square(width / 2, height / 2, max(width, height), 0.0)
        boxes, scores = self._detector(whole.cut(picture, DETECTOR_SIZE) * 2 - 1)
        probabilities = 1 / (1 + np.exp(-scores.reshape(-1).clip(-50, 50)))
        sizes = boxes[0, :, 2:4].max(axis=1)
        best = int(np.argmax(np.where(probabilities >= FOUND, sizes * probabilities, -1.0)))
        if probabilities[best] < FOUND:
            return None
        # middle, size, and the two eyes, relative to the anchor
        box = boxes[0, best]
        points = np.stack([box[0:2], box[4:6], box[6:8]]) + self._anchors[best] * DETECTOR_SIZE
        middle, one, other = whole.placed(points.astype(np.float32), DETECTOR_SIZE)
        side = float(sizes[best]) / DETECTOR_SIZE * whole.side
        return Square(float(middle[0]), float(middle[1]), MARGIN * side, _slope(one, other))


def _around(points: Array) -> Square:
    """The square around a face's landmarks, for the next frame."""
    angle = _slope(points[EYE_CORNERS[0]], points[EYE_CORNERS[1]])
    along = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turned = points[:, :2] @ along
    least, most = turned.min(axis=0), turned.max(axis=0)
    middle = along @ ((least + most) / 2)
    return Square(float(middle[0]), float(middle[1]), MARGIN * float((most - least).max()), angle)


def _slope(one: Array, other: Array) -> float:
    return math.atan2(float(other[1] - one[1]), float(other[0] - one[0]))


def _anchors() -> Array:
    """[896, 2]: the middles of the detector's cells, in 0..1, row by row."""
    middles = []
    for cells, count in ANCHORS:
        at = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
        middles.append(grid.repeat(count, axis=0))
    return np.concatenate(middles).astype(np.float32)


def _probability(score: float) -> float:
    return 1 / (1 + math.exp(-min(max(score, -50.0), 50.0)))


def is_installed() -> bool:
    from importlib.util import find_spec

    return find_spec("ai_edge_litert") is not None


def _network(path: Path) -> Any:
    """A function from the network's input to its outputs, in the file's order."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingExtra("Measuring the sync of a real face", EXTRA) from None
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    outputs = interpreter.get_output_details()

    def run(values: Array) -> list[Array]:
        interpreter.set_tensor(given["index"], np.ascontiguousarray(values, np.float32))
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in outputs]

    return run
