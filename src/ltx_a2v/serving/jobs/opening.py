"""The records and folders that the settings name."""

from __future__ import annotations

from ltx_a2v.serving.jobs.bucket import Bucket
from ltx_a2v.serving.jobs.bucket_folders import BucketFolders
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.postgres import PostgresDatabase
from ltx_a2v.serving.jobs.records import JobStore
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import parse_duration


def open_records(settings: ServerSettings) -> JobStore:
    """In the database that the settings name, else in the state folder."""
    if settings.database is not None:
        return JobStore(PostgresDatabase(settings.database.get_secret_value()), parse_duration(settings.lease))
    return JobStore(settings.state.resolve() / "jobs.sqlite3")


def folders_of(settings: ServerSettings) -> Folders:
    """Not made yet."""
    outputs, state = settings.output_dir.resolve(), settings.state.resolve()
    if settings.storage is None:
        return Folders(outputs, state)
    return BucketFolders(outputs, state, Bucket(settings.storage))
