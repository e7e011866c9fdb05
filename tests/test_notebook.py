"""The example notebook, executed as a user would."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_example_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "talking_face.ipynb", as_version=4)
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    said = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert (tmp_path / "talking.mp4").is_file()
    streams = "".join(output.text for output in said if output.output_type == "stream")
    assert "stage 1" in streams  # the bar
    assert "plan: transformer unquantized" in streams
    assert "Failed" not in streams
    shown = [output.data["text/plain"] for output in said if output.output_type == "execute_result"]
    assert shown[0] == "A2VPipeline('ltx-2.3-puppet.safetensors', device='cpu')"
    assert shown[1].startswith("GenerationRequest(prompt='A person speaks")
    assert "GenerationResult('talking.mp4', 256x256, 25 frames" in "".join(shown)
