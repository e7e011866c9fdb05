"""A marked video without a model, in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch

from ltx_a2v import GenerationRequest
from ltx_a2v.marks.marking import Marking
from ltx_a2v.marks.marks import Marks
from ltx_a2v.marks.settings import Made
from ltx_a2v.media.video import VideoWriter
from ltx_a2v.puppet.examples import SPEECH


def write_marked(path: Path, **fields: object) -> Path:
    """As the pipeline marks a video of those `fields`."""
    request = GenerationRequest(prompt="p", audio=SPEECH, output_path=path, **fields)
    video = {"width": request.width, "height": request.height, "num_frames": 9, "frame_rate": request.frame_rate}
    marks = Marks.begin(Marking(reproducible=False), request, Made("a model", video))
    with VideoWriter(path, width=64, height=64, frame_rate=24, audio=None, marks=marks) as writer:
        writer.write(torch.zeros(9, 64, 64, 3, dtype=torch.uint8))
    return path
