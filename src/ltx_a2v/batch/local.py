"""Makes the videos of a batch here, one after the other, with weights that stay loaded between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

from ltx_a2v.batch.results import Result
from ltx_a2v.batch.rows import Row
from ltx_a2v.errors import A2VError, InvalidModel
from ltx_a2v.events import Event, GenerationResult
from ltx_a2v.session import A2VPipeline

Watch = Callable[[Generator[Event]], GenerationResult]
"""Shows the events of a generation; its result."""


def make(pipeline: A2VPipeline, rows: Sequence[Row], watch: Watch) -> Iterator[Result]:
    """The result of each row. A row that fails does not end the batch; a model that cannot be read does."""
    pipeline.keep = "device"
    for row in rows:
        started = time.perf_counter()
        error = ""
        try:
            watch(pipeline.generate(row.request))
        except InvalidModel:
            raise
        except A2VError as failure:
            error = str(failure)
        seconds = round(time.perf_counter() - started, 1)
        request = row.request
        yield Result(
            row=row.number,
            status="failed" if error else "completed",
            output=str(request.output_path),
            seconds=seconds,
            seed=request.seed,
            digest=row.digest,
            error=error,
        )
