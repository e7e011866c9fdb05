"""How the passes of one step become one prediction (reference: `MultiModalGuider`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import IntEnum

from torch import Tensor

from ltx_a2v.request import Guidance


class Pass(IntEnum):
    """One evaluation of the transformer within a step. The order is the order of rows in a batch: the isolated pass
    first and the perturbed one last, so that the rows with audio, and the rows with attention, are slices."""

    ISOLATED = 0
    """Positive text, no attention between audio and video."""
    POSITIVE = 1
    NEGATIVE = 2
    """Negative text for the video; the audio keeps the positive one."""
    PERTURBED = 3
    """Positive text; the video's self-attention is replaced by its values in some blocks."""


def passes_of(guidance: Guidance) -> frozenset[Pass]:
    """The passes that the scales require; one whose weight is 0 is not computed."""
    passes = {Pass.POSITIVE}
    if not math.isclose(guidance.cfg, 1.0):
        passes.add(Pass.NEGATIVE)
    if not math.isclose(guidance.stg, 0.0) and guidance.stg_blocks:
        passes.add(Pass.PERTURBED)
    if not math.isclose(guidance.modality, 1.0):
        passes.add(Pass.ISOLATED)
    return frozenset(passes)


def computes(step: int, guidance: Guidance) -> bool:
    """Whether a step, counted from 0, runs the transformer (reference: `MultiModalGuider.should_skip_step`)."""
    return step % (guidance.skip_step + 1) == 0


UNGUIDED = Guidance(cfg=1.0, stg=0.0, stg_blocks=(), modality=1.0, rescale=0.0)


def combine(predictions: Mapping[Pass, Tensor], guidance: Guidance) -> Tensor:
    """x0 predictions of the passes, [1, tokens, channels] each -> the guided one, in their dtype."""
    positive = predictions[Pass.POSITIVE].float()
    weights = {
        Pass.NEGATIVE: guidance.cfg - 1,
        Pass.PERTURBED: guidance.stg,
        Pass.ISOLATED: guidance.modality - 1,
    }
    guided = positive
    for kind, weight in weights.items():
        if kind in predictions:
            guided = guided + weight * (positive - predictions[kind].float())
    if guidance.rescale:
        factor = positive.std() / guided.std()
        guided = guided * (guidance.rescale * factor + (1 - guidance.rescale))
    return guided.to(predictions[Pass.POSITIVE].dtype)
