"""Files in an object store: what servers share, and what happens while it is away."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx_a2v.errors import InvalidInput, StorageFailed
from ltx_a2v.serving.jobs import bucket_folders
from ltx_a2v.serving.jobs.bucket import Bucket
from ltx_a2v.serving.jobs.bucket_folders import BucketFolders
from ltx_a2v.serving.jobs.folders import PARTIAL, RESULT, THUMBNAIL, VIDEO
from ltx_a2v.serving.work.waiting import SystemClock
from tests.object_store import ObjectStore
from tests.serving.bench import Bench
from tests.serving.conftest import Server, data_url, png, wait_for, wav

NewFolders = Callable[[], BucketFolders]


@pytest.fixture
def new_folders(new_bucket: Callable[[], str], tmp_path: Path) -> NewFolders:
    """Folders of one more server, all over one bucket."""
    url, made = new_bucket(), []

    def make() -> BucketFolders:
        made.append(tmp_path / f"server-{len(made)}")
        folders = BucketFolders(made[-1] / "outputs", made[-1] / "state", Bucket(url))
        folders.create()
        return folders

    return make


def finish(folders: BucketFolders, name: str, attempt: int = 1, content: str = "video") -> None:
    work = folders.new_work(name, attempt)
    for file, text in ((RESULT, '{"width": 64}'), (THUMBNAIL, "jpeg"), (VIDEO, content)):
        (work / file).write_text(text)
    folders.commit(name, attempt)


def test_what_one_server_keeps_another_finds(new_folders: NewFolders) -> None:
    here, there = new_folders(), new_folders()
    here.inputs("a").mkdir()
    asked = {"prompt": "x", "image": None, "audio": str(here.inputs("a") / "audio"), "seed": 1}
    asked |= {"images": [{"file": str(here.inputs("a") / "image_0"), "frame": 0}, {"file": "/inputs/face.png"}]}
    asked |= {"retake": {"start": 1.0, "end": 2.0, "video": str(here.inputs("a") / "video")}}
    for name in ("audio", "image_0", "video"):
        (here.inputs("a") / name).write_text(name)
    here.keep_inputs("a")
    assert not here.inputs("a").exists(), "it is in the bucket"
    found = there.fetch_inputs("a", asked)
    assert Path(found["audio"]) == (there.inputs("a") / "audio").resolve()
    assert [Path(one["file"]).name for one in found["images"]] == ["image_0", "face.png"]
    assert found["retake"] == {"start": 1.0, "end": 2.0, "video": str((there.inputs("a") / "video").resolve())}
    assert (Path(found["audio"]).read_text(), found["seed"]) == ("audio", 1)
    there.release("a")
    assert not there.inputs("a").exists()

    finish(there, "a", 2)
    assert here.committed_result("a", 2) == {"width": 64}
    assert here.committed_result("a", 1) is None
    for _ in range(2):  # from the bucket, from the cache
        path = here.finished_file("a", 2, VIDEO)
        assert path is not None
        assert path.read_text() == "video"
    assert here.finished_file("a", 1, VIDEO) is None
    assert here.input_file("a", "image_1") is None
    assert here.size("a") == len("audioimage_0videovideojpeg") + len('{"width": 64}')
    here.remove("a")
    assert not path.exists()
    assert here.bucket.sizes("") == {}


def test_attempts_do_not_meet(new_folders: NewFolders) -> None:
    """A server that was cut off commits late: its files are not those of the record."""
    here, there = new_folders(), new_folders()
    finish(there, "a", 2, "of the second")
    finish(here, "a", 1, "of the first")
    for folders in (here, there):
        path = folders.finished_file("a", 2, VIDEO)
        assert path is not None
        assert path.read_text() == "of the second"
    here.discard("a", 1)
    assert here.committed_result("a", 2) is not None


def test_finished_windows_are_handed_on(new_folders: NewFolders) -> None:
    here, there = new_folders(), new_folders()
    here.windows("a").mkdir(parents=True)
    for name in ("window-000.mp4", "window-001.mp4.part", PARTIAL):
        (here.windows("a") / name).write_text(name)
    here.keep_windows("a")
    there.fetch_inputs("a", {})
    assert sorted(file.name for file in there.windows("a").iterdir()) == [PARTIAL, "window-000.mp4"]
    (here.windows("a") / PARTIAL).write_text("longer by one window")
    here.keep_windows("a")
    there.forget_windows("a", keep_partial=True)
    partial = there.partial_file("a")
    assert partial is not None
    assert partial.read_text() == "longer by one window"
    there.forget_windows("a", keep_partial=False)
    assert there.partial_file("a") is None


def test_the_cache_is_bounded_and_leftovers_go(new_folders: NewFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = new_folders()
    monkeypatch.setattr(bucket_folders, "CACHED_BYTES", 50)
    for name in ("a", "b", "c"):
        finish(folders, name, content="x" * 20)
    kept = [folder.name for folder in (folders.outputs / ".cache").iterdir()]
    assert len(kept) == 1
    assert folders.finished_file("a", 1, VIDEO) is not None, "from the bucket"
    folders.inputs("never-a-job").mkdir()
    (folders.inputs("never-a-job") / "audio").write_text("x")
    folders.keep_inputs("never-a-job")
    folders.remove_leftovers({"a", "b"}, {"b"}, shared=True)
    assert {key.split("/")[1] for key in folders.bucket.sizes("")} == {"a", "c", "never-a-job"}, "a fresh upload"
    folders.remove_leftovers({"a", "b"}, {"b"})
    assert {key.split("/")[1] for key in folders.bucket.sizes("")} == {"a", "c"}


def test_a_server_with_a_bucket(
    start: Callable[..., Server], new_bucket: Callable[[], str], object_store: ObjectStore
) -> None:
    """As with folders; and while it is away, no job is half made."""
    url = new_bucket()
    server, bucket = start("--storage", url), Bucket(url)
    body = {"prompt": "x", "audio": data_url(wav()), "input_reference": data_url(png(), "image/png"), "num_frames": 9}
    job = server.wait(server.client.post("/v1/videos", json=body).json()["id"])
    assert job["status"] == "completed"
    assert job["result"]["output_path"] == f"{url}/outputs/{job['id']}/1/{VIDEO}"
    shutil.rmtree(server.folder / "outputs" / ".cache")
    part = server.client.get(f"/v1/videos/{job['id']}/content", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert server.client.get(f"/v1/videos/{job['id']}/inputs/image").content == png()
    assert server.client.delete(f"/v1/videos/{job['id']}").status_code == 200
    assert set(bucket.sizes("")) <= {".ltx-a2v"}

    object_store.stop()
    try:
        refused = server.client.post("/v1/videos", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unreachable")
        assert "127.0.0.1" not in refused.text
        assert wait_for(lambda: "cannot be written to" in (server.client.get("/ready").json()["problem"] or ""))
        assert server.jobs() == []
        assert list((server.folder / "outputs" / ".state" / "inputs").iterdir()) == []
    finally:
        object_store.start()
    assert server.make(num_frames=9)["status"] == "completed"


def test_an_upload_that_stops_half_way_leaves_nothing(new_folders: NewFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = new_folders()
    folders.inputs("a").mkdir()
    for name in ("audio", "image"):
        (folders.inputs("a") / name).write_text(name)
    upload, sent = Bucket.upload, []

    def only_one(bucket: Bucket, path: Path, key: str) -> None:
        if sent:
            raise StorageFailed("The object store does not answer.")
        sent.append(key)
        upload(bucket, path, key)

    monkeypatch.setattr(Bucket, "upload", only_one)
    with pytest.raises(StorageFailed):
        folders.keep_inputs("a")
    sent.clear()
    with pytest.raises(StorageFailed):
        finish(folders, "b")
    assert folders.committed_result("b", 1) is None, "it would say that all files are there"
    folders.discard("b", 1)
    folders.remove("a")  # as the request does that has become no job
    assert folders.bucket.sizes("") == {}
    assert not folders.inputs("a").exists()


def test_a_job_waits_for_a_bucket_that_is_away(
    bench: Callable[..., Bench],
    new_folders: NewFolders,
    object_store: ObjectStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folders = new_folders()
    one = bench(clock=SystemClock(), folders=folders)

    async def scenario() -> None:
        async with one:
            job = one.add("slow=0.02", num_inference_steps=20)
            await one.until(lambda: one.scheduler.running_job(job.id) is not None)
            await one.until(lambda: one.scheduler.running_job(job.id).progress.step > 0)
            await asyncio.to_thread(object_store.stop)
            try:
                await one.until(lambda: "waiting: " in caplog.text)
            finally:
                await asyncio.to_thread(object_store.start)
            await one.until(lambda: one.state(job) == "completed")
            record = one.store.get(job.id)
            assert record is not None
            assert record.attempts == 1
            assert folders.committed_result(job.id, 1) is not None

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["bucket/prefix", "s3://", "https://host/bucket", "s3://key:secret@bucket"])
def test_an_address_that_is_none_is_one_sentence(url: str) -> None:
    with pytest.raises(InvalidInput, match="storage must be s3://BUCKET/PREFIX"):
        Bucket(url)


def test_a_bucket_that_does_not_exist_is_one_sentence(new_bucket: Callable[[], str]) -> None:
    assert Bucket(f"{new_bucket()[:20]}-none").problem() is not None
    with pytest.raises(StorageFailed, match="there is no such bucket"):
        Bucket("s3://no-such-bucket/prefix").upload(Path(__file__), "key")
