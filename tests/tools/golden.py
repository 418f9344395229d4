"""Write the golden tokens and logits that the Rust tests compare against.

    python tests/tools/golden.py            # all of it, from any directory

Run it again whenever the weights or the tokenizer in models/demo change. Needs
torch, transformers, tokenizers and safetensors (see training/requirements.txt).
The reference is Hugging Face transformers: XLMRobertaForSequenceClassification in
float32 with eager attention, and the same in float64 to show how far float32 rounds.
All text here is made for the purpose.
"""
import argparse
import json
import random
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests/fixtures"
BATCHES = (1, 2, 7, 20, 64)
VERSIONS = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
            "tokenizers": tokenizers.__version__}

PLAIN = [
    ("what is a panda?", "The giant panda is a bear species endemic to China."),
    ("what is a panda?", "hi"),
    ("Comment résoudre erreur fusappel 6102?", "Erreur fusappel 6102: vérifier configuration"),
    ("Comment compresser des fichiers ?", "A tool to compress and decompress files"),
    ("compres files", "A program that compresses files; it can also list and test archives."),
    ("serveur wbe", "Un serveur web léger et rapide, facile à configurer."),
    ("What is the capital of France?", "Paris is the capital of France."),
    ("Où est l'été à Noël ?", "L'été, c'est « chaud » ; Noël, c'est froid… n'est-ce pas ?"),
    ("MIXED Case QUERY", "mixed case DOCUMENT With Capitals"),
    ("C++ vs. C#", "f(x) = x^2 + 3*x - 1; while (i < 10) { i += 1; }"),
    ("http://localhost:8080/a?b=c&d=%20#e", "user@example.org /usr/share/doc/foo-1.2.3~rc1/README.gz"),
    ("1234567890", "3.14159 2,718 1e-9 0x7f 6102 ERR-42"),
    ("tiret — cadratin – demi", "« guillemets » “curly” ‘single’ \"straight\" 'plain'"),
]
ODD = {
    "ligatures": "ﬁle ﬂow oﬃce ﬀ ﬆ ĳ ŉ ǆ",
    "full width": "Ｆｕｌｌ ｗｉｄｔｈ　１２３　ＡＢＣ！",
    "super and sub": "x² + y³ = z₁ ½ ¾ ⅓ ™ ℃ № ㎏ ㍿",
    "circled": "① ② ⑳ Ⓐ ⓩ ㊀ 🄰",
    "combining": "e\u0301te\u0301 n\u0303 a\u0308 c\u0327a o\u0302\u0323",
    "composed": "été ñ ä ça ộ",
    "many marks": "Z\u0351\u036b\u0343a\u0358\u0315l\u0321g\u0334\u0303o\u035f",
    "emoji": "😀 👍🏽 👩\u200d👩\u200d👧\u200d👦 🇫🇷 ❤\ufe0f ☺ 1\ufe0f\u20e3",
    "zero width": "zero\u200bwidth\u200cnon\u200djoiner\u2060word\ufeffbom",
    "soft hyphen": "co\u00adop\u00aderation",
    "chinese": "大熊猫是中国特有的熊科动物。",
    "japanese": "ジャイアントパンダは、ﾊﾟﾝﾀﾞ とも。ｶﾞ",
    "korean": "대왕판다는 중국의 곰이다 \u1100\u1161\u11a8",
    "arabic": "الباندا العملاقة دب \u202bRTL\u202c \ufdfa ﷺ",
    "hebrew": "פנדה ענקית שָׁלוֹם",
    "hindi": "विशाल पांडा क्षि",
    "thai": "แพนด้ายักษ์ กำ",
    "russian": "Большая панда — медведь Ёлка йод",
    "greek": "γιγάντιο πάντα ΌΣΟΣ ς ᾳ",
    "turkish": "İstanbul ısı ŞİŞ",
    "german": "Straße ẞ Größe Ünïcödé",
    "maths": "𝐁𝐨𝐥𝐝 𝒮𝒸𝓇𝒾𝓅𝓉 𝟘𝟙𝟚 ∑∫√∞≠≤",
    "tabs": "tab\there\t\ttwo",
    "lines": "line one\nline two\r\nline three\rfour\n\n\nfive",
    "spaces": "a  b   c\u00a0d\u2003e\u3000f\u2028g\u2029h\u205fi\u1680j\u202fk",
    "controls": "nul\x00bell\x07esc\x1b[0m del\x7f c1\x85x\x9fy",
    "more controls": "\x01\x02\x03 a\x0bb\x0cc\x1cd\x1ee\x1ff",
    "private use": "\ue000\uf8ff \U000f0000",
    "unassigned": "\u0378 \U000e0fff \ufffe \uffff",
    "replacement": "bad \ufffd bytes",
    "tags": "\U000e0041\U000e0042 \ufe0e \ufff9 \u034f \u061c",
    "begin": "<s>",
    "end": "</s>",
    "mask": "<mask>",
    "pad": "<pad>",
    "unknown": "<unk>",
    "inline specials": "before <s> middle </s> after <mask>end  <mask>  x<pad>y <unk>z",
    "almost specials": "< s> <S> </ s> &lt;s&gt; <<s>> <s></s><mask>",
    "metaspace": "▁ ▁▁ a▁b ▁word _under_score",
    "repeat": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "dots": "....... ... …… !!!???!!! -------- =======",
    "long word": "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 3,
    "mixed": "Prix : 12 345,67 € (TTC) — l’été 2024 №7 ½ ﬁn",
    "quotes": "l'eau l’eau lʼeau l`eau “x” „y“ «z»",
    "one letter": "a",
    "one digit": "7",
    "one sign": "?",
    "one accent": "é",
    "one han": "熊",
    "one emoji": "🐼",
    "one mark": "\u0301",
    "one zero width": "\u200b",
    "empty": "",
    "blank": " \t\n\u3000 ",
    "padded": "   spaces around   \n",
    "odd blanks": "\u200b padded \ufeff",
    "file separators": "\x1c\x1d stripped by Python \x1e\x1f\x85\u00a0",
}
SENTENCES = [
    "The index keeps one entry for each document and a list of the words in it.",
    "Le serveur répond en quelques millisecondes, même quand la file d'attente est pleine.",
    "Restart the service after you change its configuration file.",
    "Cette bibliothèque lit et écrit des images dans plus de trente formats différents.",
    "A compiler turns source code into machine code; an interpreter runs it directly.",
    "Pour compresser un dossier, créez d'abord une archive puis choisissez un format.",
    "Error 6102 means that the call was merged before the queue had been opened.",
    "L'imprimante n'est pas détectée : vérifiez le câble, puis relancez le système.",
    "Games of strategy reward patience, and sometimes a little luck.",
    "Le panda géant vit dans les montagnes du centre de la Chine et mange du bambou.",
    "Version 2.4.1 fixes 17 bugs, removes 3 options and adds IPv6 support (see #1234).",
    "Astronomers measure the distance of stars by parallax, in parsecs or light-years.",
]


