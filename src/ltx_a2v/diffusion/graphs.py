"""CUDA graphs of transformer blocks: captured once, replayed in every later step and request of the same shape.

A block is over a hundred kernels, and on most machines the CPU issues them more slowly than a GPU computes them. A
graph is issued by one call. It repeats kernels with the addresses that they had when it was captured. So everything
that changes between two replays is in static buffers, and a graph is found by everything else that it depends on:

    the static buffers       one set per stage and shape; a new request of the same shape fills them again
    rows and BlockPlan       which kernels run, on how many rows
    adapters                 a graph with LoRA is never replayed without, nor the other way round
    places                   where the weights are, of the transformer's block and of each adapter's

A streamed block's place is its slot, so a few graphs serve all streamed blocks: one per slot, plan and layout. A
resident block's place is its own, so it has its own graph. The alternative is a slot for resident blocks as well, into
which each is copied on the device before it computes: few graphs too, but every step would read and write all weights
once more (22 GB in 8 bits: about 13 ms at an H100's 3.35 TB/s, and double that in bf16). A capture takes about as
long as issuing the block once, and is paid once.

All graphs share one memory pool: they never run at the same time, and what they compute is copied out before the next
begins. Graphs live as long as the weights at the addresses that they captured (`release`), and for one shape of video
(`only_for`), so that their memory does not grow with the number of shapes that a server has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx_a2v.diffusion.attention import KeyValue
from ltx_a2v.diffusion.block_plan import BlockPlan
from ltx_a2v.diffusion.block_step import BlockState, Modulation, Ropes, block_step
from ltx_a2v.hardware.streams import capture_stream
from ltx_a2v.residency.stream import Place

Work = Callable[[], None]
Places = Callable[[int], tuple[Place, ...]]
"""Where the weights of block i are: the transformer's place first, then each adapter's."""

OUT_OF_MEMORY = "out of memory"
"""Part of the message with which CUDA and torch refuse memory."""


class Capturer(Protocol):
    """Turns work on static buffers into a call that repeats it."""

    @property
    def nbytes(self) -> int:
        """Bytes of the pool, from which graphs take what they allocate while they run."""

    def prepare(self) -> None:
        """Free what the captures of a stage may need; called before the first of them."""

    def capture(self, work: Work) -> Work:
        """A call that repeats `work`, which is not executed now.

        Raises `RuntimeError` where `work` cannot be captured; everything is then as before the call.
        """

    def release(self) -> None:
        """Free the pool. What was captured must not be repeated any more."""


class BlockGraphs:
    """All graphs of one model, with their static buffers."""

    def __init__(self, capturer: Capturer) -> None:
        self.captures = 0
        """How many graphs were captured so far."""
        self.refused = False
        """Whether a capture failed for another reason than memory: no further ones are tried."""
        self._capturer = capturer
        self._shape: Hashable = None
        self._replays: dict[Hashable, Work] = {}
        self._buffers: dict[Hashable, StaticBuffers] = {}
        self._audio_text: dict[Hashable, KeyValue] = {}
        self._warm: set[Hashable] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of device memory: static buffers and pool."""
        held = [*self._buffers.values(), *self._audio_text.values()]
        return self._capturer.nbytes + sum(tensor.nbytes for tensor in _tensors(tuple(held)))

    def only_for(self, shape: Hashable) -> None:
        """Release the graphs of any other shape of video."""
        if shape != self._shape:
            self.release()
        self._shape = shape

    def stage(self, adapters: tuple[str, ...], places: Places) -> StageGraphs:
        return StageGraphs(self, adapters, places)

    def release(self) -> None:
        """Forget all graphs and their buffers; to be called before the weights are freed that they compute with."""
        if self._buffers or self._audio_text:
            self._replays.clear()
            self._buffers.clear()
            self._audio_text.clear()
            self._capturer.release()

    # -- for one stage -----------------------------------------------------------------------------------------------

    def buffers_for(self, state: BlockState, rows: int) -> StaticBuffers:
        key = StaticBuffers.key(state, rows)
        if key not in self._buffers:
            self._buffers[key] = StaticBuffers.like(state, rows)
        return self._buffers[key]

    def audio_text(self, index: int, value: KeyValue) -> KeyValue:
        """`value`, in the static buffer of block `index`."""
        key = index, _shape_of(value)
        if key not in self._audio_text:
            self._audio_text[key] = _empty_like(value)
        _fill(self._audio_text[key], value)
        return self._audio_text[key]

    def is_warm(self, stage: Hashable) -> bool:
        """Whether such a stage ran before in this process: its kernels are compiled, its libraries initialised."""
        return stage in self._warm

    def warmed(self, stage: Hashable) -> None:
        self._warm.add(stage)

    def prepare(self) -> None:
        self._capturer.prepare()

    def replay(self, key: Hashable, work: Work) -> Work:
        """The graph of that key, captured from `work` where there is none. Raises `RuntimeError`."""
        found = self._replays.get(key)
        if found is None:
            found = self._replays[key] = self._capturer.capture(work)
            self.captures += 1
        return found


