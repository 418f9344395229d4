"""Print what this machine reaches in f32 matrix products, in GFLOP/s: the yardstick for a model's speed.

    python gemm_peak.py --threads 2
"""
import argparse
import json
import time

import torch

ROWS, INPUTS, OUTPUTS = 2048, 1024, 4096


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    x, weight = torch.randn(ROWS, INPUTS), torch.randn(OUTPUTS, INPUTS)
    out = torch.empty(ROWS, OUTPUTS)  # given, so that no page fault is counted
    rates = []
    for _ in range(args.repeats + 3):
        started = time.perf_counter()
        torch.mm(x, weight.T, out=out)
        rates.append(2e-9 * ROWS * INPUTS * OUTPUTS / (time.perf_counter() - started))
    rates = sorted(rates[3:])
    print(json.dumps({"shape": [ROWS, INPUTS, OUTPUTS], "threads": args.threads,
                      "best": rates[-1], "median": rates[len(rates) // 2]}))


if __name__ == "__main__":
    main()
