"""Write the trained weights as a Hugging Face model folder.

    python export.py [--work DIR] [--model DIR]

Half precision, because the demo model travels in the repository; config.json names
the architecture that transformers (and this repository's server) loads it as. Each
file is written beside its place and then renamed, since others may be reading it.
"""
import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from data import WORK
from model import EPS, FFN, HEADS, HIDDEN, LAYERS, PAD, POSITIONS, VOCAB, Reranker
from tokenizer import MODEL

CONFIG = {
    "architectures": ["XLMRobertaForSequenceClassification"],
    "attention_probs_dropout_prob": 0.0,
    "bos_token_id": 0,
    "classifier_dropout": None,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": HIDDEN,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "intermediate_size": FFN,
    "label2id": {"LABEL_0": 0},
    "layer_norm_eps": EPS,
    "max_position_embeddings": POSITIONS,
    "model_type": "xlm-roberta",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": PAD,
    "position_embedding_type": "absolute",
    "torch_dtype": "float16",
    "type_vocab_size": 1,
    "use_cache": True,
    "vocab_size": VOCAB,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()
    net = Reranker()
    saved = torch.load(args.work / "checkpoint.pt")
    net.load_state_dict(saved["net"])
    state = {name: tensor.half() for name, tensor in net.state().items()}
    assert all(torch.isfinite(t).all() for t in state.values())
    args.model.mkdir(parents=True, exist_ok=True)
    tmp = args.model / "model.safetensors.tmp"
    save_file(state, str(tmp), metadata={"format": "pt"})
    tmp.chmod(0o644)
    tmp.rename(args.model / "model.safetensors")
    tmp = args.model / "config.json.tmp"
    tmp.write_text(json.dumps(CONFIG, indent=2) + "\n")
    tmp.rename(args.model / "config.json")
    print(f"step {saved['step']}, {saved['spent'] / 60:.1f} minutes of training")


if __name__ == "__main__":
    main()
