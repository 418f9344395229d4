"""The snippets of docs/clients and docs/migrate.md do what the pages say they do.

A fence of `python` or `sh` is run, and the next fence, of `text` or `json`, is what it has to print. In the snippet the
address `http://localhost:8002` is replaced by a server's, and `your-key` by its key. Other fences are not run.
"""

import contextlib
import io
import json
import os
import re
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [*sorted((DOCS / "clients").glob("*.md")), DOCS / "migrate.md"]

# Pages whose snippets need the packages of `frameworks`; `vercel/test.mjs` runs those of vercel-ai.md.
OF_FRAMEWORKS = {"langchain", "llama-index"}

# Different in every answer.
VOLATILE = {"id", "created", "processing_time"}

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass
class Snippet:
    page: str
    language: str
    code: str
    printed_as: str
    printed: str


def snippets() -> list[Snippet]:
    found = []
    for page in PAGES:
        fences = FENCE.findall(page.read_text())
        for (language, code), (printed_as, printed) in pairwise([*fences, ("", "")]):
            if language in ("python", "sh"):
                assert printed_as in ("text", "json"), f"{page.name}: what does this print?\n{code}"
                found.append(Snippet(page.stem, language, code, printed_as, printed))
    return found


def mine() -> list:
    part = os.environ["CLIENTS_PART"]
    counts: dict[str, int] = {}
    cases = []
    for snippet in snippets():
        counts[snippet.page] = counts.get(snippet.page, 0) + 1
        if (snippet.page in OF_FRAMEWORKS) == (part == "frameworks"):
            cases.append(pytest.param(snippet, id=f"{snippet.page}-{counts[snippet.page]}"))
    return cases


def run(snippet: Snippet, code: str) -> str:
    if snippet.language == "sh":
        command = ["bash", "-euo", "pipefail", "-c", code]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"{snippet.page}.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def like(got, expected) -> bool:
    """Equal but for rounding, and for what is never the same twice."""
    if isinstance(expected, dict) and isinstance(got, dict):
        same_keys = got.keys() == expected.keys()
        return same_keys and all(key in VOLATILE or like(got[key], expected[key]) for key in expected)
    if isinstance(expected, list) and isinstance(got, list):
        return len(got) == len(expected) and all(map(like, got, expected))
    if isinstance(expected, float) and isinstance(got, float):
        return abs(got - expected) <= 0.0005
    return got == expected


@pytest.mark.parametrize("snippet", mine())
def test_snippet(snippet, url, keyed_url, key):
    address = keyed_url if "your-key" in snippet.code else url
    code = snippet.code.replace("http://localhost:8002", address).replace("your-key", key)
    printed = run(snippet, code)
    if snippet.printed_as == "json":
        assert like(json.loads(printed), json.loads(snippet.printed)), printed
    else:
        assert printed == snippet.printed


def test_every_page_is_in_the_index_and_shows_something_that_runs():
    index = (DOCS / "clients" / "README.md").read_text()
    shown = {snippet.page for snippet in snippets()} | {"vercel-ai"}
    for page in PAGES:
        if page.name != "README.md":
            assert page.stem in shown, f"{page.name} has no snippet that is run"
            assert f"({page.name})" in index or f"(../{page.name})" in index, (
                f"{page.name} is not in the index"
            )


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
