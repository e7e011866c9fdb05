from __future__ import annotations

import pytest
import torch

from ltx_a2v import ModelPaths
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.model import Networks
from ltx_a2v.networks.text import Context
from ltx_a2v.prompts.encoder import PromptEncoder
from ltx_a2v.settings.loading import LoadOptions


def open_networks(paths: ModelPaths, dtype: torch.dtype = torch.float32, **options: object) -> Networks:
    return Networks(ModelFiles.open(paths), torch.device("cpu"), dtype, LoadOptions(**options))


@torch.inference_mode()
def encode(encoder: PromptEncoder, *texts: str) -> tuple[list[Context], list[str]]:
    """The contexts, and what was noticed."""
    notices, events = [], encoder.encode(texts)
    while True:
        try:
            notices.append(next(events).message)
        except StopIteration as stop:
            return stop.value, notices


def same(one: Context, other: Context) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@pytest.fixture(autouse=True)
def _needs_extra(request: pytest.FixtureRequest) -> None:
    parameters = getattr(request.node, "callspec", None)
    if parameters and "bnb-nf4" in parameters.params.values():
        pytest.importorskip("bitsandbytes")