class StageGraphs:
    """The graphs of one stage while it runs.

    The first step of a stage that is new to the process is not captured: it compiles kernels and initialises libraries,
    which a capture forbids. After that, a block is captured when a step first comes to it. This holds for stage 2 with
    its three steps too: the CPU captures a block while the GPU still computes the blocks before it, so it costs little
    time, and every later request replays them.
    """

    def __init__(self, graphs: BlockGraphs, adapters: tuple[str, ...], places: Places) -> None:
        self._graphs = graphs
        self._adapters = adapters
        self._places = places
        self._buffers: StaticBuffers | None = None
        self._stage: Hashable = None
        self._capturing = False
        self._prepared = False
        self._gave_up = graphs.refused
        self._notices: list[str] = []

    def begin_step(self, state: BlockState, plans: tuple[BlockPlan, ...]) -> BlockState:
        """`state` as it is before the first block, in static buffers."""
        if self._buffers is None:
            rows = max(len(plan.cross_attention) for plan in plans)
            self._stage = StaticBuffers.key(state, rows), plans, self._adapters
            self._buffers = self._graphs.buffers_for(state, rows)
            self._buffers.begin_stage(state)
        self._capturing = not self._gave_up and self._graphs.is_warm(self._stage)
        return self._buffers.begin_step(state)

    def keep(self, index: int, audio_text: KeyValue) -> KeyValue:
        """The keys and values of a block's audio text, where its graph finds them in every step of this stage."""
        return self._graphs.audio_text(index, audio_text)

    def run(self, index: int, block: Any, state: BlockState, plan: BlockPlan) -> BlockState:
        """`block_step`, from static buffers to static buffers."""
        assert self._buffers is not None
        places = self._places(index)
        given = replace(state, audio_text=self._buffers.text_at(places[0], state.audio_text))
        after = self._buffers.after(state, plan)
        work = partial(_compute, block, given, plan, after)
        rows = len(state.video), len(state.audio)
        key = self._buffers, rows, plan, self._adapters, places, _shape_of(given.audio_text)
        (self._replay(key, work) if self._capturing else work)()
        return after

    def end_step(self) -> None:
        """After the last block."""
        self._graphs.warmed(self._stage)

    def take_notices(self) -> list[str]:
        """What the user should know, once."""
        notices, self._notices = self._notices, []
        return notices

    def _replay(self, key: Hashable, work: Work) -> Work:
        try:
            if not self._prepared:
                self._graphs.prepare()
                self._prepared = True
            return self._graphs.replay(key, work)
        except RuntimeError as error:
            self._give_up(error)
            return work

    def _give_up(self, error: RuntimeError) -> None:
        """Compute without graphs: until the end of the stage where memory was short, else for good."""
        self._capturing, self._gave_up = False, True
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        self._graphs.refused = OUT_OF_MEMORY not in reason.lower()
        self._graphs.release()
        self._notices.append(f"Steps may take longer without CUDA graphs, which cannot be used: {reason}.")


@dataclass(frozen=True, eq=False)
class StaticBuffers:
    """The inputs and outputs of the blocks of one stage, at addresses that stay: the fields are those of a
    `BlockState`, with `video` and `audio` for the largest number of rows."""

    video: Tensor
    audio: Tensor
    texts: Tensor
    shared_text: list[KeyValue]
    """The audio's text of the block in a slot: none, or one."""
    modulation: Modulation
    ropes: Ropes

    @staticmethod
    def key(state: BlockState, rows: int) -> Hashable:
        return rows, _shape_of((state.video, state.audio, state.texts, state.modulation, state.ropes))

    @classmethod
    def like(cls, state: BlockState, rows: int) -> StaticBuffers:
        """For `rows` rows; `state` has one of each kind."""
        video, audio = (t.new_empty(rows, *t.shape[1:]) for t in (state.video, state.audio))
        return cls(video, audio, *_empty_like((state.texts, [], state.modulation, state.ropes)))

    def begin_stage(self, state: BlockState) -> None:
        _fill((self.texts, self.ropes), (state.texts, state.ropes))

    def begin_step(self, state: BlockState) -> BlockState:
        _fill(self.modulation, state.modulation)
        video, audio = self.video[: len(state.video)], self.audio[: len(state.audio)]
        _fill((video, audio), (state.video, state.audio))
        return BlockState(video, audio, self.texts, None, self.modulation, self.ropes)

    def after(self, state: BlockState, plan: BlockPlan) -> BlockState:
        """Where the state is after a block."""
        rows = len(plan.cross_attention)
        audio = self.audio[: rows - plan.isolated] if plan.audio_used else state.audio
        return replace(state, video=self.video[:rows], audio=audio)

    def text_at(self, place: Place, value: KeyValue | None) -> KeyValue | None:
        """A resident block's own buffer; in a slot, the buffer of all blocks that take turns there (8 MB at full size,
        copied on the device: far less than computing keys and values again)."""
        if value is None or place.slot is None:
            return value
        if not self.shared_text:
            self.shared_text.append(_empty_like(value))
        _fill(self.shared_text[0], value)
        return self.shared_text[0]


