"""The records in both databases: the same tests, and what only leases are for."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ltx_a2v.errors import Conflict, InvalidInput, QueueFull, StorageFailed
from ltx_a2v.serving.jobs.database import Database
from ltx_a2v.serving.jobs.idempotency import Key
from ltx_a2v.serving.jobs.postgres import PostgresDatabase
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.serving.jobs.sqlite import SqliteDatabase
from tests.postgres import Postgres
from tests.serving.conftest import wait_for

ASKED = {"prompt": "x", "audio": "/a"}
OpenDatabase = Callable[[], Database]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        one: Database = SqliteDatabase(tmp_path / "jobs.sqlite3")
    else:
        one = PostgresDatabase(request.getfixturevalue("new_database")())
    yield one
    one.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def shared(new_database: Callable[[], str]) -> Iterator[PostgresDatabase]:
    one = PostgresDatabase(new_database())
    yield one
    one.close()


def add(store: JobStore, name: str, key: Key | None = None, most: int = 100) -> Job:
    return store.add(name, ASKED, None, False, most, key)


def claim(store: JobStore, owner: str = "worker-1") -> Job:
    job = store.claim(owner)
    assert job is not None
    return job


def state(store: JobStore, name: str) -> str:
    job = store.get(name)
    assert job is not None
    return job.state


def test_whom_to_tell_of_a_job_that_has_ended(store: JobStore) -> None:
    store.add("a", ASKED, None, False, 10, webhook="https://hooks.example.org/a")
    claim(store)
    assert (store.next_webhook_at(), store.take_webhook(100.0, 160.0)) == (math.inf, None), "it has not ended"
    store.complete("a", {})
    assert store.next_webhook_at() == 0
    taken = store.take_webhook(100.0, 160.0)
    assert taken is not None
    assert (taken.id, taken.webhook, taken.webhook_at, taken.webhook_tries) == (
        "a",
        "https://hooks.example.org/a",
        160,
        1,
    )
    assert (store.next_webhook_at(), store.take_webhook(159.0, 200.0)) == (160, None), "another server tells it"
    store.delay_webhook("a", None)
    assert (store.next_webhook_at(), store.take_webhook(1e9, 2e9)) == (math.inf, None)


def test_a_job_from_its_request_to_its_result(store: JobStore) -> None:
    job = store.add("a", {"prompt": "x", "seed": 2**40}, "5m", True, 10)
    assert (job.state, job.waited_for, job.keep_alive, job.request["seed"]) == ("queued", True, "5m", 2**40)
    claimed = claim(store)
    assert (claimed.id, claimed.state, claimed.attempts, claimed.lease) == ("a", "in_progress", 1, 1)
    assert [one.id for one in store.claimed_by("worker-1")] == ["a"]
    assert store.claimed_by("worker-2") == []
    assert store.complete("a", {"width": 64}, claimed.lease)
    done = store.get("a")
    assert done is not None
    assert (done.state, done.result, done.is_final) == ("completed", {"width": 64}, True)
    assert [one.id for one in store.completed(5)] == ["a"]
    assert store.delete("a")
    assert store.get("a") is None


def test_first_come_first_served_and_a_job_that_comes_back_keeps_its_place(store: JobStore) -> None:
    for name in "abc":
        add(store, name)
    assert [store.position(job) for job in store.in_state("queued")] == [1, 2, 3]
    first = claim(store)
    store.requeue("a", forgive=True, lease=first.lease)
    again = claim(store)
    assert (again.id, again.attempts, again.lease) == ("a", 1, 2)
    store.requeue("a", forgive=False, lease=again.lease)
    assert claim(store).attempts == 2
    assert [claim(store).id, claim(store).id, store.claim("worker-1")] == ["b", "c", None]
    assert store.count("in_progress") == 3
    assert store.count("queued", "in_progress") == 3
    assert store.position(again) is None


def test_pages_follow_each_other(store: JobStore) -> None:
    for name in "abcd":
        add(store, name)
    assert [job.id for job in store.page(None, 3, newest_first=True)] == ["d", "c", "b"]
    assert [job.id for job in store.page("b", 3, newest_first=True)] == ["a"]
    assert [job.id for job in store.page("b", 3, newest_first=False)] == ["c", "d"]
    assert store.ids() == {"a", "b", "c", "d"}


def test_a_full_queue_takes_no_more(store: JobStore) -> None:
    add(store, "a", most=1)
    with pytest.raises(QueueFull, match="1 jobs are waiting"):
        add(store, "b", most=1)
    assert store.ids() == {"a"}


def test_a_key_gives_its_job_again(store: JobStore) -> None:
    key = Key("k", "digest")
    assert add(store, "a", key).id == "a"
    assert add(store, "b", key).id == "a"
    with pytest.raises(Conflict):
        add(store, "c", Key("k", "other"))
    assert store.cancel_if_queued("a")
    assert add(store, "d", key).id == "d", "a cancelled job is made again"
    assert store.ids() == {"a", "d"}


def test_cancelled_while_queued_or_asked_of_its_owner(store: JobStore) -> None:
    add(store, "a")
    assert not store.request_cancel("a"), "it has no owner"
    assert store.cancel_if_queued("a")
    assert not store.cancel_if_queued("a")
    add(store, "b")
    job = claim(store)
    assert not store.cancel_if_queued("b")
    assert store.request_cancel("b")
    seen = store.beat(job, {"percent": 10})
    assert seen is not None
    assert (seen.cancel_requested, seen.progress) == (True, {"percent": 10})
    assert store.cancel("b", job.lease)
    assert not store.delete("c")


def test_an_old_lease_changes_nothing(store: JobStore) -> None:
    add(store, "a")
    old = claim(store)
    store.requeue("a", forgive=False, lease=old.lease)
    assert store.beat(old, {}) is None
    assert not store.complete("a", {"by": "old"}, old.lease), "it is nobody's"
    assert state(store, "a") == "queued"
    new = claim(store, "worker-2")
    assert not store.complete("a", {"by": "old"}, old.lease)
    assert not store.fail("a", "code", "message", 500, lease=old.lease)
    assert not store.cancel("a", old.lease)
    store.requeue("a", forgive=True, lease=old.lease)
    assert store.beat(new, {}) is not None
    assert store.complete("a", {"by": "new"}, new.lease)
    assert store.complete("a", {"by": "new"}, new.lease), "the reply to the first may have been lost"
    assert not store.fail("a", "code", "message", 500, lease=new.lease)
    done = store.get("a")
    assert done is not None
    assert done.result == {"by": "new"}


def test_a_lease_runs_out_by_the_databases_clock(database: Database) -> None:
    add(JobStore(database), "a")
    assert JobStore(database, lease_seconds=60).claim("worker-1") is not None
    assert JobStore(database).overdue() == []
    job = JobStore(database).get("a")
    assert job is not None
    assert job.lease_until is not None
    assert abs(job.lease_until - time.time() - 60) < 30
    JobStore(database, lease_seconds=-1).beat(job, {})
    assert [one.id for one in JobStore(database).overdue()] == ["a"]


def test_what_the_sweeper_asks(store: JobStore) -> None:
    for name in "abc":
        add(store, name)
        store.complete(name, {}, claim(store).lease)
    assert store.unmeasured(10) == ["a", "b", "c"]
    store.measured([("a", 2**33), ("b", 10), ("c", 1)])
    assert store.unmeasured(10) == []
    assert store.kept_bytes() == 2**33 + 11
    assert store.oldest_with_files(10) == [("a", 2**33), ("b", 10)], "the last one stays"
    assert store.finished_before(time.time() + 1, 2) == ["a", "b"]
    store.expire(["a"])
    assert store.expired_ids() == {"a"}
    assert store.kept_bytes() == 11


def test_many_claim_at_once_and_each_job_goes_to_one(database: Database) -> None:
    """Also while others add, with one key each."""
    for number in range(20):
        add(JobStore(database), f"job-{number}")
    claimed: list[str] = []

    def work(name: str) -> None:
        store = JobStore(database)
        add(store, name, Key("one key", "digest"))
        while (job := store.claim(name)) is not None:
            claimed.append(job.id)
            store.complete(job.id, {}, job.lease)

    threads = [threading.Thread(target=work, args=(f"late-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(claimed) == len(set(claimed)) == 21
    assert JobStore(database).count("completed") == 21


def test_requests_that_come_at_once_with_one_key_are_one_job(database: Database) -> None:
    stores, together = [JobStore(database) for _ in range(4)], threading.Barrier(4)

    def ask(number: int) -> None:
        for turn in range(10):
            together.wait(30)
            add(stores[number], f"job-{turn}-{number}", Key(f"key {turn}", "digest"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert JobStore(database).count("queued") == 10


# -- a database of several servers -----------------------------------------------------------------------------------


def test_owners_of_two_servers_have_the_same_name_and_differ(shared: PostgresDatabase) -> None:
    here, there = JobStore(shared), JobStore(shared)
    add(here, "a")
    claim(here)
    assert there.claimed_by("worker-1") == []


def test_servers_that_start_together_make_the_tables_once(new_database: Callable[[], str]) -> None:
    url, failures = new_database(), []

    def start() -> None:
        one = PostgresDatabase(url)
        try:
            JobStore(one).count("queued")
        except Exception as error:
            failures.append(error)
        finally:
            one.close()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


def test_a_database_that_is_away_is_one_sentence_and_comes_back(postgres: Postgres, shared: PostgresDatabase) -> None:
    store = JobStore(shared)
    add(store, "a")
    postgres.stop()
    try:
        with pytest.raises(StorageFailed, match=r"The database at 127\.0\.0\.1:\d+ cannot be used now") as raised:
            store.get("a")
        assert raised.value.code == "storage_unreachable"
        assert "cannot be used now" in (store.problem() or "")
    finally:
        postgres.start()
    wait_for(lambda: store.problem() is None)
    assert claim(store).id == "a"


@pytest.mark.parametrize("url", ["mysql://me:secret@host/name", "postgresql://me:secret@[host/name", "secret"])
def test_an_address_that_is_none_is_one_sentence_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput, match="must be postgresql://USER") as raised:
        PostgresDatabase(url)
    assert "secret" not in str(raised.value)
