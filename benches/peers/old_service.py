"""The service that this one replaces: FastAPI around sentence-transformers.

    python old_service.py MODEL_DIR --port 8003 --threads 2
    python old_service.py MODEL_DIR --port 8003 --threads 2 --batch-size 8
    python old_service.py MODEL_DIR --port 8003 --threads 16 --device cuda:0 --dtype f16

It calls `predict` with its defaults: batches of 32 pairs, sorted by length, each padded to its
longest. With `--batch-size 8` the same sort wastes much less on padding: the best that torch does
without being rewritten. With `--dtype bf16` (or `f16`) the weights are loaded as that.
"""
import argparse

import torch
from sentence_transformers import CrossEncoder

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Engine:
    def __init__(self, model, batch_size):
        self.model, self.batch_size = model, batch_size

    def scores(self, pairs):
        return self.model.predict(pairs, batch_size=self.batch_size)

    def logits(self, pairs):
        return self.model.predict(pairs, batch_size=self.batch_size, activation_fn=torch.nn.Identity())


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--port", type=int, default=8002)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    return parser.parse_args()


def engine(args):
    """The model, as the arguments say."""
    torch.set_num_threads(args.threads)
    options = {} if args.dtype == "f32" else {"model_kwargs": {"dtype": DTYPES[args.dtype]}}
    model = CrossEncoder(args.model, max_length=512, device=args.device, **options)
    if model.model.dtype != DTYPES[args.dtype]:
        raise SystemExit(f"the weights were loaded as {model.model.dtype}; the comparison is in {args.dtype}")
    return Engine(model, args.batch_size)


def main():
    import uvicorn  # here, because benches/gpu/plain_service.py does without
    from handler import application

    args = arguments()
    uvicorn.run(application(engine(args), args.model), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
