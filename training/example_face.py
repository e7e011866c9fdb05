"""The face that ships as an example, drawn by the code that drew the training data.

python training/example_face.py --output examples/face.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import to_rgb
from faces import BACKGROUNDS, make_faces, make_motion, render
from PIL import Image

SEED = 900_013
"""No training part draws from it."""
SIZE = 384
BACKGROUND = "green"


def draw(seed: int, size: int, background: str) -> Image.Image:
    """Mouth closed, eyes open, looking ahead."""
    generator = torch.Generator().manual_seed(seed)
    rest = torch.zeros(1, 24)
    faces = make_faces(torch.tensor([list(BACKGROUNDS).index(background)]), generator)
    motion = make_motion(rest, rest, rest, rest[:, 0], rest[:, 0], generator)
    for values in (motion.x, motion.y, motion.roll, motion.turn, motion.blink):
        values.zero_()
    return Image.fromarray(to_rgb(render(faces, motion[:, :1], size, size)[0])[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--background", choices=BACKGROUNDS, default=BACKGROUND)
    options = parser.parse_args()
    draw(options.seed, options.size, options.background).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
