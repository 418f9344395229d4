"""Train the reranker on the CPU, for as long as it is given.

    python train.py [--work DIR] [--model DIR] (--minutes N | --until HH:MM)

The learning rate follows elapsed time, not steps, so it decays to nearly nothing when
the time is up however busy the machine is. A checkpoint is written every two minutes;
the same command goes on from it. Two threads work on separate groups of one step and
add their gradients: one matrix product split over busy cores would mostly wait.
"""
import argparse
import datetime
import math
import queue
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from bm25 import Pool
from data import WORK
from model import Reranker, logits
from pairs import Groups
from start import build
from tokenizer import MODEL

UNITS, QUERIES, DOCS = 4, 3, 8  # groups per step = UNITS * QUERIES
RATE, BCE = 7e-4, 0.25


def loss_of(scores):
    """Listwise cross-entropy (column 0 is right) and a smaller pointwise term."""
    listwise = F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))
    right = F.softplus(-scores[:, 0]).mean()
    wrong = F.softplus(scores[:, 1:]).mean()
    return listwise + BCE * (2 * right + 4 * wrong)


class Trainer:
    def __init__(self, args):
        self.args = args
        self.tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
        self.pool = Pool(args.work, "train")
        self.neg = dict(np.load(args.work / "negatives.npz"))
        self.net = Reranker()
        self.net.position.weight.requires_grad_(False)  # so that untrained positions stay in tune
        # What start.py built is changed more slowly than what it left to chance.
        kinds = {"words": (0.2, 0.0), "built": (0.35, 0.0), "matrices": (1.0, 0.02), "rest": (1.0, 0.0)}
        members = {kind: [] for kind in kinds}
        for name, p in self.net.named_parameters():
            if p.requires_grad:
                built = name in ("layers.0.qkv.weight", "layers.1.qkv.weight", "layers.3.qkv.weight")
                members["words" if name == "word.weight" else "built" if built
                        else "matrices" if p.dim() > 1 else "rest"].append(p)
        self.params = [p for group in members.values() for p in group]
        self.opt = torch.optim.AdamW(
            [{"params": members[k], "share": share, "weight_decay": decay} for k, (share, decay) in kinds.items()],
            lr=RATE, betas=(0.9, 0.98), fused=True)
        self.step, self.spent = 0, 0.0
        self.path = args.work / "checkpoint.pt"
        if self.path.exists():
            saved = torch.load(self.path)
            self.net.load_state_dict(saved["net"])
            self.opt.load_state_dict(saved["opt"])
            self.step, self.spent = saved["step"], saved["spent"]
        else:
            build(self.net, args.work, self.tokenizer)
        self.groups = [Groups(self.pool, self.neg, 1000 * self.step + u) for u in range(UNITS)]

    def save(self):
        tmp = self.path.with_suffix(".tmp")
        torch.save({"net": self.net.state_dict(), "opt": self.opt.state_dict(),
                    "step": self.step, "spent": self.spent}, tmp)
        tmp.rename(self.path)

    def unit(self, u, hard, length):
        """Gradients of one share of the step."""
        rows = []
        for _ in range(QUERIES):
            query, docs = self.groups[u].next(DOCS, hard)
            q = self.tokenizer.encode(query, add_special_tokens=False).ids[:40]
            for d in self.tokenizer.encode_batch([d[:length * 7] for d in docs], add_special_tokens=False):
                rows.append([0] + q + [2, 2] + d.ids[:length] + [2])
        scores = logits(self.net, rows).view(QUERIES, DOCS)
        loss = loss_of(scores)
        grads = torch.autograd.grad(loss / UNITS, self.params)
        with torch.no_grad():
            right = (scores[:, 0] > scores[:, 1:].amax(1)).float().mean().item()
            return grads, loss.item(), right, sum(map(len, rows)), scores[:, 0].mean().item(), scores[:, 1:].mean().item()

    def run(self):
        begin = time.time()
        before = self.spent
        total = before + (self.args.minutes * 60 if self.args.minutes else seconds_until(self.args.until))
        todo, done = queue.Queue(), queue.Queue()

        def worker():
            torch.set_num_threads(1)
            while (job := todo.get()) is not None:
                try:
                    done.put(self.unit(*job))
                except Exception as error:  # shown by the main thread
                    done.put(error)

        threads = [threading.Thread(target=worker, daemon=True) for _ in range(2)]
        for t in threads:
            t.start()
        saved = shown = time.time()
        mean, tokens, count = np.zeros(4), 0, 0
        while self.spent < total:
            p = self.spent / total
            hard = 0.3 if self.step < 60 else min(0.85, 0.5 + p * 1.5)
            length = 44 if p < 0.38 else 80 if p < 0.7 else 128
            if self.step % 20 == 19 and p > 0.1:
                length = 300  # so that long passages are not news
            for u in range(UNITS):
                todo.put((u, hard, length))
            total_grads = None
            for _ in range(UNITS):
                result = done.get()
                if isinstance(result, Exception):
                    raise result
                grads, *numbers = result
                mean += [numbers[0], numbers[1], numbers[3], numbers[4]]
                tokens += numbers[2]
                count += 1
                total_grads = grads if total_grads is None else torch._foreach_add(total_grads, grads)
            for param, grad in zip(self.params, total_grads):
                param.grad = grad
            torch.nn.utils.clip_grad_norm_(self.params, 1.0)
            rate = RATE * min(1, (self.step + 1) / 60) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * p)))
            for group in self.opt.param_groups:
                group["lr"] = rate * group["share"]
            self.opt.step()
            self.step += 1
            self.spent = before + time.time() - begin
            if time.time() - shown > 20:
                m = mean / count
                print(f"{datetime.datetime.now(datetime.UTC):%H:%M:%S} step {self.step} p {p:.3f} loss {m[0]:.3f} "
                      f"top1 {m[1]:.3f} right {m[2]:.2f} wrong {m[3]:.2f} lr {rate:.1e} hard {hard:.2f} "
                      f"tok/s {tokens / (time.time() - shown):.0f} ms/step {(time.time() - shown) / count * UNITS * 1e3:.0f}",
                      flush=True)
                mean, tokens, count, shown = np.zeros(4), 0, 0, time.time()
            if time.time() - saved > 120:
                self.save()
                saved = time.time()
        self.save()
        for _ in threads:
            todo.put(None)


def seconds_until(clock):
    """Seconds from now to the next HH:MM, UTC."""
    hour, minute = map(int, clock.split(":"))
    now = datetime.datetime.now(datetime.UTC)
    then = now.replace(hour=hour, minute=minute, second=0)
    return (then - now).total_seconds() % 86400


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--until")
    torch.set_num_threads(2)
    Trainer(parser.parse_args()).run()


if __name__ == "__main__":
    main()