def prose(rng, sentences):
    return " ".join(rng.choice(SENTENCES) for _ in range(sentences))


def write(path, value):
    tmp = path.with_name(path.name + ".tmp")
    tmp.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace('},{"', '},\n{"') + "\n")
    assert tmp.stat().st_size < 1_500_000, (path, tmp.stat().st_size)
    tmp.rename(path)
    print(path.relative_to(ROOT), path.stat().st_size)


class Tokens:
    """The demo tokenizer, asked as the server asks it."""

    def __init__(self, path):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(path))

    def encode(self, query, document, max_length, direction="right"):
        self.tokenizer.enable_truncation(max_length, strategy="longest_first", direction=direction)
        return self.tokenizer.encode(query.strip(), document.strip(), add_special_tokens=True).ids

    def cases(self):
        rng = random.Random(7)
        pairs = [(name, q, d, 512) for name, (q, d) in ((f"plain {i}", p) for i, p in enumerate(PLAIN))]
        for name, text in ODD.items():
            pairs.append((f"{name} as query", text, "A short and plain document.", 512))
            pairs.append((f"{name} as document", "plain query", text, 512))
        pairs += [(f"{a} and {b}", ODD[a], ODD[b], 512) for a, b in
                  (("empty", "empty"), ("blank", "empty"), ("one letter", "one letter"), ("emoji", "chinese"),
                   ("inline specials", "inline specials"), ("combining", "composed"), ("controls", "zero width"))]
        long = {"long query": (prose(rng, 60), "short document"),
                "long document": ("short query", prose(rng, 60)),
                "both long": (prose(rng, 50), prose(rng, 70)),
                "both long, query longer": (prose(rng, 70), prose(rng, 45)),
                "even": (SENTENCES[0], SENTENCES[1]),
                "one word each": ("panda", "bear"),
                "empty query": ("", prose(rng, 8)),
                "empty document": (prose(rng, 8), ""),
                "odd document": (SENTENCES[5], " ".join(ODD.values()).replace("\x00", "")),
                "odd query": (" ".join(list(ODD.values())[::-1]), SENTENCES[9]),
                "middling": (prose(rng, 2), prose(rng, 6)),
                "long unbroken": ("é" * 700, "x1" * 900)}
        for limit in (8, 9, 16, 32, 33, 64, 128, 511, 512):
            pairs += [(f"{name} at {limit}", q, d, limit) for name, (q, d) in long.items()]
        pairs = [(n, q, d, m, "right") for n, q, d, m in pairs]
        pairs += [(f"{name} at {limit}, left", q, d, limit, "left") for limit in (9, 32, 511)
                  for name, (q, d) in long.items()]
        return [{"name": n, "query": q, "document": d, "max_length": m, "direction": side,
                 "input_ids": self.encode(q, d, m, side)} for n, q, d, m, side in pairs]


