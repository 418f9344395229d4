"""Fetch Debian's package descriptions (English and French), parse and split them.

Why Debian: its archive is reachable wherever this project builds, each package has
a short and a long description (a natural query/passage pair), and the translation
project gives the same text in French for about a third of them.

    python data.py [--work DIR]

writes DIR/packages.jsonl: one package a line with name, source, split
("train" or "test"), and per language the short and the long description.
Apt runs with its own state and cache directories, so the system is left as it was.
"""
import argparse
import collections
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

WORK = Path(__file__).resolve().parent / "work"
HELD_OUT = 0.06  # share of the package families never seen in training


def fetch(work):
    """Run a private `apt-get update` that also brings the translations."""
    root = work / "apt"
    for sub in ("state/lists/partial", "cache/archives/partial", "conf.d", "sources.d"):
        (root / sub).mkdir(parents=True, exist_ok=True)
    # The system's own settings (proxy, certificates), less what mutes translations.
    for conf in Path("/etc/apt/apt.conf.d").glob("*"):
        lines = conf.read_text().splitlines()
        kept = [line for line in lines if "Acquire::Languages" not in line]
        (root / "conf.d" / conf.name).write_text("\n".join(kept) + "\n")
    for src in Path("/etc/apt/sources.list.d").glob("debian*.sources"):
        shutil.copy(src, root / "sources.d" / src.name)
    old_list = Path("/etc/apt/sources.list")
    (root / "sources.list").write_text(old_list.read_text() if old_list.exists() else "")
    conf = root / "apt.conf"
    conf.write_text(
        f'Dir::State "{root}/state";\n'
        'Dir::State::status "/var/lib/dpkg/status";\n'
        f'Dir::Cache "{root}/cache";\n'
        f'Dir::Etc::parts "{root}/conf.d";\n'
        f'Dir::Etc::sourceparts "{root}/sources.d";\n'
        f'Dir::Etc::sourcelist "{root}/sources.list";\n'
        'Acquire::Languages { "en"; "fr"; };\n'
        'APT::Sandbox::User "root";\n'
    )
    env = dict(os.environ, APT_CONFIG=str(conf))
    subprocess.run(["apt-get", "update"], env=env, check=True)
    return root / "state/lists", env


def read(path, env):
    """The text of an apt list, whatever it is compressed with."""
    out = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(path)],
                         env=env, check=True, capture_output=True)
    return out.stdout.decode("utf-8", "replace")


def stanzas(text):
    """Yield each RFC 822-like paragraph as a dict."""
    for block in text.split("\n\n"):
        fields, key = {}, None
        for line in block.splitlines():
            if line[:1] in " \t":
                if key:
                    fields[key] += "\n" + line
            elif ":" in line:
                key, value = line.split(":", 1)
                fields[key] = value.strip()
        if fields:
            yield fields


def paragraphs(body):
    """A Debian long description as a list of plain paragraphs."""
    out, current = [], []
    for line in body.splitlines():
        line = line.strip()
        if line in (".", ""):
            if current:
                out.append(" ".join(current))
            current = []
        else:
            current.append(line)
    if current:
        out.append(" ".join(current))
    return [re.sub(r"\s+", " ", p) for p in out]


def description(text):
    """Split 'short\\n long…' into the short line and the long paragraphs."""
    short, _, body = text.partition("\n")
    return short.strip(), paragraphs(body)


def stem(name):
    """A family name: libfoo1, libfoo-dev, foo-data, python3-foo all give 'foo'."""
    name = name.split(":")[0].lower()
    name = re.sub(r"^(python3?|lib|ruby|node|golang|r-cran|r-bioc|php|elpa|fonts?|texlive|librust)-", "", name)
    name = re.sub(r"^lib(?=[a-z]{3})", "", name)
    for _ in range(4):
        name = re.sub(r"-(dev|doc|docs|data|common|perl|java|bin|utils?|tools?|dbg|examples?|plugins?"
                      r"|extra|base|core|server|client|gtk\d?|qt\d?|gui|cli|ocaml|cil|el|fr|en|all"
                      r"|runtime|modules?|dkms|headers|python3?|ruby|lua|tests?|test|full|x11|nox)$", "", name)
        name = re.sub(r"[-.]?[\d.]+[a-z]?$", "", name)
    return name or "x"


class Families:
    """Union-find over packages, so that near-duplicates land on one side."""

    def __init__(self):
        self.parent = {}

    def find(self, x):
        self.parent.setdefault(x, x)
        while self.parent[x] != x:
            self.parent[x] = self.parent[self.parent[x]]
            x = self.parent[x]
        return x

    def join(self, a, b):
        self.parent[self.find(a)] = self.find(b)


def load(lists, env):
    """All packages with their English and, where there is one, French text."""
    sources = {}
    for path in sorted(lists.glob("*_Packages*")):
        for s in stanzas(read(path, env)):
            if "Package" in s:
                sources[s["Package"]] = s.get("Source", s["Package"]).split()[0]
    packages = collections.defaultdict(dict)
    md5 = {}
    for lang in ("en", "fr"):
        for path in sorted(lists.glob(f"*_Translation-{lang}*")):
            for s in stanzas(read(path, env)):
                key = f"Description-{lang}"
                if "Package" not in s or key not in s:
                    continue
                name, digest = s["Package"], s.get("Description-md5")
                if lang == "en":
                    md5.setdefault(name, digest)
                elif md5.get(name) != digest:
                    continue  # a translation of an older text
                short, paras = description(s[key])
                if short and paras and lang not in packages[name]:
                    packages[name][lang] = {"short": short, "long": paras}
    return packages, sources


def split(packages, sources):
    """Name the side of each package: a hash of its family decides."""
    families = Families()
    for name, langs in packages.items():
        families.join(name, "source/" + sources.get(name, name))
        families.join(name, "stem/" + stem(name))
        families.join(name, "stem/" + stem(sources.get(name, name)))
        for text in langs.values():
            families.join(name, "short/" + text["short"].lower())
            families.join(name, "long/" + " ".join(text["long"]).lower())
            if len(text["long"][0]) > 40:
                families.join(name, "first/" + text["long"][0].lower())
    sides, members = {}, collections.Counter(families.find(n) for n in packages)
    for name in packages:
        root = families.find(name)
        digest = hashlib.sha256(root.encode()).digest()
        chance = int.from_bytes(digest[:4], "big") / 2**32
        # A very large family (all fonts, say) would swamp the test: train only.
        sides[name] = "test" if chance < HELD_OUT and members[root] <= 40 else "train"
    return sides, members


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    work = parser.parse_args().work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    lists, env = fetch(work)
    packages, sources = load(lists, env)
    sides, members = split(packages, sources)
    tmp = work / "packages.jsonl.tmp"
    with tmp.open("w") as out:
        for name in sorted(packages):
            if "en" not in packages[name]:
                continue
            record = {"name": name, "source": sources.get(name, name), "split": sides[name], **packages[name]}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    tmp.rename(work / "packages.jsonl")
    count = collections.Counter((sides[n], lang) for n in packages if "en" in packages[n] for lang in packages[n])
    print("packages:", dict(count), "largest families:", members.most_common(5))


if __name__ == "__main__":
    main()
