"""Training groups: one query, one right passage, and wrong ones.

Queries are made of the short description (as it is, in a question, as keywords, or
from a sentence of the text), passages of the long one. What people type first is
practised on purpose: typos, dropped accents, capitals, error codes and made-up words
that must match exactly, very short passages, and French asked of English text.
"""
import random
import re
import unicodedata

ASK = {
    "en": ["Which package provides {}?", "How do I get {}?", "What is a good {}?", "which software is a {}",
           "What can I use for {}?", "I need {}", "looking for {}", "Where can I find {}?", "How can I install {}?",
           "Is there a tool for {}?", "best {}", "{} for Debian", "what is {}?", "Tell me about {}", "how to use {}",
           "find {}", "Do you know {}?", "explain {}", "Which program is {}?", "help with {}"],
    "fr": ["Quel paquet fournit {} ?", "Comment obtenir {} ?", "Quel logiciel permet de faire {} ?",
           "Quel est le meilleur {} ?", "je cherche {}", "Où trouver {} ?", "Comment installer {} ?",
           "Existe-t-il {} ?", "besoin de {}", "Que puis-je utiliser pour {} ?", "qu'est-ce que {} ?",
           "Comment utiliser {} ?", "{} pour Debian", "Parlez-moi de {}", "Quel programme est {} ?", "c'est quoi {}",
           "trouver {}", "Connaissez-vous {} ?", "aide pour {}", "À quoi sert {} ?"],
}
WHAT = {"en": ["What is {}?", "what is a {}?", "what's {}", "{}", "define {}", "What does {} do?", "who made {}?", "{} ?"],
        "fr": ["Qu'est-ce que {} ?", "c'est quoi {} ?", "{}", "que fait {} ?", "À quoi sert {} ?", "définition de {}", "qui a écrit {} ?"]}
JUNK = ["hi", "hello", "ok", "Hello, how are you?", "bonjour", "Bonjour, comment allez-vous ?", "n/a", "TODO", "yes",
        "no", "thanks", "merci", "test", "foo bar", "lorem ipsum dolor sit amet", "Paris is the capital of France.",
        "It is raining today.", "I like apples.", "Il fait beau.", "J'aime les pommes.", "The cat sat on the mat.",
        "page not found", "click here", "see also", "42", "..."]
CODES = ["{}", "error {}", "code {}", "{}", "ERR-{}", "E{}", "#{}", "v{}", "ref. {}", "erreur {}"]
# Troubleshooting notes: the right one has both the thing and the code, the wrong ones have one of them or neither.
NOTE_ASK = {"en": ["How do I fix {t} error {c}?", "{t} error {c}", "what does code {c} of {t} mean", "{t} {c}",
                   "{t} fails with {c}", "error {c} in {t}, what to do?"],
            "fr": ["Comment corriger l'erreur {c} de {t} ?", "erreur {t} {c}", "que veut dire le code {c} de {t} ?", "{t} {c}",
                   "{t} affiche {c}", "Que faire en cas d'erreur {t} {c} ?", "Comment régler erreur {t} {c}?"]}
NOTE = {"en": ["{t} error {c}: {s}", "Error {c} in {t}: {s}", "{t} {c} - {s}", "Code {c} ({t}): {s}", "If {t} shows {c}, {s}"],
        "fr": ["Erreur {t} {c} : {s}", "Erreur {c} de {t}: {s}", "{t} {c} - {s}", "Code {c} ({t}) : {s}", "Quand {t} affiche {c}, {s}"]}
NO_NOTE = {"en": ["{t} manual", "About {t}", "{t}: {s}", "{t} documentation", "{t}", "Introduction to {t}", "Installing {t}"],
           "fr": ["Manuel de {t}", "À propos de {t}", "{t} : {s}", "{t}, documentation", "{t}", "Présentation de {t}", "Installer {t}"]}
SYLLABLES = ("ba be bi bo bu ca ce co da de di do fa fi fo fu ga gi go ha he ka ke ki ko la le li lo lu ma me mi mo mu "
             "na ne ni no pa pe pi po ra re ri ro sa se si so su ta te ti to tu va ve vi vo za zi xa qui sta tri plu "
             "gra ble cro ppel nex tor lin ard").split()


