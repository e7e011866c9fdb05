"""A video file to frames, for measuring what was made."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from ltx_a2v.errors import InvalidInput


def read_frames(path: Path) -> Tensor:
    """Every frame: uint8 [F, H, W, 3]. Raises `InvalidInput` where the file holds none."""
    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise InvalidInput(f"{path} cannot be read as a video; give an mp4.") from error
    if not frames:
        raise InvalidInput(f"{path} holds no frame; give another video.")
    return torch.from_numpy(np.stack(frames))
