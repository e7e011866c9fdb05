"""An S3 server for tests: moto's, in this process."""

from __future__ import annotations

import logging

import httpx


class ObjectStore:
    """`stop` and `start` are for tests of a store that is away; objects stay."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._port = 0
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
        }

    def new_bucket(self, name: str) -> str:
        httpx.put(f"{self.environment['AWS_ENDPOINT_URL']}/{name}").raise_for_status()
        return name
