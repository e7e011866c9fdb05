"""Runs the method on an open model: planning, loading, and retrying with a smaller plan when memory runs out.

`A2VPipeline` is the library's public interface. Use one per process; it handles one request at a time and is not
thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch

from ltx_a2v import kernels, puppet
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.diffusion.guidance import Pass, passes_of
from ltx_a2v.errors import SMALLER_REQUEST, BudgetTooSmall, InvalidInput, InvalidRequest, OutOfMemory, named
from ltx_a2v.events import Done, Event, GenerationResult, Notice, PhaseFinished, Planned
from ltx_a2v.fitting import FittedRequest, VideoShape, fit_request, largest_window, shape_of, windows_of
from ltx_a2v.hardware.budget import Budget, capped, gib, memory_holders
from ltx_a2v.hardware.host_memory import host_memory_total
from ltx_a2v.hardware.streams import each_on_device, on_device
from ltx_a2v.marks.marks import UNMARKED, Marks
from ltx_a2v.marks.settings import Made
from ltx_a2v.media.check import check_video
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.model import Model
from ltx_a2v.parallel.helpers import Helpers
from ltx_a2v.phases import GIB, PhaseLog
from ltx_a2v.pipeline import generate_video, half_stage
from ltx_a2v.planning.auto_mode import AUTO, SMALLER, plan_in_one_line, reason_for_smaller
from ltx_a2v.planning.plan import Keep, Plan
from ltx_a2v.planning.planner import Planner, smaller_budget
from ltx_a2v.planning.prediction import Prediction
from ltx_a2v.planning.probe import Speeds
from ltx_a2v.progress import with_bars
from ltx_a2v.prompts.encoder import PromptEncoder
from ltx_a2v.prompts.enhancer import SECONDS
from ltx_a2v.prompts.wording import check_enhancer, worded
from ltx_a2v.quantization import parse_blocks
from ltx_a2v.request import GenerationRequest, Quality, unused_by_fast
from ltx_a2v.residency.ahead import ReadAhead
from ltx_a2v.residency.ledger import Ledger
from ltx_a2v.residency.shared_memory import SharedMemory
from ltx_a2v.settings.loading import LoadOptions, PromptEnhancer
from ltx_a2v.settings.model import ModelSettings
from ltx_a2v.work_dir import identity_of, open_work_dir, prompt_in

MINIATURE = "the miniature of ltx-a2v"
"""What marks call the model that ships."""
USUAL_FRAMES = 97
"""Four seconds: what `prepare` expects where no request is given."""


class A2VPipeline:
    """One model, ready to generate. Opening checks every file's header; weights are read when a phase needs them."""

    def __init__(self, model: Model, helping: Sequence[torch.device] = (), memory: Sequence[int] = ()) -> None:
        """`helping`: the further devices of `open`; `memory` as there."""
        self._helpers = Helpers(helping, len(model.style_loras), memory) if helping else None
        self._memory = tuple(memory)
        self._shared: list[SharedMemory] = []
        self._use(model)
        self._undecided = model.options.transformer_quantization == AUTO
        self._auto_reason: str | None = None
        self.keep: Keep = model.options.keep
        """Where weights may stay between requests; may be changed between two of them."""

    def _use(self, model: Model) -> None:
        for shared in self._shared:
            shared.close()
        if self._helpers is not None:
            model = self._helpers.joined(model)
        else:
            self._shared = model.share_host_copies(self._memory)
        self.model = model
        self._planner = Planner(model)
        self._prompts = PromptEncoder(model)
        self._speeds: dict[VideoShape, Speeds] = {}

    def __repr__(self) -> str:
        return f"A2VPipeline({self.model.files.paths.checkpoint.name!r}, device={str(self.device)!r})"

    @classmethod
    def open(
        cls,
        paths: ModelPaths,
        *,
        device: str | torch.device | None = None,
        devices: Sequence[str | torch.device] = (),
        dtype: torch.dtype | None = None,
        options: LoadOptions | None = None,
        memory: Sequence[int] = (),
    ) -> A2VPipeline:
        """`device`: a GPU where there is one; `dtype`: bfloat16 on a GPU, float32 on the CPU.

        `devices`, instead of `device`: several GPUs that make each video together. The first one is this process's; for
        each other one a process is started, which `close`, or the end of a `with` block, ends. See `parallel`.

        `memory`: descriptors of memory files, one for each network that is streamed (the transformer, then each style
        LoRA), in which this and other processes keep one copy of its weights; they stay the caller's.

        With the quantization "auto", the first plan chooses the format, which then stays: see `planning/auto_mode.py`.

        Raises `InvalidModel` for files that are wrong or do not belong together, `InvalidMode` for a quantization that
        they or the device cannot have, `InvalidInput` for a device that does not exist or a dtype that is not
        supported.
        """
        chosen, *helping = choose_devices(device, devices)
        if dtype not in (None, torch.bfloat16, torch.float32):
            raise InvalidInput(f"dtype {dtype!r} is not supported; use torch.bfloat16 or torch.float32.")
        default = torch.bfloat16 if chosen.type == "cuda" else torch.float32
        return cls(Model.open(ModelFiles.open(paths), chosen, dtype or default, options), helping, memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free all memory, and end the processes of further devices."""
        self.release()
        if self._helpers is not None:
            self._helpers.close()
        for shared in self._shared:
            shared.close()
        self._shared.clear()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def model_version(self) -> str:
        return self.model.config.model_version

    # -- planning ----------------------------------------------------------------------------------------------------

    def plan(self, request: GenerationRequest, budget: Budget | None = None) -> Plan:
        """Where weights will be while this request is made, and the peaks that follow; loads nothing.

        Raises `BudgetTooSmall`, naming the smallest budget that works, and what `generate` raises for the request.
        """
        return self._plan(self._fit(request).shape, budget or self.model.options.budget)

    def plan_for(self, request: GenerationRequest, budget: Budget | None = None) -> Plan:
        """The plan for the request's size, frames and guidance; looks at none of its files.

        Raises `InvalidRequest` where `num_frames` is "auto": only a sound says how many those are.
        """
        return self._plan(self._shape(request), budget or self.model.options.budget)

    def measure(self, request: GenerationRequest) -> Speeds:
        """Measure how fast this machine reads, copies and computes for such a request; takes seconds.

        Later reports of requests of that shape have the predicted seconds next to the measured ones.
        """
        if self._helpers is not None:
            raise InvalidInput(f"Measuring is for one GPU; leave it out, or use {named('gpus_per_clip')} 1.")
        shape = self._shape(request)
        with on_device(self.device):
            self._speeds[shape] = self._planner.measure(shape)
        return self._speeds[shape]

    def measure_fitted(self, request: GenerationRequest) -> Speeds:
        """As `measure`, for a request whose frames its sound decides. Raises what `generate` raises for the request."""
        return self.measure(request.model_copy(update={"num_frames": self._fit(request).shape.num_frames}))

    def predict(self, request: GenerationRequest, plan: Plan, speeds: Speeds) -> Prediction:
        """How long the request would take within `plan`, with prompts that are not in the cache."""
        return self._predict(self._shape(request), request.num_inference_steps, plan, speeds)

    # -- weights -----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def prepare(self, request: GenerationRequest | None = None) -> Plan:
        """Load the weights to where the plan for such requests, or for requests of the default size, keeps them.

        Raises `BudgetTooSmall`, and `OutOfMemory` when the device or the host could not hold them.
        """
        quality: Quality = "fast" if self.model.files.distilled_lora is None else "standard"
        usual = GenerationRequest(prompt="", audio=Path(), num_frames=USUAL_FRAMES, quality=quality)
        shape = self._fit(request).shape if request else self._shape(usual)
        plan = self._plan(shape, self.model.options.budget)
        try:
            with ExitStack() as stack:
                stack.enter_context(_host_memory_errors())
                stack.enter_context(on_device(self.device))
                stack.enter_context(capped(self.device, plan.budget))
                if self._helpers is not None:
                    stack.enter_context(self._helpers.job(self.model, shape, plan, self.keep, smaller=False))
                placed = self.model.within(plan.placements)
                with placed.reading_ahead():
                    placed.preload()
        except torch.OutOfMemoryError as error:
            self.release()
            raise self._out_of_memory("while the weights were loaded") from error
        return plan

    def release(self, to: Literal["host", "nothing"] = "nothing") -> None:
        """Free the device's memory; with "nothing", the host's too."""
        if self._helpers is not None:
            self._helpers.release(to)
        with on_device(self.device):
            self.model.release(to)
        if self._helpers is not None and to == "nothing":
            self._helpers.clear_memory()

    # -- generating --------------------------------------------------------------------------------------------------

    def run(self, request: GenerationRequest, progress: bool = False) -> GenerationResult:
        """Generate to the end and return the result; raises what `generate` raises.

        With `progress`, a bar for each phase is shown on stderr, or in the notebook.
        """
        events: Iterable[Event] = with_bars(self.generate(request)) if progress else self.generate(request)
        for event in events:
            if isinstance(event, Done):
                return event.result
        raise AssertionError("a generation ends with Done")

    def generate(self, request: GenerationRequest, plan: Plan | None = None) -> Generator[Event]:
        """Make the video and yield events; the last one is `Done`.

        Closing the iterator stops the work and leaves no partial file. With a `plan` (of `plan` or `plan_for`) weights
        are placed as it says. Raises `InvalidInput` (and below) and `BudgetTooSmall` before any weights are read where
        the request, its files or the budget are wrong, and `OutOfMemory` when the device could not hold the work, nor a
        smaller plan for it.
        """
        return each_on_device(self._generate(request, plan), self.device)

    @torch.inference_mode()
    def _generate(self, request: GenerationRequest, plan: Plan | None) -> Generator[Event]:
        with _host_memory_errors():
            check_enhancer(request, self.model.options.prompt_enhancer)
            fitted = self._fit(request)
            if self._helpers is not None:
                self._helpers.check_passes(fitted.shape)
                self._helpers.start()
            keep = self.keep if len(fitted.windows) == 1 else "device"
            plan = plan or self._plan(fitted.shape, self.model.options.budget, keep)
            self._check_host_memory(plan)
            known = self._known_prompt(fitted)
            if request.enhance_prompt and known is None:
                yield Notice(f"The prompt enhancer is asked; it may take {SECONDS:g} s.")
            fitted = _worded(fitted, self.model.options.prompt_enhancer, known)
            marks = Marks.begin(self.model.options.marking, fitted.request, _made(fitted, self.model))
            report = _Report(fitted, self.model, marks)
            with closing(self._with_second_attempt(fitted, plan, report)) as events:
                for event in events:
                    report.add(event)
                    yield event
            for told in map(Notice, [UNMARKED] if marks is None else marks.notices):
                report.add(told)
                yield told
            if request.check_sync and (notice := report.measure_sync()):
                yield notice
            yield Done(report.result(self._prompts.encoded, self._helpers.report if self._helpers else ()))

    def _known_prompt(self, fitted: FittedRequest) -> str | None:
        """The enhancer's words for the windows that are finished: it would answer differently for the others."""
        request = fitted.request
        if not request.enhance_prompt or request.work_dir is None or len(fitted.windows) == 1:
            return None
        return prompt_in(request.work_dir, identity_of(fitted, self.model))

    def _with_second_attempt(self, fitted: FittedRequest, plan: Plan, report: _Report) -> Generator[Event]:
        """With a smaller plan where the device could not hold the first."""
        yield Planned(plan_in_one_line(plan, self.model, self._auto_reason))
        yield from map(Notice, (*fitted.notices, *plan.notes))
        shape, paths = fitted.shape, self.model.files.paths
        if unfamiliar := puppet.unfamiliar(paths, shape.width, shape.height, shape.frame_rate):
            yield Notice(unfamiliar)
        if unused := unused_by_fast(fitted.request):
            yield Notice(unused)
        if self.device.type == "cuda" and (reason := kernels.problem(self.device)):
            yield Notice(f"Steps take longer without the fused kernels, which cannot be used: {reason}.")
        try:
            yield from self._attempt(fitted, plan, plan.budget, report)
            return
        except torch.OutOfMemoryError:
            self.release("host")  # memory of the failed attempt is freed with its traceback
        try:
            smaller = self._smaller_plan(fitted.shape, plan)
            yield Notice(f"{self.device} ran out of memory; trying again within {gib(smaller.budget or 0)}.")
            yield Planned(plan_in_one_line(smaller, self.model, self._auto_reason))
            yield from self._attempt(fitted, smaller, plan.budget, report)
        except (torch.OutOfMemoryError, BudgetTooSmall) as error:
            self.release()
            raise self._out_of_memory("also with a smaller plan") from error

    def _attempt(self, fitted: FittedRequest, plan: Plan, limit: int | None, report: _Report) -> Generator[Event]:
        """Within `limit` bytes of the device. On a CPU, a ledger stands in for the device and keeps the limit.

        Between the windows of a long video, weights stay where they would stay between requests.
        """
        speeds = self._speeds.get(fitted.shape)
        steps = fitted.request.num_inference_steps
        report.begin_attempt(plan, self._predict(fitted.shape, steps, plan, speeds) if speeds else None)
        ledger = Ledger(limit) if self.device.type == "cpu" and limit is not None else None
        model = self.model.within(plan.placements, graphs=plan.graphs)
        with ExitStack() as stack:
            work = None
            if len(fitted.windows) > 1:
                request, identity = fitted.request, identity_of(fitted, self.model)
                work = stack.enter_context(
                    open_work_dir(request.work_dir, identity, request.prompt, request.output_path)
                )
                stack.callback(self._release_beyond, self.keep)
            if self._helpers is not None:
                smaller = limit != plan.budget
                stack.enter_context(self._helpers.job(self.model, fitted.shape, plan, plan.keep, smaller))
            stack.enter_context(capped(self.device, limit))
            log = PhaseLog(self.device, ledger)
            events = stack.enter_context(closing(generate_video(model, self._prompts, fitted, log, work, report.marks)))
            report.ahead = stack.enter_context(model.reading_ahead())
            yield from events if ledger is None else ledger.during(events)

    def _release_beyond(self, keep: Keep) -> None:
        """Free what was kept between windows and is not to be kept between requests."""
        if keep != "device":
            self.release("host" if keep == "host" else "nothing")

    def _predict(self, shape: VideoShape, steps: int, plan: Plan, speeds: Speeds) -> Prediction:
        texts = 1 + (Pass.NEGATIVE in passes_of(shape.guidance))
        stage = half_stage(steps, shape, self.model.config.version.schedule)
        return self._planner.predict(plan, speeds, stage.sweeps, texts)

    # -- what fits ---------------------------------------------------------------------------------------------------

    def _fit(self, request: GenerationRequest) -> FittedRequest:
        return fit_request(request, self.model.files, [lora.path for lora in self.model.options.loras])

    def _shape(self, request: GenerationRequest) -> VideoShape:
        if request.num_frames == "auto":
            raise InvalidRequest(
                "num_frames", "auto", "depends on the audio, which a plan does not read; give a number"
            )
        video = shape_of(request, request.num_frames, self.model.files)
        return largest_window(video, windows_of(request, request.num_frames))

    def _plan(self, shape: VideoShape, budget: Budget, keep: Keep | None = None) -> Plan:
        if self._helpers is not None:
            self._helpers.check_passes(shape)
        with on_device(self.device):
            limit = budget.resolve(self.device, self._reserved())
            if self._undecided:
                self._decide(shape, limit)
            return self._planner.plan(shape, limit, keep or self.keep)

    def _check_host_memory(self, plan: Plan) -> None:
        """Raises `BudgetTooSmall` where a CPU without a limit would take more memory than there is: the kernel would
        end the process without a word."""
        if self.device.type == "cpu" and plan.budget is None and plan.peak > (total := host_memory_total()):
            raise BudgetTooSmall(
                f"No GPU is used, and on the CPU this video takes {gib(plan.peak)}, more than the host's {gib(total)}: "
                f"choose a GPU with {named('device')} (`ltx-a2v doctor` says which are found), or give a "
                f"{named('vram_budget')} below what is free, which streams weights and takes hours."
            )

    def _decide(self, shape: VideoShape, budget: int | None) -> None:
        """Choose the format of the quantization "auto", once: another format would be another model."""
        self._undecided = False
        reason = reason_for_smaller(self.model, self._planner, shape, budget, self.keep)
        self._auto_reason = reason or "the file's own format"
        if reason is not None:
            model = self.model
            options = replace(model.options, transformer_quantization=SMALLER)
            self._use(Model.open(model.files, model.device, model.dtype, options))

    def _smaller_plan(self, shape: VideoShape, failed: Plan) -> Plan:
        """Plan for the free memory less twice the headroom, and for at most 90% of the failed plan if that can work."""
        headroom = 2 * self.model.options.budget.headroom
        roomy = Budget("auto", headroom=headroom).resolve(self.device, self._reserved())
        return self._planner.plan(shape, smaller_budget(failed, roomy), failed.keep)

    def _reserved(self) -> int:
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0

    def _out_of_memory(self, when: str) -> OutOfMemory:
        holders = memory_holders(self.device)
        return OutOfMemory(
            f"{self.device} ran out of memory, {when}{f' ({holders})' if holders else ''}; "
            f"free some, or {SMALLER_REQUEST}."
        )


class _Report:
    """Collects the events of one generation. A second attempt starts the phases over."""

    def __init__(self, fitted: FittedRequest, model: Model, marks: Marks | None) -> None:
        self.marks = marks
        self._fitted = fitted
        self._model = model
        self._line = ""
        self._started = time.perf_counter()
        self._notices: list[str] = []
        self._sync: dict[str, Any] = {}
        self.ahead = ReadAhead([])
        self.begin_attempt(None)

    def begin_attempt(self, plan: Plan | None, prediction: Prediction | None = None) -> None:
        self._plan = plan
        self._prediction = prediction
        self._finished: dict[str, PhaseFinished] = {}

    def add(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._line = event.message
        elif isinstance(event, Notice):
            self._notices.append(event.message)
        elif isinstance(event, PhaseFinished):
            known = self._finished.get(event.phase)
            self._finished[event.phase] = event if known is None else _both(known, event)

    def measure_sync(self) -> Notice | None:
        """In the finished file; a notice where that cannot be done, which is no reason to lose the video."""
        drawn = puppet.is_puppet(self._model.files.paths)
        try:
            self._sync = {"sync": check_video(self._fitted.request.output_path, "drawn" if drawn else "real").as_json()}
        except InvalidInput as error:
            notice = Notice(f"The sync was not measured: {error.template}")
            self.add(notice)
            return notice
        return None

    def result(self, prompts_encoded: int, helpers: Sequence[dict[str, Any]] = ()) -> GenerationResult:
        request, shape, finished = self._fitted.request, self._fitted.video, self._finished
        return GenerationResult(
            output_path=request.output_path,
            width=shape.width,
            height=shape.height,
            num_frames=self._fitted.num_frames,
            frame_rate=shape.frame_rate,
            seed=request.seed,
            elapsed_seconds=round(time.perf_counter() - self._started, 3),
            peak_vram_gib=max(phase.allocated_gib for phase in finished.values()),
            phases={name: phase.seconds for name, phase in finished.items()},
            model_version=self._model.config.model_version,
            quality=request.quality,
            notices=tuple(self._notices),
            details={
                "plan": self._line,
                "prompt": request.prompt,
                "transformer_quantization": self._model.transformer_policy.mode,
                "windows": len(self._fitted.windows),
                "memory": self._memory(),
                "prompts_encoded": prompts_encoded,
                "marks": None if self.marks is None else self.marks.as_json(),
                "read_ahead": self._read_ahead(),
                **({"helpers": list(helpers)} if helpers else {}),
                **self._predicted(),
                **self._sync,
            },
        )

    def _read_ahead(self) -> dict[str, float]:
        """What a thread read while phases ran; their seconds do not contain it."""
        return {"gib": round(self.ahead.nbytes / GIB, 3), "seconds": round(self.ahead.seconds, 3)}

    def _predicted(self) -> dict[str, dict[str, float]]:
        """Seconds per phase as predicted, where the machine was measured."""
        if self._prediction is None:
            return {}
        return {"predicted": {name: round(seconds, 3) for name, seconds in self._prediction.phases.items()}}

    def _memory(self) -> dict[str, dict[str, float]]:
        """GiB per phase: predicted, used by tensors at most, and reserved for them by the allocator."""
        predicted: dict[str, int] = {}
        for phase in self._plan.phases if self._plan else ():
            name = "encode_prompt" if phase.name in ("text_encoder", "connectors") else phase.name
            predicted[name] = max(predicted.get(name, 0), phase.peak)
        return {
            name: {
                "predicted": round(peak / GIB, 3),
                "allocated": self._finished[name].allocated_gib,
                "reserved": self._finished[name].reserved_gib,
            }
            for name, peak in predicted.items()
        }


def _both(one: PhaseFinished, other: PhaseFinished) -> PhaseFinished:
    """A phase that ran in two windows."""
    return PhaseFinished(
        one.phase,
        round(one.seconds + other.seconds, 3),
        max(one.allocated_gib, other.allocated_gib),
        max(one.reserved_gib, other.reserved_gib),
    )


def _made(fitted: FittedRequest, model: Model) -> Made:
    """What the marks say of the model."""
    video, options, config = fitted.video, model.options, model.config
    return Made(
        model=MINIATURE if puppet.is_puppet(model.files.paths) else f"{config.version.name}, {config.model_version}",
        video={
            "width": video.width,
            "height": video.height,
            "num_frames": video.num_frames if fitted.repair is None else fitted.repair.frames,
            "frame_rate": video.frame_rate,
        },
        modes={
            "transformer_quantization": model.transformer_policy.mode,
            "text_encoder_quantization": model.text_policy.mode,
            "distilled_lora_strength": options.distilled_lora_strength,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        loras=tuple((lora.path, lora.strength) for lora in options.loras),
    )


def _worded(fitted: FittedRequest, enhancer: PromptEnhancer | None, known: str | None) -> FittedRequest:
    """With the final prompt, which the report then has too: `known` from an earlier run, or found now."""
    asked = fitted.request
    prompt, notices = worded(asked, enhancer) if known is None else (known, (f"The prompt became: {known}",))
    request = asked.model_copy(update={"prompt": prompt})
    return replace(fitted, request=request, asked=asked.prompt, notices=(*notices, *fitted.notices))


def choose_device(device: str | torch.device | None) -> torch.device:
    """Raises `InvalidInput` when the device does not exist here."""
    name = f"{named('device')} {device!r}"
    available = torch.cuda.is_available()
    try:
        chosen = torch.device(device or ("cuda" if available else "cpu"))
    except RuntimeError:
        raise InvalidInput(f"{name} is no device; use cuda, cuda:1 or cpu.") from None
    if chosen.type not in ("cuda", "cpu"):
        raise InvalidInput(f"{name} is not supported; use cuda or cpu.")
    if chosen.type == "cpu" and chosen.index:
        raise InvalidInput(f"{name} does not exist: there is one CPU; use {named('device')} cpu.")
    if chosen.type == "cuda" and (not available or (chosen.index or 0) >= torch.cuda.device_count()):
        found = f"{torch.cuda.device_count()} GPUs" if available else "no GPU that PyTorch can use"
        raise InvalidInput(f"{name} was asked for, but this machine has {found}; use {named('device')} cpu.")
    return chosen


def choose_devices(device: str | torch.device | None, devices: Sequence[str | torch.device] = ()) -> list[torch.device]:
    """One device, or those that make each video together. Raises `InvalidInput`."""
    if not devices:
        return [choose_device(device)]
    if device is not None:
        raise InvalidInput(f"device {device!r} and devices exclude each other: give one of them.")
    chosen = [choose_device(each) for each in devices]
    gpus = [each.index or 0 for each in chosen if each.type == "cuda"]
    twice = next((index for index in gpus if gpus.count(index) > 1), None)
    if twice is not None:
        raise InvalidInput(f"devices names 'cuda:{twice}' twice; name each GPU once.")
    if len({each.type for each in chosen}) > 1:
        raise InvalidInput("devices are GPUs or the CPU, not both; give one kind.")
    return chosen


def devices_from(first: str | None, count: int) -> list[torch.device]:
    """`count` devices, beginning with `first`: the GPUs that follow it, or so many processes on the CPU.

    `first` may also be all of them, with commas between. Raises `InvalidInput` where there are not so many GPUs.
    """
    if first is not None and "," in first:
        return choose_devices(None, first.split(","))
    chosen = choose_device(first)
    if chosen.type == "cpu" or count == 1:
        return [chosen] * count
    index, found = chosen.index or 0, torch.cuda.device_count()
    if index + count > found:
        after = f" from {chosen} on" if index else ""
        reason = f"is more than the GPUs of this machine{after}, {found - index}; use at most {found - index}"
        raise InvalidRequest("gpus_per_clip", count, reason)
    return [torch.device("cuda", index + i) for i in range(count)]


@contextmanager
def _host_memory_errors() -> Iterator[None]:
    """Errors of the host's allocators become `OutOfMemory`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(f"The host's memory is used up; close other programs, or {SMALLER_REQUEST}.") from error


def open_pipeline(settings: ModelSettings, memory: Sequence[int] = ()) -> A2VPipeline:
    """`memory` as of `A2VPipeline.open`.

    Raises what that raises, and `InvalidRequest` for a setting that cannot be read.
    """
    return A2VPipeline.open(
        settings.model_paths,
        devices=devices_from(settings.device, settings.gpus_per_clip),
        dtype=getattr(torch, settings.dtype) if settings.dtype else None,
        options=LoadOptions(
            transformer_quantization=settings.transformer_quantization,
            keep_bf16_blocks=parse_blocks(settings.keep_bf16_blocks),
            text_encoder_quantization=settings.text_encoder_quantization,
            prompt_cache=settings.prompt_cache,
            loras=settings.loras,
            distilled_lora_strength=settings.distilled_lora_strength,
            exact_passes=settings.exact_passes,
            cuda_graphs=settings.cuda_graphs,
            budget=settings.budget,
            host_memory=settings.host_limit,
            prompt_enhancer=settings.prompt_enhancer,
            marking=settings.marking,
        ),
        memory=memory,
    )
