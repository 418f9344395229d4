"""Copies a checkpoint and makes its second layer leave f16's range: usage: overflowing.py CHECKPOINT TARGET

The projection up to the feed-forward layer gives 2^15 times what it gave, beyond 65504 for some numbers of most tokens. The one down
takes a part of that back: all of it would take the weights below f16's range, and the layer norm does not mind the rest.
Only the standard library: a safetensors file is a JSON header and the numbers.
"""
import json
import shutil
import struct
import sys
from pathlib import Path

UP, DOWN = 15, -9  # powers of two
CHANGES = {"roberta.encoder.layer.1.intermediate.dense.weight": UP, "roberta.encoder.layer.1.intermediate.dense.bias": UP,
           "roberta.encoder.layer.1.output.dense.weight": DOWN}


def numbers(header, data, name):
    """A tensor's numbers and its place."""
    start, end = header[name]["data_offsets"]
    code = {"F32": "f", "F16": "e"}[header[name]["dtype"]]
    return struct.unpack(f"<{(end - start) // struct.calcsize(code)}{code}", data[start:end])


def main():
    source, target = map(Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, target / name)
    file = (source / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", file[:8])[0]
    header, data = json.loads(file[8:8 + length]), file[8 + length:]
    header.pop("__metadata__", None)
    pieces, place = [], 0
    made = {}
    for name, info in header.items():
        start, end = info["data_offsets"]
        piece = data[start:end]
        dtype = info["dtype"]
        if name in CHANGES:  # in f32, because f16 does not hold them
            values = [x * 2.0 ** CHANGES[name] for x in numbers(header, data, name)]
            piece, dtype = struct.pack(f"<{len(values)}f", *values), "F32"
        made[name] = {"dtype": dtype, "shape": info["shape"], "data_offsets": [place, place + len(piece)]}
        pieces.append(piece)
        place += len(piece)
    text = json.dumps(made).encode()
    text += b" " * (-len(text) % 8)
    (target / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))


if __name__ == "__main__":
    main()
