"""Encoded prompts on disk: when they are used, when they are not, and that they never do harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.networks.text import Context
from ltx_a2v.prompts.cache import EncodedPrompt, PromptCache
from ltx_a2v.prompts.encoder import PromptEncoder
from ltx_a2v.settings.defaults import cache_dir
from ltx_a2v.settings.loading import LoadOptions
from tests.networks.conftest import encode, open_model, same

CPU = torch.device("cpu")
FIRST, SECOND = "A robot speaks.", "A dog sings."


def stored() -> list[Path]:
    folder = cache_dir() / "prompts"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def encoder_of(paths: ModelPaths, dtype: torch.dtype = torch.float32, **options: object) -> PromptEncoder:
    return PromptEncoder(open_model(paths, dtype, **options))


@pytest.fixture
def own_model(model: ModelPaths, tmp_path: Path) -> ModelPaths:
    """A copy that a test may change."""
    return ModelPaths.discover(Path(shutil.copytree(model.checkpoint.parent, tmp_path / "model")))


def weights_of_gemma(paths: ModelPaths) -> Path:
    return paths.gemma_root / "model.safetensors"


def spoil(path: Path) -> None:
    """Other numbers in the last half of a file that looks the same from outside."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        file.write(b"\x3c" * (status.st_size - status.st_size // 2))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestUse:
    def test_a_repeated_prompt_reads_neither_network(self, own_model: ModelPaths) -> None:
        encoder, uncached = encoder_of(own_model), encoder_of(own_model, prompt_cache=False)
        before, _ = encode(encoder, FIRST)
        spoil(weights_of_gemma(own_model))
        spoil(own_model.checkpoint)

        after, _ = encode(encoder, FIRST)
        assert same(after[0], before[0])
        reread, _ = encode(uncached, FIRST)
        assert not same(reread[0], before[0])

    def test_of_two_prompts_only_the_new_one_is_computed(self, own_model: ModelPaths) -> None:
        encoder, uncached = encoder_of(own_model), encoder_of(own_model, prompt_cache=False)
        first, second = encode(uncached, FIRST, SECOND)[0]
        encode(encoder, FIRST)
        spoil(weights_of_gemma(own_model))

        contexts, _ = encode(encoder, SECOND, FIRST)
        assert same(contexts[1], first)
        assert not same(contexts[0], second)

    def test_same_bits_together_alone_and_from_disk(self, model: ModelPaths) -> None:
        together, _ = encode(encoder_of(model, prompt_cache=False), FIRST, SECOND)
        for _ in range(2):
            alone = [encode(encoder_of(model), prompt)[0][0] for prompt in (FIRST, SECOND)]
            assert all(map(same, alone, together))

    def test_same_video_without_cold_and_warm(
        self, model: ModelPaths, request_fields: dict[str, object], tmp_path: Path
    ) -> None:
        def make(name: str, cached: bool) -> bytes:
            pipeline = A2VPipeline.open(model, device="cpu", options=LoadOptions(prompt_cache=cached))
            request = GenerationRequest(**request_fields | {"output_path": tmp_path / name})
            return pipeline.run(request).output_path.read_bytes()

        without = make("without.mp4", cached=False)
        assert stored() == []
        assert make("cold.mp4", cached=True) == without
        assert len(stored()) == 2
        assert make("warm.mp4", cached=True) == without

    def test_space_around_a_prompt_does_not_matter(self, model: ModelPaths) -> None:
        encode(encoder_of(model), FIRST, f" {FIRST}\n")
        assert len(stored()) == 1

    def test_cut_prompts_are_said_to_be_cut_each_time(self, model: ModelPaths) -> None:
        notices = [encode(encoder_of(model), "speak " * 300)[1] for _ in range(2)]
        assert notices[0] == notices[1]
        assert "cut to 1024 tokens" in notices[0][0]

    def test_bfloat16_comes_back_as_it_was(self, model: ModelPaths) -> None:
        first, again = (encode(encoder_of(model, torch.bfloat16), FIRST)[0][0] for _ in range(2))
        assert again.video.dtype == torch.bfloat16
        assert same(first, again)


