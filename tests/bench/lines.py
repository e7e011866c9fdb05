"""Results as `bench run` writes them, of runs that never happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

H100 = {
    "device": "NVIDIA H100 80GB HBM3",
    "driver": "570.1",
    "cores": 16,
    "torch": "2.11.0",
    "peak_tflops": {"bfloat16": 760.0, "float8": 1300.0},
    "bus_gb_s": 50.0,
}


def case(**changes: Any) -> dict[str, Any]:
    fields = {
        "model": "ltx-2.3-22b-random.safetensors",
        "mode": "int8",
        "budget": "unlimited",
        "width": 768,
        "height": 512,
        "frames": 97,
        "steps": 30,
        "quality": "standard",
        "start": "warm",
        "settings": {},
    }
    return fields | changes


def measured(
    step: float = 0.25, copied: int = 0, peak: float = 26.0, file: str = "a" * 64, prompts_encoded: int = 0
) -> dict[str, Any]:
    phases = {
        "load_audio": 0.02,
        "encode_prompt": 0.01,
        "encode_audio": 0.02,
        "encode_image": 0.03,
        "load_transformer": 0.05,
        "stage_1": 30 * step,
        "upsample": 0.02,
        "stage_2": 3.3 * step,
        "decode": 1.1,
    }
    steps = {
        "stage_1": {"first": 2 * step, "median": step, "least": 0.98 * step, "most": 1.1 * step, "count": 29},
        "stage_2": {"first": 2 * step, "median": 1.1 * step, "least": step, "most": 1.2 * step, "count": 2},
    }
    return {
        "seconds": sum(phases.values()) + 0.1,
        "phases": phases,
        "prompts_encoded": prompts_encoded,
        "steps": steps,
        "memory": {"allocated_gib": peak, "predicted_gib": peak, "reserved_gib": peak + 0.3, "driver_gib": peak + 1},
        "plan": {"resident_blocks": 7 if copied else None, "bus_bytes_per_step": copied},
        "file_sha256": file,
        "tflop_per_step": {"stage_1": 130.0, "stage_2": 140.0},
        "tflops": {"stage_1": 130 / step, "stage_2": 140 / (1.1 * step)},
        "peak_share": {"stage_1": 130 / step / 760, "stage_2": 140 / (1.1 * step) / 760},
    }


def run(number: int = 1, of: dict[str, Any] | None = None, device: str = "", **given: Any) -> dict[str, Any]:
    machine = H100 | ({"device": device} if device else {})
    return {"kind": "run", "case": of or case(), "machine": machine, "run": number, "measured": measured(**given)}


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
