"""What libraries are told before they are imported."""

from __future__ import annotations

import logging
import os


def prepare_libraries() -> None:
    """Their advice about training and downloads is not for our users; nothing is fetched."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # cuda:1 is the driver's and nvidia-smi's GPU 1
    # phases need blocks of other sizes than the phase before; without this their remains stay reserved
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # diffusers imports it wherever it is installed
