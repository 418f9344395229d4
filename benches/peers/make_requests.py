"""Make requests of real text: Debian's package descriptions, English and French.

    python make_requests.py                        # 2 to 100 documents, and 20 of full length -> work/requests.json
    python make_requests.py --each 2 --out requests_sizes.json                           # as committed
    python make_requests.py --sizes 20 --full 0 --each 3 --seed 5 --out requests_20.json   # as committed

A document is a package's whole description (the short line, then the paragraphs), at its
natural length; the query is the short line of one of them, as somebody would type it. Languages
alternate, packages are drawn at random by the seed. The descriptions are those that
training/data.py fetches with apt; it is run first where its result is not there yet.

The set `uniform-512` has documents of the greatest length only: each is some descriptions, one
after the other, until its pair has half as many tokens again as the 512 to which servers cut it,
so that another tokenizer finds 512 too.

The shape of the file: {"tokenizer": …, "requests": [{"set", "language", "tokens", "padded_tokens", "body"}]},
where `body` is what is posted to /rerank, with the seven fields that the old service demands,
and `tokens` counts pairs cut to 512 tokens by the given tokenizer.
"""
import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ROOT / "training/work/packages.jsonl"
TOKENIZER = ROOT / "models/demo/tokenizer.json"
MAX_LENGTH = 512


def packages(path):
    if not path.exists():
        if path != PACKAGES:
            raise SystemExit(f"{path} is not there")
        subprocess.run([sys.executable, ROOT / "training/data.py"], check=True)
    with path.open() as lines:
        return [json.loads(line) for line in lines]


def text(package, language):
    description = package[language]
    return "\n".join([description["short"], *description["long"]])


def lengthen(rng, candidates, language, tokenizer, document):
    """The document with others after it, until it is long enough to be cut by anybody."""
    while len(tokenizer.encode(document).ids) < MAX_LENGTH * 3 // 2:
        document += "\n" + text(rng.choice(candidates), language)
    return document


def body(rng, candidates, language, size, change=lambda document: document):
    """A request: the first package drawn is the answer, the rest are what else a search returned."""
    chosen = rng.sample(candidates, size)
    query = chosen[0][language]["short"]
    rng.shuffle(chosen)
    documents = [{
        "chunk_id": f"{i}",
        "document_id": package["name"],
        "document_title": package[language]["short"],
        "document_source": package["source"],
        "chunk_index": i,
        "content": change(text(package, language)),
        "similarity": round(0.9 - 0.005 * i, 3),
    } for i, package in enumerate(chosen)]
    return {"query": query, "documents": documents, "top_k": size}


def lengths(tokenizer, request):
    pairs = [(request["query"], document["content"]) for document in request["documents"]]
    return [min(MAX_LENGTH, len(pair.ids)) for pair in tokenizer.encode_batch(pairs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, default=PACKAGES, help="what training/data.py writes")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="for the count of tokens")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 10, 20, 50, 100], metavar="N")
    parser.add_argument("--full", type=int, default=20, metavar="N", help="documents of the set uniform-512; 0: none")
    parser.add_argument("--each", type=int, default=3, metavar="N", help="requests of each size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "work/requests.json")
    args = parser.parse_args()

    everything = packages(args.packages)
    by_language = {lang: [p for p in everything if lang in p] for lang in ("en", "fr")}
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    tokenizer.no_truncation()
    rng, requests = random.Random(args.seed), []
    sets = [(f"{size}", size, False) for size in args.sizes] + [("uniform-512", args.full, True)] * bool(args.full)
    for name, size, full in sets:
        for i in range(args.each):
            language = ("en", "fr")[i % 2]
            candidates = by_language[language]
            change = [lambda document: lengthen(rng, candidates, language, tokenizer, document)] * full
            request = body(rng, candidates, language, size, *change)
            tokens = lengths(tokenizer, request)
            requests.append({"set": name, "language": language, "tokens": sum(tokens),
                             "padded_tokens": max(tokens) * size, "body": request})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    described = {
        "text": "Debian package descriptions, under the licences of their packages",
        "tokenizer": "models/demo" if args.tokenizer.resolve() == TOKENIZER else args.tokenizer.name,
        "requests": requests,
    }
    args.out.write_text(json.dumps(described, ensure_ascii=False, indent=1) + "\n")
    for name in dict.fromkeys(r["set"] for r in requests):
        same = [r for r in requests if r["set"] == name]
        mean = sum(r["tokens"] for r in same) / len(same)
        padded = sum(r["padded_tokens"] for r in same) / len(same)
        print(f"{name:>11}: {len(same)} requests, mean {mean:.0f} tokens, {padded:.0f} if padded")


if __name__ == "__main__":
    main()