def padded(batch, pad):
    longest = max(map(len, batch))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in batch])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
    return ids, mask


def scored(models, batch):
    ids, mask = padded(batch, models["float32"].config.pad_token_id)
    out = {"size": len(batch), "input_ids": batch}
    with torch.no_grad():
        for name, model in models.items():
            out["logits" if name == "float32" else "logits_" + name] = model(
                input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
    return out


def reference(folder):
    """The model twice: float32 (the reference) and float64."""
    models = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        model, info = XLMRobertaForSequenceClassification.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        models[name] = model.eval()
    return models


def demo(folder):
    """Tokens and logits of models/demo."""
    tokens = Tokens(folder / "tokenizer.json")
    cases = tokens.cases()
    write(FIXTURES / "golden/tokens.json", {"versions": VERSIONS, "cases": cases})
    rng = random.Random(11)
    texts = [(q, d, 512) for q, d in PLAIN] + [("", "", 512), ("", "a", 512)]
    while len(texts) < 220:
        texts.append((rng.choice(SENTENCES)[:rng.randrange(5, 70)], prose(rng, rng.choice((1, 1, 2, 3, 5))), 512))
    pool = [tokens.encode(*t) for t in texts]
    full = [tokens.encode(prose(rng, 9), prose(rng, 60), 512) for _ in range(3)]
    short = [[0, 2, 2], [0, 2, 2, 2], [0, 5, 2, 2, 6, 2]]  # no shorter input is ever made
    models = reference(folder)
    batches = [scored(models, [row]) for row in short + full[:1] + pool[:len(PLAIN)]]
    for size in BATCHES:
        for turn in range(2):
            batch = rng.sample(pool, size)
            if turn and size > 2:
                batch[1], batch[-1], batch[size // 2] = full[turn], short[turn], short[0]
            batches.append(scored(models, batch))
    out = {"versions": VERSIONS, "batches": batches}
    # A text that says "<pad>": transformers gives that token position `pad_token_id`
    # and does not count it, though the attention mask keeps it.
    row = tokens.encode("what <pad> is this", "x <pad> y", 512)
    assert 1 in row
    out["interior_pad"] = [scored(models, [row]), scored(models, [row, pool[0]])]
    # The same pairs as text, for a test from end to end.
    single = [scored(models, [tokens.encode(q, d, 512)]) for q, d in PLAIN]
    out["text"] = [{"query": q, "document": d, "logit": s["logits"][0]} for (q, d), s in zip(PLAIN, single)]
    write(FIXTURES / "golden/logits.json", out)


def tiny():
    """A random model of odd shapes, in both styles of config.json."""
    folder = FIXTURES / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    config = XLMRobertaConfig(
        vocab_size=103, hidden_size=192, num_hidden_layers=3, num_attention_heads=3, intermediate_size=320,
        max_position_embeddings=70, type_vocab_size=1, layer_norm_eps=1e-5, hidden_act="gelu", num_labels=1,
        pad_token_id=1, bos_token_id=0, eos_token_id=2)
    model = XLMRobertaForSequenceClassification(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "LayerNorm.weight" in name:
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.2 * torch.randn_like(p))
            elif "embeddings" in name:
                p.copy_(0.5 * torch.randn_like(p))
            else:
                scale = 1.6 if "query" in name or "key" in name else 6.0 if "out_proj" in name else 1.0
                p.copy_(torch.randn_like(p) * scale / p.shape[1] ** 0.5)
    state = {k: v.contiguous() for k, v in model.state_dict().items() if "position_ids" not in k}
    tmp = folder / "model.safetensors.tmp"
    save_file(state, str(tmp), metadata={"format": "pt"})
    tmp.chmod(0o644)
    tmp.rename(folder / "model.safetensors")
    common = {
        "architectures": ["XLMRobertaForSequenceClassification"], "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0, "classifier_dropout": None, "eos_token_id": 2, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 192, "id2label": {"0": "LABEL_0"}, "initializer_range": 0.02,
        "intermediate_size": 320, "label2id": {"LABEL_0": 0}, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 70, "model_type": "xlm-roberta", "num_attention_heads": 3,
        "num_hidden_layers": 3, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 103}
    old = dict(common, position_embedding_type="absolute", torch_dtype="float32",
               transformers_version="4.44.2", use_cache=True)
    new = dict(common, add_cross_attention=False, dtype="float32", is_decoder=False, tie_word_embeddings=True,
               transformers_version=transformers.__version__, use_cache=True)
    for name, value in (("config.json", old), ("config-v5.json", new)):
        tmp = folder / (name + ".tmp")
        tmp.write_text(json.dumps(dict(sorted(value.items())), indent=2) + "\n")
        tmp.rename(folder / name)
    models = reference(folder)
    rng = random.Random(5)

    def sequence(n):
        return [0] + [rng.randrange(3, 103) for _ in range(n - 2)] + [2]

    batches = [scored(models, [sequence(n)]) for n in (3, 4, 5, 8, 15, 16, 17, 31, 33, 63, 64)]
    batches += [scored(models, [sequence(64) for _ in range(5)])]
    for size in BATCHES:
        lengths = [rng.randrange(3, 65) for _ in range(size)]
        if size > 2:
            lengths[0], lengths[-1] = 3, 64
        batches.append(scored(models, [sequence(n) for n in lengths]))
    write(FIXTURES / "golden/tiny.json", {"versions": VERSIONS, "batches": batches})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models/demo")
    folder = parser.parse_args().model
    (FIXTURES / "golden").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    demo(folder)
    tiny()


if __name__ == "__main__":
    main()
