"""Which passes share a row of the batch, decided once per stage.

All passes of a step go through a block together, as rows of one batch, so that weights that are streamed cross the bus
once per step. Passes start as one row and split where their computations begin to differ:

    negative    at the text attention of block 0
    isolated    at the audio-to-video attention of block 0
    perturbed   at the self-attention of the first perturbed block

Any set of passes can be planned, with or without the positive one: several GPUs can each compute some of the passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltx_a2v.diffusion.guidance import Pass

Rows = tuple[frozenset[Pass], ...]
"""The passes that share each row. The isolated pass's own row is the first and the perturbed pass's own row the last,
so that the rows with audio and the rows with self-attention are slices."""


@dataclass(frozen=True)
class BlockPlan:
    """Everything in which `block_step` differs between blocks; blocks with equal plans run the same kernels.

    A tuple of rows gives, for each row of the result, the row that it copies; `(0, 1)` leaves two rows as they are.
    """

    self_attention: tuple[int, ...]
    """The video's rows after self-attention."""
    attending: int
    """Number of rows that compute self-attention: the first ones of the rows before it."""
    values_of: int | None
    """The row before self-attention whose values the perturbed last row takes; None where no row is perturbed."""
    text_attention: tuple[int, ...]
    """The video's rows from text attention on."""
    texts: tuple[int, ...]
    """Which of the stage's texts each of them attends to."""
    cross_attention: tuple[int, ...]
    """The video's rows from audio-to-video attention on."""
    isolated: int
    """Number of these rows without attention to the audio, the first ones: 0 or 1."""
    audio: tuple[int, ...] | None
    """The audio's rows after its text attention, one per video row that attends to it or one for all; None without
    any."""
    audio_used: bool
    """Whether a later block needs the audio that this one makes."""
    exact: bool
    """Every row has its own GEMMs: equal to separate forwards, bit for bit, and slower."""


@dataclass(frozen=True)
class StagePlan:
    """The plans of all blocks, the passes of each final row, and the texts that rows attend to."""

    blocks: tuple[BlockPlan, ...]
    rows: Rows
    texts: tuple[Pass, ...]
    """POSITIVE and NEGATIVE, where some row attends to it, in this order."""


def plan_stage(
    passes: frozenset[Pass], perturbed_blocks: frozenset[int], num_blocks: int, exact: bool = False
) -> StagePlan:
    """Without POSITIVE in `passes`, the remaining passes share a row until they split."""
    texts = ([Pass.POSITIVE] if passes - {Pass.NEGATIVE} else []) + [Pass.NEGATIVE] * (Pass.NEGATIVE in passes)
    rows: Rows = (passes,)
    audio_rows = 1
    blocks = []
    for index in range(num_blocks):
        perturbed = index in perturbed_blocks and Pass.PERTURBED in passes
        attended, at_self, attending, values_of = _self_attention(rows, perturbed)
        at_text, text_sources = _part(attended, Pass.NEGATIVE)
        rows, cross_sources = _part(at_text, Pass.ISOLATED)
        isolated = int(rows[0] == {Pass.ISOLATED})
        audio = _audio_rows(attended, at_self, audio_rows)
        audio_rows = len(rows) - isolated
        blocks.append(
            BlockPlan(
                self_attention=at_self,
                attending=attending,
                values_of=values_of,
                text_attention=text_sources,
                texts=tuple(texts.index(_text_of(row)) for row in at_text),
                cross_attention=cross_sources,
                isolated=isolated,
                audio=audio,
                audio_used=audio is not None and index < num_blocks - 1,
                exact=exact,
            )
        )
    return StagePlan(tuple(blocks), rows, tuple(texts))


def _part(rows: Rows, kind: Pass) -> tuple[Rows, tuple[int, ...]]:
    """Give `kind` its own row. Returns the rows, and for each the earlier row that it copies."""
    parted: list[tuple[frozenset[Pass], int]] = []
    for index, row in enumerate(rows):
        shares = kind in row and len(row) > 1
        parted += [(row - {kind}, index), (frozenset({kind}), index)] if shares else [(row, index)]
    parted.sort(key=lambda of_row: min(of_row[0]))
    return tuple(row for row, _ in parted), tuple(index for _, index in parted)


def _self_attention(rows: Rows, perturbed: bool) -> tuple[Rows, tuple[int, ...], int, int | None]:
    """The rows after self-attention, the rows that they copy, how many attend, and whose values the last row takes."""
    if not perturbed:
        return rows, tuple(range(len(rows))), len(rows), None
    after, sources = _part(rows, Pass.PERTURBED)
    return after, sources, len(after) - 1, sources[-1]


def _audio_rows(attended: Rows, sources: tuple[int, ...], audio_rows: int) -> tuple[int, ...] | None:
    """One audio row stays one: until the first video-to-audio attention the audio is the same for all rows."""
    hearing = [source for row, source in zip(attended, sources, strict=True) if row != {Pass.ISOLATED}]
    if not hearing:
        return None
    without = int(attended[0] == {Pass.ISOLATED})
    return (0,) if audio_rows == 1 else tuple(source - without for source in hearing)


def _text_of(row: frozenset[Pass]) -> Pass:
    return Pass.NEGATIVE if row == {Pass.NEGATIVE} else Pass.POSITIVE
