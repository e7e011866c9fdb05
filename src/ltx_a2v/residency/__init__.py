"""How weights are loaded, placed and streamed, from the file to the matrix product.

A weight passes through these, in this order:

    file                                          checkpoint/
     │   TensorEntry          the file of a tensor and its place there; the reader reads its bytes
     │   KeyMap               its name in the file <-> its name in the module
     ▼
    Blueprint ─────────────── one network: its module on `meta`, its entries, its blocks
     │
    QuantizationPolicy ────── which layers store their weight in another format     quantization/
     │   StoredLinear         a format: quantizes a weight, and multiplies with it
     ▼
    TensorLoader ──────────── reads, converts, puts in place: fills a piece from its files
     │
    Piece ─────────────────── one block, or everything outside the blocks: one flat buffer
     │
     ├── HostCopies           copies of pieces in pinned host memory, the source of later fetches
     ▼
    BlockStream ───────────── a network in use: resident pieces, and blocks that visit a few slots on the device
     │   StreamSync           copy before compute, compute before reuse: on CUDA, or in order on a CPU
     ▼
    StoredLinear.forward      the product

    Network                   holds one network's weights between uses; `use(placement)` gives the BlockStream
    Placement                 the home of the weights (device, host, file), resident blocks, slots

The bits are the same on every device and in every placement. No tensor exists twice on the device, and only the tensor
that is being converted exists outside its piece.

Formats are added in `quantization/modes.py`. Placements are chosen in `planning/`.
"""
