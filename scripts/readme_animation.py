"""Make the README's animated picture from the demo's own video.

.venv/bin/ltx-a2v demo --output-path demo.mp4
.venv/bin/python scripts/readme_animation.py demo.mp4 docs/images/demo.webp
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from ltx_a2v.media.contact_sheet import sound_graph
from ltx_a2v.media.read_video import read_frames
from ltx_a2v.media.sound.prepare import load_audio

EVERY = 2
"""12 frames per second of 24."""
LIMIT = 2_000_000
"""Bytes."""
GRAPH = 56
"""Height of the sound below the picture."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("animation", type=Path)
    parser.add_argument("--quality", type=int, default=75)
    parser.add_argument("--frame-rate", type=float, default=24.0)
    options = parser.parse_args()
    frames = read_frames(options.video)
    sound = load_audio(options.video, 0.0, len(frames) / options.frame_rate)
    graph = sound_graph(frames, sound.waveform, sound.sample_rate, options.frame_rate, frames.shape[2], GRAPH)
    pictures = [
        _with_graph(Image.fromarray(frame.numpy()), graph, index / len(frames)) for index, frame in enumerate(frames)
    ][::EVERY]
    pictures[0].save(
        options.animation,
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 * EVERY / options.frame_rate),
        loop=0,
        quality=options.quality,
        method=6,
    )
    size = options.animation.stat().st_size
    sys.stderr.write(f"{options.animation}: {len(pictures)} frames, {size} bytes\n")
    return 0 if size < LIMIT else 1


def _with_graph(picture: Image.Image, graph: Image.Image, passed: float) -> Image.Image:
    """The picture above the sound, with a line where in the sound it is."""
    both = Image.new("RGB", (picture.width, picture.height + graph.height))
    both.paste(picture, (0, 0))
    both.paste(graph, (0, picture.height))
    x = round(passed * picture.width)
    ImageDraw.Draw(both).line((x, picture.height, x, both.height), fill="black")
    return both


if __name__ == "__main__":
    sys.exit(main())
