"""Where weights are, from the file to the product with them.

A weight passes through these, in this order; nothing else is needed to follow one:

    file                                          checkpoint/
     │   TensorEntry          where a tensor lies in which file; the reader gives its bytes
     │   KeyMap               its name in the file <-> its name in the module
     ▼
    Blueprint ─────────────── one network: its module on `meta`, its entries, which of its blocks can be moved alone
     │
    QuantizationPolicy ────── which layers store their weight in another format     quantization/
     │   StoredLinear         a format: quantizes a weight, and multiplies with it
     ▼
    TensorLoader ──────────── reads, converts, puts in place: fills a piece from its files
     │
    Piece ─────────────────── one block, or all that is in no block: one flat buffer
     │
     ├── HostCopies           the same pieces in pinned host memory, copied from there when next needed
     ▼
    BlockStream ───────────── a network in use: resident pieces, and blocks that visit a few slots on the device
     │   StreamSync           copy before compute, compute before reuse: on CUDA, or in order on a CPU
     ▼
    StoredLinear.forward      the product

    Network                   holds one network's weights over its uses; `use(placement)` gives the BlockStream
    Placement                 how: home (device, host, file), resident blocks, slots

Every arrow gives the same bits on every device and in every placement. No tensor exists twice on the device, and none
but the one being converted exists outside its piece.

Formats are added in `quantization/modes.py`; what a plan does with sizes and placements is in `planning/`.
"""
