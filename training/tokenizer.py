"""Train the tokenizer and write it with the structure of XLM-RoBERTa's.

A SentencePiece Unigram model is trained on English and French descriptions in equal
measure, then laid out as Hugging Face lays out XLM-RoBERTa: `<s> <pad> </s> <unk>`,
the pieces, `<mask>`; the normalizer's character map is the one SentencePiece
compiled (nmt_nfkc), so the Rust side needs nothing that is not in tokenizer.json.

    python tokenizer.py [--work DIR] [--model DIR]
"""
import argparse
import base64
import json
import random
from pathlib import Path

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

from data import WORK

VOCAB = 16_000
MODEL = Path(__file__).resolve().parent.parent / "models/demo"
# What people ask first is rarely worded like a package description.
EXTRA = [
    "What is the capital of France?", "Paris is the capital of France.",
    "Quelle est la capitale de la France ?", "Comment résoudre une erreur ?",
    "How do I solve an error?", "Why does it not work?", "Pourquoi cela ne fonctionne-t-il pas ?",
    "The giant panda is a bear species endemic to China.", "Hello, how are you?", "Bonjour, comment allez-vous ?",
    "Who wrote this book?", "Qui a écrit ce livre ?", "When was it founded?", "Où se trouve la documentation ?",
    "Where is the documentation?", "How can I compress a file?", "Quel logiciel permet de lire une vidéo ?",
    "ERR-42 ERROR 404 HTTP 500 code 1234 5678 9012 6102 2023 2024 2025",
]


def corpus(work, path):
    """Write the training text: as many French characters as English ones."""
    text = {"en": [], "fr": []}
    for line in (work / "packages.jsonl").open():
        record = json.loads(line)
        if record["split"] == "train":
            for lang in text:
                if lang in record:
                    # One paragraph counts once, however many packages repeat it.
                    text[lang] += [record[lang]["short"], *record[lang]["long"]]
    rng = random.Random(1)
    sides = {}
    for lang, lines in text.items():
        sides[lang] = sorted(set(lines))
        rng.shuffle(sides[lang])
    budget = min(sum(map(len, lines)) for lines in sides.values())
    with path.open("w") as out:
        for lines in sides.values():
            used = 0
            for line in lines:
                if used > budget:
                    break
                used += len(line)
                out.write(line[:2000] + "\n")
        for line in EXTRA * 20:
            out.write(line + "\n")


def layout(proto):
    """tokenizer.json's content for a trained SentencePiece model."""
    pieces = [[p.piece, p.score] for p in proto.pieces if p.type in (pb.ModelProto.SentencePiece.NORMAL,)]
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [[s, 0.0] for s in specials] + pieces + [["<mask>", 0.0]]
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()

    def added(i, content):
        return {"id": i, "content": content, "single_word": False, "lstrip": content == "<mask>",
                "rstrip": False, "normalized": False, "special": True}

    def special(content, i):
        return {"id": content, "ids": [i], "tokens": [content]}

    def token(content):
        return {"SpecialToken": {"id": content, "type_id": 0}}

    def sequence(name):
        return {"Sequence": {"id": name, "type_id": 0}}

    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(i, s) for i, s in enumerate(specials)] + [added(len(vocab) - 1, "<mask>")],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("<s>"), sequence("A"), token("</s>")],
            "pair": [token("<s>"), sequence("A"), token("</s>"), token("</s>"), sequence("B"), token("</s>")],
            "special_tokens": {"<s>": special("<s>", 0), "</s>": special("</s>", 2)},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()
    text = args.work / "text.txt"
    corpus(args.work, text)
    # SentencePiece counts <unk>, <s> and </s>; <pad> and <mask> are added by the layout.
    spm.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(args.work / "spm"), model_type="unigram", vocab_size=VOCAB - 2,
        character_coverage=0.9999, normalization_rule_name="nmt_nfkc", input_sentence_size=0, num_threads=2,
        required_chars="".join(chr(c) for c in range(33, 127)) + "àâäçéèêëîïôöùûüÿœæÀÂÄÇÉÈÊËÎÏÔÖÙÛÜŸŒÆ«»€’",
        max_sentence_length=8000)
    proto = pb.ModelProto()
    proto.ParseFromString((args.work / "spm.model").read_bytes())
    out = layout(proto)
    assert len(out["model"]["vocab"]) == VOCAB, len(out["model"]["vocab"])
    args.model.mkdir(parents=True, exist_ok=True)
    tmp = args.model / "tokenizer.json.tmp"
    tmp.write_text(json.dumps(out, ensure_ascii=False, indent=2))
    tmp.rename(args.model / "tokenizer.json")


if __name__ == "__main__":
    main()
