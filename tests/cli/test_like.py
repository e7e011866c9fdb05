"""`generate --like VIDEO`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.cli.main import main
from ltx_a2v.marks.inspection import inspect_video
from tests.cli.conftest import EXAMPLES


@pytest.fixture
def earlier(pipeline: A2VPipeline, small_request: GenerationRequest) -> GenerationRequest:
    """A request whose video exists."""
    request = small_request.model_copy(
        update={"seed": 11, "image": None, "guidance": small_request.guidance.model_copy(update={"cfg": 2.5, "stg": 0})}
    )
    pipeline.run(request)
    return request


def _like(video: Path, model: ModelPaths, output: Path, *flags: str) -> int:
    files = ["--model-dir", str(model.checkpoint.parent), "--device", "cpu"]
    return main(["generate", *files, "--like", str(video), "--output-path", str(output), *flags])


def test_the_same_words_and_files_give_the_same_video(
    earlier: GenerationRequest, model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--prompt", earlier.prompt, "--audio", str(earlier.audio))
    assert _like(earlier.output_path, model, tmp_path / "again.mp4", *given) == 0
    assert (tmp_path / "again.mp4").read_bytes() == earlier.output_path.read_bytes()
    assert "made with 0 picture, 0 LoRA, transformer quantization none" in capsys.readouterr().err


def test_flags_go_before_the_video(earlier: GenerationRequest, model: ModelPaths, tmp_path: Path) -> None:
    flags = ("--prompt", "p", "--audio", str(earlier.audio), "--seed", "12", "--a2v-guidance-scale", "1")
    assert _like(earlier.output_path, model, tmp_path / "again.mp4", *flags) == 0
    request = inspect_video(tmp_path / "again.mp4").settings["request"]
    assert (request["seed"], request["num_inference_steps"]) == (12, 2)
    assert (request["guidance"]["cfg"], request["guidance"]["stg"], request["guidance"]["modality"]) == (2.5, 0, 1)


def test_what_a_video_does_not_hold_is_named(
    earlier: GenerationRequest, model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _like(earlier.output_path, model, tmp_path / "again.mp4") == 2
    assert "does not hold everything; still required: --prompt, --audio or --say." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("video", "said"),
    [("speech.wav", "is not a video"), ("plain.mp4", "holds no settings of ltx-a2v"), ("none.mp4", "cannot be read")],
)
def test_a_file_without_settings(
    video: str, said: str, model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import av

    with av.open(tmp_path / "plain.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width = stream.height = 64
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())
    path = EXAMPLES / video if video == "speech.wav" else tmp_path / video
    assert _like(path, model, tmp_path / "out.mp4", "--prompt", "p", "--audio", "a.wav") == 2
    assert said in capsys.readouterr().err


def test_without_a_video_prompt_and_sound_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--seed", "1"]) == 2
    assert (
        "These flags are required: --prompt, --audio or --say; see ltx-a2v generate --help." in capsys.readouterr().err
    )


def test_a_label_without_a_text_has_the_usual_one(
    earlier: GenerationRequest, model: ModelPaths, tmp_path: Path
) -> None:
    given = ("--prompt", "p", "--audio", str(earlier.audio), "--num-inference-steps", "1", "--visible-label")
    assert _like(earlier.output_path, model, tmp_path / "again.mp4", *given) == 0
    assert inspect_video(tmp_path / "again.mp4").settings["request"]["visible_label"] == "Made with AI"