def _compute(block: Any, given: BlockState, plan: BlockPlan, after: BlockState) -> None:
    made = block_step(block, replace(given), plan)
    after.video.copy_(made.video)
    if plan.audio_used:
        after.audio.copy_(made.audio)


# -- values of tensors -----------------------------------------------------------------------------------------------


def _tensors(value: Any) -> Iterator[Tensor]:
    """Of a tensor, or of a tuple, list or dataclass of such values, in order."""
    if isinstance(value, Tensor):
        yield value
    elif value is not None:
        for part in value if isinstance(value, (tuple, list)) else _parts(value).values():
            yield from _tensors(part)


def _empty_like(value: Any) -> Any:
    """The same structure with new tensors, uninitialised, of the same shapes and strides."""
    if isinstance(value, Tensor):
        return torch.empty_like(value)
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        return type(value)(map(_empty_like, value))
    return type(value)(**{name: _empty_like(part) for name, part in _parts(value).items()})


def _fill(target: Any, source: Any) -> None:
    for buffer, value in zip(_tensors(target), _tensors(source), strict=True):
        buffer.copy_(value)


def _shape_of(value: Any) -> Hashable:
    return tuple((tensor.shape, tensor.dtype) for tensor in _tensors(value))


def _parts(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


# -- on a GPU --------------------------------------------------------------------------------------------------------


class CudaCapturer:
    """Graphs of one GPU, all of one pool.

    They are captured on a stream of their own, as the default stream cannot be captured, and replayed on the current
    one. Copies of weights go on meanwhile in another thread, which the mode `thread_local` allows.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._graphs: list[torch.cuda.CUDAGraph] = []

    @property
    def nbytes(self) -> int:
        """Not known: torch's allocator counts the pool among what it has reserved."""
        return 0

    def prepare(self) -> None:
        """While a stream is captured, the allocator does not give back memory that it caches.

        cuBLAS allocates a workspace per stream when it is first used: here, as it outlives the pool.
        """
        with torch.cuda.stream(capture_stream(self._device)):
            some = torch.zeros(16, 16, dtype=torch.bfloat16, device=self._device)
            F.linear(some, some, some[0])
            F.linear(some, some)
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()

    def capture(self, work: Work) -> Work:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(capture_stream(self._device)):
            try:
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                work()
                graph.capture_end()
            except BaseException:
                self._abandon(graph)
                raise
        self._graphs.append(graph)
        return partial(_launch, graph)

    def release(self) -> None:
        """Waits for replays under way, whose memory this frees."""
        with suppress(RuntimeError):  # the error of a kernel, which whoever waits for its result is told
            torch.cuda.synchronize(self._device)
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()
        self._pool = None
        torch.cuda.empty_cache()

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture that failed, so that stream and allocator work as before.

        torch's `capture_end` ends the allocator's part only where CUDA's part succeeded.
        """
        with suppress(RuntimeError):
            graph.capture_end()
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(self._device_index(), self._pool)
            torch._C._cuda_releasePool(self._device_index(), self._pool)
        with suppress(RuntimeError):
            graph.reset()
        _abandoned.append(graph)

    def _device_index(self) -> int:
        return torch.cuda.current_device() if self._device.index is None else self._device.index


_abandoned: list[torch.cuda.CUDAGraph] = []
"""Kept: torch's allocator of pinned memory goes on asking the object about its capture."""


def graphs_for(device: torch.device) -> BlockGraphs | None:
    return BlockGraphs(CudaCapturer(device)) if device.type == "cuda" else None


def _launch(graph: torch.cuda.CUDAGraph) -> None:
    try:
        graph.replay()
    except RuntimeError as error:
        if OUT_OF_MEMORY in str(error).lower():  # the first launch uploads the graph
            raise torch.OutOfMemoryError(str(error)) from error
        raise
