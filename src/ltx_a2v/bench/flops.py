"""How many floating-point operations a denoising step needs: matrix products and attention, counted from the config.

    linear:     2 * tokens * in * out
    attention:  4 * queries * keys * width       (QK^T and the product with V)

A step visits each block once for all passes; `diffusion.block_plan` says how many rows each part of a block has. Per
block, with N video tokens, A audio tokens, T text tokens, widths D (video) and W (audio):

    video self-attention     rows that attend:  q, k, v, out: 4 NDD + attention(N, N, D); a perturbed row: v, out
    video text attention     rows: q, out + attention(N, T, D); texts: k, v
    audio self and text      audio rows: q, k, v, out + attention(A, A, W); q, out + attention(A, T, W)
    audio to video           rows that hear: q, out: 2 NDW, k, v: 2 AWW, + attention(N, A, W)
    video to audio           the same rows, where a later block uses the audio: q, out, k, v, + attention(A, N, W)
    feed-forward             2 * 4 NDD per row, and 2 * 4 AWW per audio row that is used

To these come the gate of each head, the projections in and out, and the AdaLN embeddings. Not counted: element-wise
work, converting quantized weights, LoRAs (their cost depends on how they are applied), and the keys and values of the
audio's text, which only the first step computes. So the rate of a step is that of useful work. The count of the
miniature equals that of `torch.utils.flop_counter` (tests/bench/test_flops.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ltx_a2v.diffusion.block_plan import BlockPlan, plan_stage
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.versions import ModelConfig

_FEED_FORWARD = 4
"""Width of a feed-forward's hidden layer, by that of its stream."""
_TIMESTEP_CHANNELS = 256


@dataclass(frozen=True)
class _Attention:
    """The shapes of one attention module: its queries' stream, its keys' stream, its heads."""

    query_width: int
    source_width: int
    width: int
    """Of all heads together."""
    heads: int

    def of_queries(self, tokens: int, keys: int) -> int:
        """q, the products of attention, gates and out, for one row."""
        projections = 2 * _linear(tokens, self.query_width, self.width) + self._gates(tokens)
        return projections + 4 * tokens * keys * self.width

    def of_source(self, tokens: int) -> int:
        """k and v of one row."""
        return 2 * _linear(tokens, self.source_width, self.width)

    def of_values(self, tokens: int) -> int:
        """v, gates and out of a perturbed row."""
        return _linear(tokens, self.source_width, self.width) + self._out(tokens)

    def _out(self, tokens: int) -> int:
        return _linear(tokens, self.width, self.query_width) + self._gates(tokens)

    def _gates(self, tokens: int) -> int:
        return _linear(tokens, self.query_width, self.heads)


def step_flops(
    config: ModelConfig,
    grid: LatentGrid,
    audio_tokens: int,
    passes: frozenset[Pass],
    perturbed_blocks: frozenset[int] = frozenset(),
    text_tokens: int | None = None,
) -> int:
    """Of one step with these passes, after the first one; `text_tokens`: the version's, unless given."""
    texts = config.version.text_encoder.tokens if text_tokens is None else text_tokens
    plan = plan_stage(passes, perturbed_blocks, config.num_layers)
    total = _around(config, grid, audio_tokens, rows=len(plan.rows))
    audio_rows = 1
    for block in plan.blocks:
        total += _block(config, block, grid.tokens, audio_tokens, texts, len(plan.texts), audio_rows)
        audio_rows = len(block.cross_attention) - block.isolated
    return total


def _block(config: ModelConfig, plan: BlockPlan, video: int, audio: int, text: int, texts: int, audio_rows: int) -> int:
    """Of one block for tokens of the video, the audio and each text; `audio_rows` is what the block begins with."""
    arguments, (wide, narrow) = config.transformer, config.widths
    heads, audio_heads = arguments["num_attention_heads"], arguments["audio_num_attention_heads"]
    self_attention = _Attention(wide, wide, wide, heads)
    text_attention = _Attention(wide, arguments["cross_attention_dim"], wide, heads)
    audio_attention = _Attention(narrow, narrow, narrow, audio_heads)
    audio_to_video = _Attention(wide, narrow, narrow, audio_heads)
    video_to_audio = _Attention(narrow, wide, narrow, audio_heads)

    rows, hearing = len(plan.cross_attention), len(plan.cross_attention) - plan.isolated
    total = plan.attending * (self_attention.of_queries(video, video) + self_attention.of_source(video))
    total += (plan.values_of is not None) * self_attention.of_values(video)
    total += len(plan.text_attention) * text_attention.of_queries(video, text)
    total += texts * text_attention.of_source(text)
    total += rows * _feed_forward(video, wide)
    if plan.audio is not None:
        total += audio_rows * (audio_attention.of_queries(audio, audio) + audio_attention.of_source(audio))
        total += audio_rows * audio_attention.of_queries(audio, text)
        total += hearing * (audio_to_video.of_queries(video, audio) + audio_to_video.of_source(audio))
    if plan.audio_used:
        total += hearing * (video_to_audio.of_queries(audio, video) + video_to_audio.of_source(video))
        total += hearing * _feed_forward(audio, narrow)
    return total


def _around(config: ModelConfig, grid: LatentGrid, audio_tokens: int, rows: int) -> int:
    """The projections in and out, and the AdaLN embeddings of a step."""
    arguments, (wide, narrow) = config.transformer, config.widths
    projections = _linear(grid.tokens, arguments["in_channels"], wide)
    projections += _linear(audio_tokens, arguments["audio_in_channels"], narrow)
    projections += rows * _linear(grid.tokens, wide, arguments["out_channels"])
    frames = grid.frames
    # (timesteps, width, values per timestep): self-attention, feed-forward and text; the text itself; cross-attention
    # and its gate
    embeddings = [(frames, wide, 9), (1, wide, 2), (frames, wide, 4), (1, wide, 1)]
    embeddings += [(1, narrow, 9), (1, narrow, 2), (1, narrow, 4), (1, narrow, 1)]
    return projections + sum(_embedding(*embedding) for embedding in embeddings)


def _embedding(timesteps: int, width: int, values: int) -> int:
    layers = _linear(timesteps, _TIMESTEP_CHANNELS, width) + _linear(timesteps, width, width)
    return layers + _linear(timesteps, width, values * width)


def _feed_forward(tokens: int, width: int) -> int:
    return 2 * _linear(tokens, width, _FEED_FORWARD * width)


def _linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs
