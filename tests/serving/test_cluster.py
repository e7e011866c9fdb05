"""The cluster's parts in this process: what Ray Serve does between them, calls, is done by hand."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import yaml
from pydantic import SecretStr
from standardwebhooks import Webhook

from ltx_a2v.errors import InvalidInput, MissingExtra
from ltx_a2v.serving.cluster.app import application, build
from ltx_a2v.serving.cluster.parts import Caller, Front, Replica
from ltx_a2v.serving.cluster.scratch import own_folders
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.settings.cluster import ClusterSettings
from tests.conftest import ROOT
from tests.serving.conftest import data_url, fake_engine, wav
from tests.serving.receiver import SECRET, receiving

WAITS = 20.0


class OpenCall:
    """As a handle's response generator: nothing is called before it is iterated over."""

    def __init__(self, replica: Replica | None) -> None:
        self._replica = replica
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[str | None]:
        if self._replica is None:  # none has started yet
            await asyncio.sleep(600)
        else:
            async for job in self._replica.work():
                yield job

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def settings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_database: Callable[[], str],
    new_bucket: Callable[[], str],
) -> ClusterSettings:
    for name, value in {**fake_engine(tmp_path), "LTX_A2V_DATABASE": new_database()}.items():
        monkeypatch.setenv(name, value)
    return ClusterSettings(
        storage=new_bucket(), output_dir=tmp_path / "outputs", device="cpu", gpus_per_replica=0, max_replicas=2
    )


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAITS):
        while not condition():
            await asyncio.sleep(0.02)


async def ended(client: httpx.AsyncClient, job: str, *states: str) -> dict[str, object]:
    async with asyncio.timeout(WAITS):
        while (found := (await client.get(f"/v1/videos/{job}")).json())["status"] not in states:
            await asyncio.sleep(0.05)
    return dict(found)


async def newest(client: httpx.AsyncClient, before: object) -> str:
    """The id of the job that came after the one `before`, once it is in progress."""
    async with asyncio.timeout(WAITS):
        while (job := (await client.get("/v1/videos")).json()["data"][0])["id"] == before or not job["step"]:
            await asyncio.sleep(0.05)
    return str(job["id"])


def test_a_request_goes_from_the_front_through_the_records_to_a_replica_and_back(settings: ClusterSettings) -> None:
    given = settings.without_secrets()
    assert "database" not in given

    async def scenario() -> None:
        front, replica = Front(given), Replica(given)
        caller = Caller(given, lambda: OpenCall(replica))
        app = await front.start()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.get("/ready")).json() == {
                "ready": True,
                "worker": "elsewhere",
                "devices": {},
                "problem": None,
            }
            assert (await client.post("/api/load")).status_code == 409
            form = {"prompt": "slow=0.1", "num_frames": "9", "num_inference_steps": "1000"}
            jobs = []
            for prompt in ("slow=0.1", "x"):
                reply = await client.post("/v1/videos", data={**form, "prompt": prompt}, files={"audio": wav()})
                jobs.append(reply.json()["id"])
            assert "ltx_a2v_queue_length 2.0" in (await client.get("/metrics")).text
            caller.start()
            await ended(client, jobs[0], "in_progress")
            assert 'ltx_a2v_running_jobs{device="elsewhere"} 1.0' in (await client.get("/metrics")).text
            async with asyncio.timeout(WAITS):
                while not (await client.get(f"/v1/videos/{jobs[0]}")).json()["step"]:
                    await asyncio.sleep(0.05)
            assert (await client.post(f"/v1/videos/{jobs[0]}/cancel")).status_code == 200
            await ended(client, jobs[0], "cancelled")
            await client.post(f"/v1/videos/{jobs[1]}/cancel")
            again = await client.post("/v1/videos", data={**form, "num_inference_steps": "1"}, files={"audio": wav()})
            done = await ended(client, again.json()["id"], "completed")
            content = await client.get(f"/v1/videos/{done['id']}/content")
            assert content.content[4:8] == b"ftyp"
            body = {"prompt": "slow=0.1", "num_frames": 9, "num_inference_steps": 1000, "audio": data_url(wav())}
            waiting = asyncio.create_task(client.post("/generate", json=body))
            left = await newest(client, done["id"])
            waiting.cancel()  # what Ray Serve does when a client leaves
            await ended(client, left, "cancelled")
        caller.stop()
        await replica.stop()
        await front.stop()

    asyncio.run(scenario())


