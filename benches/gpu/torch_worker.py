"""transformers with torch's fused attention, in a process of its own that is told what to do, a line of JSON at a time.

    echo '{"do": "logits", "pairs": [["q", "d"]], "batch_size": 8}' | python torch_worker.py MODEL_DIR --device cuda:0 --dtype f16

The best that torch does without being rewritten: pairs are tokenised at once, sorted by length, computed in batches
padded to their longest, and waited for at the end only. There is no server around it, so its times have no HTTP in them.
"""
import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

DTYPES = {"f32": torch.float32, "f16": torch.float16}
MAX_LENGTH = 512


class Scorer:
    def __init__(self, directory, device, dtype):
        self.device = device
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(directory) / "tokenizer.json"),
                                                 pad_token="<pad>", padding_side="right")
        model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
        self.model = model.to(device).eval()

    @torch.inference_mode()
    def logits(self, pairs, batch_size):
        queries, documents = zip(*pairs)
        tokens = self.tokenizer(list(queries), list(documents), truncation="longest_first", max_length=MAX_LENGTH,
                                return_token_type_ids=False)["input_ids"]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        batches = [order[start:start + batch_size] for start in range(0, len(order), batch_size)]
        found = torch.cat([self.batch([tokens[i] for i in batch]) for batch in batches]).float().tolist()
        return [score for _, score in sorted(zip(order, found))]

    def batch(self, tokens):
        padded = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(self.device)
        return self.model(**padded).logits[:, 0]

    def seconds(self, pairs, batch_size):
        """Of one request; the answer is on the CPU by then."""
        started = time.perf_counter()
        self.logits(pairs, batch_size)
        return time.perf_counter() - started

    def back_to_back(self, requests, batch_size, seconds):
        """One request after the other, round and round, for so long."""
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            self.logits(requests[count % len(requests)], batch_size)
            count += 1
        return {"done": count, "seconds": time.perf_counter() - started}


def serve(scorer, commands, answers):
    for line in commands:
        command = json.loads(line)
        answer = getattr(scorer, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print, too
    torch.set_num_threads(args.threads)
    scorer = Scorer(args.model, args.device, DTYPES[args.dtype])
    print(json.dumps("ready"), file=answers, flush=True)
    serve(scorer, sys.stdin, answers)


if __name__ == "__main__":
    main()