def accentless(text):
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def invented(rng):
    """A word or a number that no tokenizer has seen."""
    if rng.random() < 0.5:
        return str(rng.randrange(10 ** rng.choice((2, 3, 4, 4, 5, 6))))
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 3, 3, 4))))


def typo(text, rng):
    """One slip in one longer word: swap, drop, double or replace a letter."""
    parts = text.split(" ")
    long = [i for i, p in enumerate(parts) if len(p) > 4]
    if not long:
        return text
    i = rng.choice(long)
    w = parts[i]
    k = rng.randrange(1, len(w) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        w = w[:k] + w[k + 1] + w[k] + w[k + 2:]
    elif kind == 1:
        w = w[:k] + w[k + 1:]
    elif kind == 2:
        w = w[:k] + w[k] + w[k:]
    else:
        w = w[:k] + rng.choice("abcdefghijklmnopqrstuvwxyz") + w[k + 1:]
    parts[i] = w
    return " ".join(parts)


class Groups:
    """An endless source of (query, passages) with the right passage first."""

    def __init__(self, pool, negatives, seed):
        self.pool, self.neg, self.rng = pool, negatives, random.Random(seed)
        sources = {}
        for r in pool.packages:
            sources[r["source"]] = sources.get(r["source"], 0) + 1
        firsts = {}
        for r in pool.packages:
            key = r["en"]["long"][0][:60]
            firsts[key] = firsts.get(key, 0) + 1
        # Families of near-identical packages (language bindings…) count less.
        weight = [1 / max(sources[r["source"]], firsts[r["en"]["long"][0][:60]]) ** 0.6 for r in pool.packages]
        self.any = list(range(len(pool.packages)))
        self.weight_any = self._cumulate(weight, self.any)
        self.weight_fr = self._cumulate(weight, pool.french)

    @staticmethod
    def _cumulate(weight, rows):
        out, total = [], 0.0
        for i in rows:
            total += weight[i]
            out.append(total)
        return out

    def pick(self, rows, cumulated):
        return self.rng.choices(rows, cum_weights=cumulated)[0]

    def passage(self, i, lang, style):
        rng, paras = self.rng, self.pool.packages[i][lang]["long"]
        if style == "short":
            return self.pool.short(i, lang)
        if style == "part":
            p = paras[0] if len(paras) == 1 or rng.random() < 0.7 else rng.choice(paras[:3])
            sentences = re.split(r"(?<=[.!?:;])\s+", p)
            k = rng.randrange(len(sentences)) if rng.random() < 0.3 else 0
            return " ".join(sentences[k:k + rng.choice((1, 1, 2, 3))])
        if style == "swap" and len(paras) > 1:
            paras = paras[:3]
            rng.shuffle(paras)
        text = " ".join(paras)
        if style == "named":
            return self.pool.names[i] + rng.choice((": ", " - ", ". ", " ")) + text
        if style == "titled":
            return self.pool.short(i, lang) + rng.choice((". ", " - ", "\n")) + text
        return text

    def query(self, i, lang, other):
        """A query in `lang` for package i, whose passage is in `other`."""
        rng, short = self.rng, self.pool.short(i, lang)
        kind = rng.random()
        if kind < 0.08:  # ask for it by name, where the text says the name
            name = re.sub(r"(-(dev|doc|data|common|bin|utils|tools|perl))+$", "", self.pool.names[i])
            if name.lower() in self.pool.long(i, other).lower():
                return rng.choice(WHAT[lang]).format(rng.choice((name, name.capitalize())))
        if kind < 0.20 and lang == other:  # keywords of a sentence of the text itself
            sentence = rng.choice(re.split(r"(?<=[.!?:;])\s+", rng.choice(self.pool.packages[i][lang]["long"][:2])))
            w = [x for x in sentence.split() if rng.random() < 0.6][:rng.randrange(3, 12)]
            if len(w) >= 3:
                return " ".join(w)
        if kind < 0.42:
            return rng.choice(ASK[lang]).format(short[:1].lower() + short[1:])
        if kind < 0.60:
            w = [x for x in re.split(r"[\s,()/]+", short) if x]
            w = [x for x in w if rng.random() < 0.75] or w
            if rng.random() < 0.5:
                rng.shuffle(w)
            return " ".join(w)
        return short

    def worn(self, text, lang):
        """The query as typed in a hurry."""
        rng = self.rng
        if rng.random() < 0.13:
            text = typo(text, rng)
        if lang == "fr" and rng.random() < 0.15:
            text = accentless(text)
        r = rng.random()
        if r < 0.12:
            text = text.lower()
        elif r < 0.16:
            text = text.upper()
        elif r < 0.30:
            text = text[:1].upper() + text[1:]
        if rng.random() < 0.1:
            text = text.rstrip(" ?") if text.endswith("?") else text + rng.choice(("?", " ?", ".", "…"))
        return text

    def next(self, count, hard):
        """One group; `hard` is the share of the wrong passages that BM25 picks."""
        rng, pool = self.rng, self.pool
        if rng.random() < 0.06:
            return self.note(count)
        way = rng.random()
        lang, other = (("en", "en") if way < 0.40 else ("fr", "fr") if way < 0.69 else
                       ("fr", "en") if way < 0.92 else ("en", "fr"))
        cross = lang != other or lang == "fr"
        rows = (pool.french, self.weight_fr) if cross else (self.any, self.weight_any)
        i = self.pick(*rows)
        styles = ["full"] * 50 + ["part"] * 20 + ["named"] * 8 + ["swap"] * 8 + ["titled"] * 4
        if lang != other:
            styles += ["short"] * 10
        style = rng.choice(styles)
        if lang == "fr" and other == "en":
            lists = self.neg["en"][i] if rng.random() < 0.55 else self.neg["fr-en"][i]
        else:
            lists = self.neg[other][i]
        near = [j for j in lists[:30 if rng.random() < 0.5 else 20] if j >= 0]
        rng.shuffle(near)
        wrong, tries = [], 0
        while len(wrong) < count - 1:
            j = near.pop() if near and rng.random() < hard else self.pick(
                pool.french if other == "fr" else self.any, self.weight_fr if other == "fr" else self.weight_any)
            tries += 1
            if j != i and (tries > 40 or j not in wrong and not pool.alike(i, j)):
                wrong.append(j)
        docs = [self.passage(j, other, style) for j in [i] + wrong]
        query = self.query(i, lang, other)
        if rng.random() < 0.10:
            query, docs = self.coded(query, docs)
        query = self.worn(query, lang)
        if rng.random() < 0.15:
            docs[rng.randrange(1, count)] = rng.choice(JUNK)
        return query, docs

    def note(self, count):
        """A thing and its error code, both unseen, among notes that have one of the two."""
        rng = self.rng
        lang = rng.choice(("en", "fr"))

        def text(templates, thing, code):
            short = self.pool.short(self.pick(self.pool.french, self.weight_fr), lang)
            words = short.split()[:rng.randrange(2, 9)]
            return rng.choice(templates[lang]).format(t=thing, c=code, s=" ".join(words))

        thing, code = invented(rng), str(rng.randrange(10 ** rng.choice((2, 3, 4, 4, 5))))
        if rng.random() < 0.3:
            thing = rng.choice(self.pool.names)
        docs = [text(NOTE, thing, code)]
        while len(docs) < count:
            kind = rng.random()
            docs.append(text(NO_NOTE, thing, code) if kind < 0.4 else
                        text(NOTE, thing, invented(rng)) if kind < 0.6 else
                        text(NOTE, invented(rng), code) if kind < 0.8 else
                        text(NO_NOTE, invented(rng), code))
        return self.worn(text(NOTE_ASK, thing, code), lang), docs

    def coded(self, query, docs):
        """Put an unseen word or number in the query and the right passage only."""
        rng = self.rng
        code, form = invented(rng), rng.choice(CODES)
        query = f"{query} {form.format(code)}" if rng.random() < 0.7 else f"{form.format(code)} {query}"
        form = form if rng.random() < 0.6 else "{}"
        alike = rng.random() < 0.5  # then only the code tells the passages apart
        out = []
        for k, doc in enumerate(docs):
            mine = code if k == 0 else invented(rng)
            base = docs[0] if alike and k else doc
            if k and rng.random() < 0.3:
                out.append(base)
                continue
            w = base.split(" ")
            at = rng.randrange(min(len(w), 14) + 1)
            out.append(" ".join(w[:at] + [form.format(mine)] + w[at:]))
        return query, out
