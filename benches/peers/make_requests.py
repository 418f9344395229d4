"""Make requests of real text: Debian's package descriptions, English and French.

    python make_requests.py                                   # 2 to 100 documents -> work/requests.json
    python make_requests.py --sizes 20 --each 3 --seed 5 --out requests_20.json   # as committed

A document is a package's whole description (the short line, then the paragraphs), at its
natural length; the query is the short line of one of them, as somebody would type it. Languages
alternate, packages are drawn at random by the seed. The descriptions are those that
training/data.py fetches with apt; it is run first where its result is not there yet.

The shape of the file: {"tokenizer": …, "requests": [{"language", "tokens", "padded_tokens", "body"}]},
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


def body(rng, candidates, language, size):
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
        "content": text(package, language),
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
    parser.add_argument("--each", type=int, default=3, metavar="N", help="requests of each size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "work/requests.json")
    args = parser.parse_args()

    everything = packages(args.packages)
    by_language = {lang: [p for p in everything if lang in p] for lang in ("en", "fr")}
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    tokenizer.no_truncation()
    rng, requests = random.Random(args.seed), []
    for size in args.sizes:
        for i in range(args.each):
            language = ("en", "fr")[i % 2]
            request = body(rng, by_language[language], language, size)
            tokens = lengths(tokenizer, request)
            requests.append({"language": language, "tokens": sum(tokens),
                             "padded_tokens": max(tokens) * size, "body": request})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    described = {
        "text": "Debian package descriptions, under the licences of their packages",
        "tokenizer": "models/demo" if args.tokenizer.resolve() == TOKENIZER else args.tokenizer.name,
        "requests": requests,
    }
    args.out.write_text(json.dumps(described, ensure_ascii=False, indent=1) + "\n")
    for size in args.sizes:
        same = [r for r in requests if len(r["body"]["documents"]) == size]
        mean = sum(r["tokens"] for r in same) / len(same)
        padded = sum(r["padded_tokens"] for r in same) / len(same)
        print(f"{size:4} documents: {len(same)} requests, mean {mean:.0f} tokens, {padded:.0f} if padded")


if __name__ == "__main__":
    main()
