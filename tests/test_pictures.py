"""Several pictures: how they are given, which mistakes are found, and that plans count their tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.errors import InvalidRequest
from ltx_a2v.events import Done
from ltx_a2v.request import Picture
from ltx_a2v.settings.loading import LoadOptions
from tests.conftest import ROOT

ROBOT = ROOT / "examples" / "robot.png"


@pytest.mark.parametrize(
    ("given", "picture"),
    [
        ("face.png", Picture(file=Path("face.png"))),
        ("face.png:24", Picture(file=Path("face.png"), frame=24)),
        ("a:b/face.png:last:0.5", Picture(file=Path("a:b/face.png"), frame="last", strength=0.5)),
    ],
)
def test_pictures_are_read_from_text(given: str, picture: Picture) -> None:
    assert Picture.parse(given) == picture


def test_a_file_whose_name_looks_like_a_frame_is_a_file(tmp_path: Path) -> None:
    odd = tmp_path / "face.png:24"
    odd.touch()
    assert Picture.parse(str(odd)) == Picture(file=odd)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([{"file": ROBOT, "frame": 17}], "images 17 is beyond the video's last frame, 16"),
        ([{"file": ROBOT, "frame": 16}, {"file": ROBOT, "frame": "last"}], "images 16 is the frame of two pictures"),
        ([{"file": ROBOT}], "images 0 is the frame of two pictures"),
        ([{"file": ROBOT, "frame": -1}], "images.frame -1 must be 0 to 432000, or 'last'"),
        ([{"file": ROBOT, "frame": 8, "strength": 1.5}], "images.strength 1.5"),
        ([{"file": ROBOT, "frame": frame} for frame in range(1, 10)], "images"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(
    images: list[dict[str, object]], said: str, request_fields: dict[str, object], pipeline: A2VPipeline
) -> None:
    with pytest.raises(InvalidRequest, match=said.replace("(", "\\(")):
        pipeline.run(GenerationRequest(**{**request_fields, "num_frames": 17, "images": images}))


def test_a_plan_counts_the_tokens_of_pictures(
    request_fields: dict[str, object], model: ModelPaths, tmp_path: Path
) -> None:
    """Phases take at most what was predicted with pictures, which is more than without them."""
    pipeline = A2VPipeline.open(model, device="cpu", options=LoadOptions("none"))
    images = [{"file": ROBOT, "frame": frame} for frame in (4, 8, 12, "last")]
    plain = GenerationRequest(**{**request_fields, "num_frames": 17, "output_path": tmp_path / "a.mp4"})
    pictured = GenerationRequest(**{**request_fields, "num_frames": 17, "images": images})
    usual, plan = pipeline.plan(plain), pipeline.plan(pictured)
    stages = {p.name: (p.activations, q.activations) for p, q in zip(usual.phases, plan.phases, strict=True)}
    assert all(stages[name][1] > stages[name][0] for name in ("stage_1", "stage_2"))
    done = list(pipeline.generate(pictured, replace(plan, budget=plan.peak)))[-1]
    assert isinstance(done, Done)
    for phase, memory in done.result.details["memory"].items():
        assert memory["allocated"] <= memory["predicted"] + 1e-3, phase