def rewrite_config(paths: ModelPaths) -> None:
    config = paths.gemma_root / "config.json"
    config.write_text(config.read_text().replace('"rope_theta": 1000000', '"rope_theta": 2000000'))


class TestInvalidation:
    @pytest.mark.parametrize(
        "change",
        [
            lambda paths: os.utime(weights_of_gemma(paths)),
            lambda paths: os.utime(paths.checkpoint),
            lambda paths: spoil(weights_of_gemma(paths)),
            rewrite_config,
            lambda paths: os.utime(paths.gemma_root / "tokenizer.json"),
        ],
        ids=["text encoder's time", "checkpoint's time", "other weights, same time", "config", "tokenizer"],
    )
    def test_changed_files(self, own_model: ModelPaths, change: Callable[[ModelPaths], None]) -> None:
        encode(encoder_of(own_model), FIRST)
        change(own_model)
        encode(encoder_of(own_model), FIRST)
        assert len(stored()) == 2

    @pytest.mark.parametrize(
        ("dtype", "options"),
        [
            (torch.bfloat16, {}),
            (torch.float32, {"text_encoder_quantization": "int4"}),
            (torch.float32, {"transformer_quantization": "int8"}),  # and the connectors
        ],
        ids=["dtype", "text encoder's mode", "connectors' mode"],
    )
    def test_other_arithmetic(self, model: ModelPaths, dtype: torch.dtype, options: dict[str, object]) -> None:
        encode(encoder_of(model), FIRST)
        encode(encoder_of(model, dtype, **options), FIRST)
        assert len(stored()) == 2

    def test_fused_and_plain_kernels(self, model: ModelPaths, monkeypatch: pytest.MonkeyPatch) -> None:
        encode(encoder_of(model), FIRST)
        monkeypatch.setattr("ltx_a2v.kernels.fused", lambda device, dtype: True)
        encode(encoder_of(model), FIRST)
        assert len(stored()) == 2

    @pytest.mark.parametrize("library", ["ltx-a2v", "torch", "transformers", "diffusers"])
    def test_another_version_of_a_library(
        self, model: ModelPaths, library: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encode(encoder_of(model), FIRST)
        monkeypatch.setattr(
            "ltx_a2v.prompts.encoder.version", lambda name: "0.0" if name == library else metadata.version(name)
        )
        encode(encoder_of(model), FIRST)
        assert len(stored()) == 2

    def test_another_device(self, model: ModelPaths, monkeypatch: pytest.MonkeyPatch) -> None:
        def key(device: str, name: str = "") -> str:
            opened = replace(open_model(model), device=torch.device(device))
            monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
            return PromptEncoder(opened)._keys([FIRST])[FIRST]

        keys = [key("cpu"), key("cuda", "NVIDIA L4"), key("cuda", "NVIDIA L40S")]
        assert len(set(keys)) == 3
        assert key("cuda:1", "NVIDIA L4") == keys[1]

    def test_what_does_not_touch_the_text_does_not_matter(self, own_model: ModelPaths, tmp_path: Path) -> None:
        encode(encoder_of(own_model), FIRST)
        encode(encoder_of(own_model, transformer_quantization="fp8-cast", exact_passes=True), FIRST)
        os.utime(own_model.distilled_lora)
        moved = Path(shutil.move(own_model.checkpoint.parent, tmp_path / "moved"))
        encode(encoder_of(ModelPaths.discover(moved)), FIRST)
        assert len(stored()) == 1

    def test_files_changed_after_opening_are_neither_looked_up_nor_kept(self, own_model: ModelPaths) -> None:
        encoder = encoder_of(own_model)
        encode(encoder, FIRST)
        spoil(weights_of_gemma(own_model))
        os.utime(weights_of_gemma(own_model))

        encode(encoder, FIRST, SECOND)
        assert len(stored()) == 1


def prompt_of(number: float) -> EncodedPrompt:
    return EncodedPrompt(Context(torch.full((1, 16, 8), number), torch.full((1, 16, 4), number)), truncated=False)


class TestFolder:
    def test_what_was_used_longest_ago_goes_first(self, tmp_path: Path) -> None:
        cache = PromptCache(tmp_path)
        for age, key in enumerate("dcba"):
            cache.put(key, prompt_of(age))
            os.utime(tmp_path / f"{key}.safetensors", (1000 - age, 1000 - age))  # d is the newest, a the oldest
        (tmp_path / "killed.part").write_bytes(b"0" * 100)
        os.utime(tmp_path / "killed.part", (1, 1))
        assert cache.get("a", CPU) is not None  # and now the newest

        size = (tmp_path / "a.safetensors").stat().st_size
        PromptCache(tmp_path, limit=3 * size).put("e", prompt_of(5))
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{key}.safetensors" for key in "ade"]

    def test_a_limit_below_one_prompt_keeps_none(self, tmp_path: Path) -> None:
        PromptCache(tmp_path, limit=10).put("a", prompt_of(1))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"not a safetensors file at all"),
            lambda path: path.write_bytes((2).to_bytes(8, "little") + b"{}"),
            lambda path: path.write_bytes((14).to_bytes(8, "little") + b'{"__metadata__":[]}'[:14]),
            lambda path: path.write_bytes((20).to_bytes(8, "little") + b'{"__metadata__": 1 }'),
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"),
            lambda path: save_file({"video": torch.zeros(1), "audio": torch.zeros(1)}, path),
            lambda path: save_file({"weights": torch.zeros(1)}, path),
        ],
        ids=["empty", "text", "no tensors", "cut header", "odd metadata", "cut", "a bit flipped", "foreign", "others"],
    )
    def test_damaged_files_are_removed(self, tmp_path: Path, damage: Callable[[Path], object]) -> None:
        cache, path = PromptCache(tmp_path), tmp_path / "a.safetensors"
        cache.put("a", prompt_of(1))
        damage(path)
        assert cache.get("a", CPU) is None
        assert not path.exists()

    def test_a_file_under_another_files_name_is_not_believed(self, tmp_path: Path) -> None:
        cache = PromptCache(tmp_path)
        for number, key in enumerate("ab"):
            cache.put(key, prompt_of(number))
        (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
        assert cache.get("b", CPU) is None
        assert list(tmp_path.iterdir()) == []

    def test_a_damaged_file_is_made_again(self, model: ModelPaths) -> None:
        before, _ = encode(encoder_of(model), FIRST)
        (path,) = stored()
        os.truncate(path, path.stat().st_size // 2)
        after, notices = encode(encoder_of(model), FIRST)
        assert same(after[0], before[0])
        assert notices == []
        assert PromptCache(path.parent).get(path.stem, CPU) is not None

    def test_a_folder_that_cannot_be_written_is_one_notice(
        self, model: ModelPaths, small_request: GenerationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("LTX_A2V_CACHE_DIR", str(tmp_path / "file"))
        result = A2VPipeline.open(model, device="cpu").run(small_request)
        assert result.output_path.exists()
        assert sum("could not be kept" in notice for notice in result.notices) == 1
        assert any("could not be kept in" in notice for notice in result.notices)

    def test_a_user_without_a_home(self, model: ModelPaths, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LTX_A2V_CACHE_DIR", "~nobody-of-this-name/cache")
        assert encode(encoder_of(model), FIRST)[1] == []

    @pytest.mark.slow
    def test_processes_that_write_at_once(self, tmp_path: Path) -> None:
        """Each finds the other's prompts whole or not at all."""
        program = f"""
from pathlib import Path
import torch
from ltx_a2v.prompts.cache import PromptCache
from tests.prompts.test_prompt_cache import prompt_of
cache = PromptCache(Path({str(tmp_path / "cache")!r}), limit=6000)
for i in range(300):
    cache.put(str(i % 7), prompt_of(i % 7))
    found = cache.get(str((i + 3) % 7), torch.device("cpu"))
    assert found is None or bool((found.context.video == (i + 3) % 7).all())
"""
        writers = [
            subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]
        said = [writer.communicate(timeout=120)[1] for writer in writers]
        assert [writer.returncode for writer in writers] == [0, 0], said
        assert 0 < sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 6000


def test_cached_prompts_are_for_their_user_only(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        PromptCache(tmp_path / "prompts").put("a", prompt_of(1))
    finally:
        os.umask(before)
    folder = tmp_path / "prompts"
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.iterdir()))
