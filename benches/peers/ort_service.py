"""The old service's handler around ONNX Runtime, as export_onnx.py makes its models.

    python ort_service.py MODEL_DIR --onnx DIR/f32/model.onnx --port 8003 --threads 2

Pairs are sorted by their number of tokens and computed in batches of 8, each padded to its
longest. Settings are ONNX Runtime's own, but for the number of threads; only what a service of
this kind needs is imported (no torch), so that load time and memory are its own too.
"""
import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from tokenizers import Tokenizer

from handler import application

MAX_LENGTH = 512


class Engine:
    def __init__(self, model, onnx, threads, batch_size):
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_LENGTH)
        self.tokenizer.no_padding()
        self.pad = self.tokenizer.token_to_id("<pad>")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        self.batch_size = batch_size

    def logits(self, pairs):
        encoded = [pair.ids for pair in self.tokenizer.encode_batch([tuple(pair) for pair in pairs])]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]), reverse=True)
        logits = np.empty(len(encoded), np.float32)
        for start in range(0, len(order), self.batch_size):
            batch = order[start:start + self.batch_size]
            logits[batch] = self.compute([encoded[i] for i in batch])
        return logits

    def compute(self, sequences):
        """One batch, the longest sequence first."""
        ids = np.full((len(sequences), len(sequences[0])), self.pad, np.int64)
        mask = np.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, :len(sequence)] = sequence
            mask[row, :len(sequence)] = 1
        return self.session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0][:, 0]

    def scores(self, pairs):
        return 1 / (1 + np.exp(-self.logits(pairs)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8002)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    engine = Engine(args.model, args.onnx, args.threads, args.batch_size)
    uvicorn.run(application(engine, str(args.model)), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
