"""What is written into a video, and that frames and sound stay as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, LoadOptions, Retake
from ltx_a2v.errors import InvalidInput, InvalidRequest
from ltx_a2v.marks import manifest
from ltx_a2v.marks.inspection import inspect_video
from ltx_a2v.marks.marking import Marking
from ltx_a2v.marks.marks import Marks
from ltx_a2v.marks.settings import Made as ModelMade
from ltx_a2v.marks.statement import Statement
from tests.marks.conftest import Made


def test_a_video_says_who_made_it_when_and_how(made: Made) -> None:
    found = inspect_video(made.path)
    assert (found.state, found.is_ai, found.manifest.is_known) == ("intact", True, True)
    assert found.statement is not None
    assert found.statement.provider == "ltx-a2v"
    assert found.statement.id == made.result.details["marks"]["id"]
    assert made.result.details["marks"]["signed"]
    assert found.statement.time.startswith("20")
    assert found.settings["request"]["seed"] == 7
    assert found.settings["request"]["guidance"]["cfg"] == 2.5
    assert found.settings["video"] == {"width": 128, "height": 64, "num_frames": 9, "frame_rate": 24.0}
    assert [each["kind"] for each in found.settings["inputs"]] == ["sound", "picture"]
    with av.open(made.path) as container:
        assert container.metadata["comment"] == found.statement.comment()


def test_neither_prompt_nor_paths_are_written(made: Made) -> None:
    content = made.path.read_bytes()
    assert b"secret" not in content
    assert b"robot" not in content
    assert b"speech.wav" not in content


def test_the_prompt_is_written_where_it_is_asked_for(made: Made, tmp_path: Path) -> None:
    request = made.request.model_copy(update={"mark_prompt": True, "output_path": tmp_path / "a.mp4"})
    made.pipeline.run(request)
    assert inspect_video(tmp_path / "a.mp4").settings["request"]["prompt"] == "A secret prompt."


def test_marks_change_no_frame_and_no_sample(made: Made, pipeline: A2VPipeline, tmp_path: Path) -> None:
    """Reproducible marks, none, and signed ones."""
    same = made.request.model_copy(update={"output_path": tmp_path / "same.mp4"})
    pipeline.run(same)
    bare = A2VPipeline.open(pipeline.model.files.paths, device="cpu", options=LoadOptions(marking=Marking(False)))
    result = bare.run(made.request.model_copy(update={"output_path": tmp_path / "bare.mp4"}))
    assert any("Marks are turned off" in notice for notice in result.notices)
    assert inspect_video(tmp_path / "bare.mp4").state == "unmarked"
    signed, reproducible, unmarked = map(_decoded, (made.path, tmp_path / "same.mp4", tmp_path / "bare.mp4"))
    for one, two, three in zip(signed, reproducible, unmarked, strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)


def test_reproducible_marks_are_the_same_each_time(made: Made, pipeline: A2VPipeline, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        pipeline.run(made.request.model_copy(update={"output_path": tmp_path / name}))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    found = inspect_video(tmp_path / "a.mp4")
    assert found.state == "unsigned"
    assert found.statement is not None
    assert not found.statement.time


def test_without_the_library_the_tags_are_still_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    result = made.pipeline.run(made.request.model_copy(update={"output_path": tmp_path / "a.mp4"}))
    assert any("not signed: the library c2pa-python cannot be used here" in notice for notice in result.notices)
    assert inspect_video(made.path).state == "unknown"
    monkeypatch.undo()
    assert inspect_video(tmp_path / "a.mp4").state == "unsigned"


def test_a_refused_signature_does_not_lose_the_video(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise manifest.CannotSign("no")

    monkeypatch.setattr(manifest, "sign", refuse)
    result = made.pipeline.run(made.request.model_copy(update={"output_path": tmp_path / "a.mp4"}))
    assert any("not signed: no." in notice for notice in result.notices)
    assert not result.details["marks"]["signed"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_windows_are_marked_once_joined(made: Made, tmp_path: Path) -> None:
    request = made.request.model_copy(
        update={"output_path": tmp_path / "a.mp4", "num_frames": 33, "window_frames": 25, "num_inference_steps": 1}
    )
    assert made.pipeline.run(request).details["windows"] == 2
    assert inspect_video(tmp_path / "a.mp4").state == "intact"


def test_a_retake_says_that_a_part_was_made_again(made: Made, tmp_path: Path) -> None:
    retake = Retake(video=made.path, start=0.2, end=0.3)
    request = GenerationRequest(
        prompt="p", audio=made.path, retake=retake, output_path=tmp_path / "a.mp4", num_inference_steps=1
    )
    made.pipeline.run(request)
    found = inspect_video(tmp_path / "a.mp4")
    assert (found.state, found.is_ai, found.settings["retake"]) == ("intact", True, {"start": 0.2, "end": 0.3})
    assert found.manifest.source_type.endswith("/compositeWithTrainedAlgorithmicMedia")
    assert found.settings["inputs"][1]["kind"] == "video"
    assert found.settings["video"]["num_frames"] == 9
    with av.open(tmp_path / "a.mp4") as container:
        assert container.metadata["comment"].startswith("Changed by AI; ")


@pytest.mark.parametrize("provider", ["", " ", "a\nb", "x" * 201])
def test_a_provider_that_no_tag_can_hold_is_refused(provider: str) -> None:
    with pytest.raises(InvalidRequest, match="mark_provider"):
        Marking(provider=provider).check()


def test_a_provider_cannot_forge_other_fields() -> None:
    statement = Statement("A; id: urn:uuid:0", "1", "m", "t", "urn:uuid:1", True)
    read = Statement.from_comment(statement.comment())
    assert read is not None
    assert (read.provider, read.id) == ("A, id: urn:uuid:0", "urn:uuid:1")
    assert Statement.from_packet(statement.packet()) == statement


def test_settings_of_others_are_not_read() -> None:
    assert Statement.from_comment("Made by AI; system: another") is None
    assert Statement.from_comment("holiday") is None
    assert Statement.from_packet(b"<!DOCTYPE a><a/>") is None
    assert Statement.from_packet(b"<a>") is None


def test_a_damaged_key_is_one_sentence_before_any_work(
    made: Made, own_data: Path, small_request: GenerationRequest
) -> None:
    own_data.mkdir()
    (own_data / "signing-key.pem").write_text("no key")
    with pytest.raises(InvalidInput, match=r"The signing key .* is damaged\. Repair it, or remove it"):
        made.pipeline.run(small_request)
    assert not small_request.output_path.exists()


def test_a_folder_that_cannot_be_written_is_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_request: GenerationRequest
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LTX_A2V_DATA_DIR", str(tmp_path / "file" / "data"))
    marks = Marks.begin(Marking(reproducible=False), small_request, ModelMade("m"))
    assert marks is not None
    assert "not signed: The signing key cannot be kept" in marks.notices[0]


def test_inspecting_imports_no_torch() -> None:
    code = "import sys, ltx_a2v.cli.inspect, ltx_a2v.marks.inspection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _decoded(path: Path) -> list[np.ndarray]:
    with av.open(path) as container:
        frames = [frame.to_ndarray() for frame in container.decode(video=0)]
    with av.open(path) as container:
        return [*frames, *(frame.to_ndarray() for frame in container.decode(audio=0))]
