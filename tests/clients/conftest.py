"""Fixtures: the servers that `run` has started, the ranking to agree with, a guard against talking to anyone else."""

import os
import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import support

# LiteLLM looks a `huggingface/` model up there, for its prices; refused, it goes on without.
_EXPECTED = {"huggingface.co"}

_strangers: set[str] = set()


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    return host in (None, "", "localhost", "0.0.0.0", "::1") or str(host).startswith("127.")


def _watch(event: str, args: tuple) -> None:
    """Telemetry, price lists and the like: nothing here may need the network, and nothing is told to anyone."""
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if not _is_local(host):
        _strangers.add(str(host))
        raise ConnectionRefusedError(f"the client tests do not talk to {host}")


sys.addaudithook(_watch)


@pytest.fixture(scope="session", autouse=True)
def nobody_else():
    yield
    unexpected = sorted(_strangers - _EXPECTED)
    assert not unexpected, f"some client tried to reach {unexpected}"


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ["RERANKER_URL"]


@pytest.fixture(scope="session")
def keyed_url() -> str:
    """A server that wants `key`."""
    return os.environ["RERANKER_KEYED_URL"]


@pytest.fixture(scope="session")
def key() -> str:
    return os.environ["RERANKER_KEY"]


@pytest.fixture(scope="session")
def native(url) -> support.Ranking:
    ranking = support.native_ranking(url)
    scores = [score for _, score in ranking]
    assert len(scores) == len(support.PASSAGES)
    assert scores == sorted(scores, reverse=True)
    assert all(a - b > 10 * support.TOLERANCE for a, b in pairwise(scores)), "the passages must not tie"
    return ranking


@pytest.fixture
def spy(url):
    """The server without a key, behind a proxy that keeps the requests."""
    spy = support.Spy(url)
    yield spy
    spy.close()


@pytest.fixture
def keyed_spy(keyed_url):
    spy = support.Spy(keyed_url)
    yield spy
    spy.close()
