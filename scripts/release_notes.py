"""Prints the release notes of a version: its section of CHANGELOG.md.

    python3 scripts/release_notes.py 0.1.0
    python3 scripts/release_notes.py --released v0.1.0

It fails if there is no such section, or if the section is empty. With `--released` it also fails if
the section is called unreleased, or if the version is not that of Cargo.toml.

A section begins with `## 0.1.0`, `## 0.1.0 (2026-12-01)` or, before the release,
`## Unreleased (0.1.0)`. `python3 -m doctest scripts/release_notes.py` tests the functions.
"""
import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def sections(changelog):
    """Headings and texts, in the order of the file.

    >>> list(sections("# Changelog\\n\\n## 0.2.0\\n\\n- B\\n### More\\n\\n## 0.1.0\\n- A\\n"))
    [('0.2.0', '- B\\n### More'), ('0.1.0', '- A')]
    """
    for part in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        yield heading.strip(), text.strip()


def notes(changelog, version, released=False):
    """The text of a version's section.

    >>> changelog = "## Unreleased (0.2.0)\\n\\n- B\\n\\n## 0.1.0 (2026-12-01)\\n\\n- A\\n\\n## 0.0.9\\n"
    >>> notes(changelog, "0.1.0")
    '- A'
    >>> notes(changelog, "0.2.0")
    '- B'
    >>> notes(changelog, "0.2.0", released=True)
    Traceback (most recent call last):
    ValueError: CHANGELOG.md still calls 0.2.0 unreleased
    >>> notes(changelog, "0.1")
    Traceback (most recent call last):
    ValueError: CHANGELOG.md has no section for 0.1
    >>> notes(changelog, "0.0.9")
    Traceback (most recent call last):
    ValueError: the section for 0.0.9 in CHANGELOG.md is empty
    """
    for heading, text in sections(changelog):
        if version not in re.findall(r"[^\s()]+", heading):
            continue
        if released and heading.startswith("Unreleased"):
            raise ValueError(f"CHANGELOG.md still calls {version} unreleased")
        if not text:
            raise ValueError(f"the section for {version} in CHANGELOG.md is empty")
        return text
    raise ValueError(f"CHANGELOG.md has no section for {version}")


def check_version(tag, manifest):
    """The version of a tag, which must be that of the package.

    >>> check_version("v0.1.0", '[package]\\nversion = "0.1.0"')
    '0.1.0'
    >>> check_version("v0.2.0", '[package]\\nversion = "0.1.0"')
    Traceback (most recent call last):
    ValueError: the tag says 0.2.0, Cargo.toml says 0.1.0
    """
    version, packaged = tag.removeprefix("v"), tomllib.loads(manifest)["package"]["version"]
    if version != packaged:
        raise ValueError(f"the tag says {version}, Cargo.toml says {packaged}")
    return version


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version")
    parser.add_argument("--released", action="store_true", help="the version is a tag's")
    args = parser.parse_args()
    try:
        version = args.version
        if args.released:
            version = check_version(version, (ROOT / "Cargo.toml").read_text("utf-8"))
        print(notes((ROOT / "CHANGELOG.md").read_text("utf-8"), version, args.released))
    except ValueError as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
