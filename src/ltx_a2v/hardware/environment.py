"""Environment variables for libraries, set before they are imported."""

from __future__ import annotations

import os


def prepare_libraries() -> None:
    """Their advice about training and downloads is not for our users; nothing is fetched."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # cuda:1 is the driver's and nvidia-smi's GPU 1
    # each phase allocates other sizes than the one before; without this, freed segments stay reserved
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
