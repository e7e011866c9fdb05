"""Sizes that the upsampler's group normalisation can take."""

from __future__ import annotations

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest
from ltx_a2v.errors import InvalidRequest
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.networks.upsampler import check_size
from ltx_a2v.versions import NEWEST


def asked(**size: int) -> GenerationRequest:
    return GenerationRequest(prompt="p", audio="-", **size)


def test_a_group_of_one_value_is_refused(pipeline: A2VPipeline) -> None:
    """The miniature's upsampler has one channel per group."""
    with pytest.raises(InvalidRequest, match="num_frames 1 is too few at 64x64") as error:
        pipeline.plan_for(asked(width=64, height=64, num_frames=1), Budget("unlimited"))
    assert error.value.field == "num_frames"


def test_more_channels_take_every_size() -> None:
    check_size({"mid_channels": 64}, NEWEST.latents, 1, 64, 64)
    for frames, height, width in ((9, 64, 64), (1, 128, 64), (1, 64, 128)):
        check_size({"mid_channels": 32}, NEWEST.latents, frames, height, width)