def test_calls_are_as_many_as_jobs_that_wait_and_no_more_than_replicas(settings: ClusterSettings) -> None:
    async def scenario() -> None:
        calls: list[OpenCall] = []

        def work() -> OpenCall:
            calls.append(OpenCall(None))
            return calls[-1]

        caller = Caller(settings.without_secrets(), work)
        caller.match(1)
        caller.match(1)
        assert len(calls) == 1
        caller.match(5)
        assert len(calls) == 2, "there are no more replicas"
        caller.match(1)
        await asyncio.sleep(0)
        assert [call.cancelled for call in calls] == [False, True], "one job was cancelled"
        caller.match(0)
        await until(lambda: all(call.cancelled for call in calls))

    asyncio.run(scenario())


def test_a_replica_claims_nothing_without_a_call_and_says_when_nothing_waits(settings: ClusterSettings) -> None:
    async def scenario() -> None:
        replica = Replica(settings.without_secrets())
        assert [job async for job in replica.work()] == [None]
        await replica.stop()

    asyncio.run(scenario())


def test_one_of_the_fronts_tells_of_a_job_that_has_ended(
    settings: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTX_A2V_WEBHOOK_SECRET", SECRET)
    with receiving() as receiver:
        given = settings.model_copy(update={"webhook_allow": (f"127.0.0.1:{receiver.port}",)}).without_secrets()

        async def scenario() -> None:
            fronts, replica = [Front(given), Front(given)], Replica(given)
            app, _ = [await front.start() for front in fronts]
            caller = Caller(given, lambda: OpenCall(replica))
            caller.start()
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                form = {"prompt": "x", "num_frames": "9", "num_inference_steps": "1", "webhook_url": receiver.url}
                job = (await client.post("/v1/videos", data=form, files={"audio": wav()})).json()["id"]
                await until(lambda: receiver.bodies)
                assert receiver.events[0]["data"] == (await client.get(f"/v1/videos/{job}")).json()
            caller.stop()
            await replica.stop()
            for front in fronts:
                await front.stop()

        asyncio.run(scenario())
        assert len(receiver.bodies) == 1
        Webhook(SECRET).verify(receiver.bodies[0], receiver.headers[0])


def test_folders_of_processes_that_are_gone_are_removed(settings: ClusterSettings) -> None:
    root = settings.output_dir
    (root / ".process-dead").mkdir(parents=True)
    (root / ".process-dead" / "lock").touch()
    (root / ".process-dead" / "inputs").mkdir()
    first = own_folders(settings)
    second = own_folders(settings)
    assert first.outputs != second.outputs
    assert sorted(folder.name for folder in root.iterdir()) == sorted([first.outputs.name, second.outputs.name])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"database": None}, "give database or LTX_A2V_DATABASE"),
        ({"gpus_per_replica": 0.5}, "puts several models on one GPU: give vram_budget"),
        ({"min_replicas": 3}, "min_replicas 3 is more than max_replicas 2"),
        ({"devices": "all"}, "leave devices out, and give max_replicas"),
        ({"webhook_allow": ("hooks.example.org",)}, "give each the same webhook_secret"),
        ({"keep_alive": "-1"}, "without end needs min_replicas of 1 or more"),
    ],
)
def test_mistakes_are_one_sentence(
    settings: ClusterSettings, given: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match=words):
        settings.model_copy(update=given).check()


def test_a_machine_without_a_secret_of_the_deployment_refuses_to_start(
    settings: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match="set LTX_A2V_API_KEY on each machine"):
        build(settings.model_dump(exclude_none=True))
    monkeypatch.setenv("LTX_A2V_API_KEY", "a key")
    given = ClusterSettings(**settings.model_dump(exclude={"database"}, exclude_none=True)).without_secrets()
    assert "a key" not in str(given)
    told = settings.model_copy(update={"webhook_secret": SecretStr(SECRET)}).secret_environment()
    assert told["LTX_A2V_WEBHOOK_SECRET"] == SECRET, "by a flag as by the environment"
    assert told["LTX_A2V_DATABASE"].startswith("postgresql://")
    Front(given)
    for name in ("LTX_A2V_API_KEY", "LTX_A2V_DATABASE"):
        with monkeypatch.context() as patch:
            patch.delenv(name)
            with pytest.raises(InvalidInput, match=f"lacks {name}"):
                Front(given)


def test_without_ray_one_sentence_says_how_to_install_it(
    settings: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"EXTRAS=ray` in a checkout"):
        application(settings)


def test_the_docs_name_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    parts = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert [part["kind"] for part in parts] == ["RayService", "ScaledObject"]
    service = yaml.safe_load(parts[0]["spec"]["serveConfigV2"])["applications"][0]
    assert service["import_path"] == f"{build.__module__}:{build.__name__}"
    assert set(service["args"]) <= set(ClusterSettings.model_fields)
    asked = parts[1]["spec"]["triggers"][0]["metadata"]["query"]
    told = Metrics().as_text().decode()
    assert all(name in told for name in re.findall(r"ltx_a2v_\w+", asked))
