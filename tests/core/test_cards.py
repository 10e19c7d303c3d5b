"""Data cards: the schema, the cards of the suite, and fetching from a real server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from functools import partial

import pytest

from core.data.cards import card_names, fetch, list_cards, load_card, read_card, verify
from core.errors import UserError

HEAD = """name: {name}
domain: timeseries
title: a title
source: a source
licence: CC BY 4.0
citation: a paper
layout: columns
normalisation: none
splits: {{kind: fractions, train: 0.7, val: 0.1, test: 0.2}}
files:
  - {{path: one.csv, urls: ["{url}"], sha256: "{sha}", bytes: {size}{more}}}
"""
BODY = b"date,x\n1,2\n" * 1000
SHA = hashlib.sha256(BODY).hexdigest()


def write(folder, text: str, name: str = "mine"):
    path = folder / f"{name}.md"
    path.write_text(f"---\n{text}---\n# {name}\n")
    return path


def head(**changed) -> str:
    how = {"name": "mine", "url": "http://127.0.0.1:9/x", "sha": SHA, "size": len(BODY), "more": ""}
    return HEAD.format(**how | changed)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "one.csv").write_bytes(BODY)
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("set/one.csv", BODY)
        archive.writestr("set/wrong.csv", b"other")
    handler = partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_every_card_of_the_suite_keeps_to_the_schema():
    cards = list_cards()

    assert sorted(card.name for card in cards) == card_names()
    assert {"ett_h1", "weather", "m4_hourly", "embedded"} <= {card.name for card in cards}
    for card in cards:
        assert card.files or card.package or card.hub


def test_cards_agree_with_the_files_beside_the_checkout(shared):
    folder = shared / "data" / "timeseries"

    states = [state for card in list_cards("timeseries") for state in verify(card, folder)]

    assert [state.path for state in states if state.state != "good"] == []
    assert len(states) == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (head(size="many"), r"files\.0\.bytes: Input should be a valid integer"),
        (head(more=", colour: red"), r"files\.0\.colour: Unexpected keyword argument"),
        (head(sha="abc"), r"files\.0: .*sha256 'abc' must be 64"),
        (head(size=0), r"files\.0: .*bytes is 0"),
        (head().replace("path: one.csv", "path: ../one.csv"), r"must be relative and stay"),
        (head().replace("licence: CC BY 4.0\n", ""), r"wrong entry at licence"),
        (head().replace("kind: fractions", "kind: halves"), r"splits\.kind: Input should be 'rows'"),
        (head(name="other"), r"has the name 'other'; it must be 'mine'"),
        (head().split("files:")[0], r"neither files nor the package"),
        (head() + "x: [\n", r"is no YAML"),
        ("- a list\n", r"wrong entry at head"),
    ],
)
def test_a_broken_head_is_one_sentence_with_the_place(tmp_path, text, words):
    with pytest.raises(UserError, match=words) as raised:
        read_card(write(tmp_path, text))

    assert "\n" not in str(raised.value) and "mine.md" in str(raised.value)


def test_a_card_without_a_head_and_a_card_that_is_not_there(tmp_path):
    (tmp_path / "mine.md").write_text("# no head\n")

    with pytest.raises(UserError, match="does not begin with a YAML head"):
        read_card(tmp_path / "mine.md")
    with pytest.raises(UserError, match="did you mean 'weather'"):
        load_card("wether")
    with pytest.raises(UserError, match="did you mean 'timeseries'"):
        list_cards("timeserie")
    with pytest.raises(UserError, match=r"no data card '\.\./README'"):
        load_card("../README")


@pytest.mark.parametrize("how", [{"file": "/one.csv"}, {"file": "/set.zip", "more": ", member: one.csv"}])
def test_a_set_is_fetched_once_and_verified(tmp_path, server, how):
    card = read_card(write(tmp_path, head(url=server + how["file"], more=how.get("more", ""))))
    folder = tmp_path / "data"

    assert [state.state for state in verify(card, folder)] == ["missing"]
    paths = fetch(card, folder)
    assert paths == fetch(card, folder) == [folder / "mine" / "one.csv"]
    assert paths[0].read_bytes() == BODY
    assert [state.state for state in verify(card, folder)] == ["good"]
    assert sorted(path.name for path in folder.rglob("*")) == ["mine", "one.csv"]

    paths[0].write_bytes(BODY[:-1] + b"x")
    assert [state.state for state in verify(card, folder)] == ["wrong"]
    assert fetch(card, folder)[0].read_bytes() == BODY


def test_a_compressed_copy_is_used_where_it_lies(tmp_path):
    card = read_card(write(tmp_path, head()))
    (tmp_path / "one.csv.gz").write_bytes(gzip.compress(BODY))

    assert fetch(card, tmp_path) == [tmp_path / "one.csv.gz"]

    assert not (tmp_path / "mine").exists()
    (tmp_path / "one.csv.gz").write_bytes(gzip.compress(BODY)[:-20])
    assert verify(card, tmp_path)[0].state == "wrong"


def test_a_dead_mirror_of_an_archive_is_followed_by_a_live_one(tmp_path, server):
    card = read_card(write(tmp_path, head(url=server + "/set.zip", more=", member: one.csv")))
    mirrors = [server + "/absent.zip", server + "/one.csv", server + "/set.zip"]
    card = replace(card, files=[replace(card.files[0], urls=mirrors)])

    assert fetch(card, tmp_path / "data")[0].read_bytes() == BODY


@pytest.mark.parametrize("member", ["wrong.csv", "absent.csv"])
def test_a_wrong_member_is_refused_and_leaves_nothing(tmp_path, server, member):
    card = read_card(write(tmp_path, head(url=server + "/set.zip", more=f", member: {member}")))

    with pytest.raises(UserError, match=r"cannot fetch one\.csv of the card mine"):
        fetch(card, tmp_path / "data")

    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_cards_are_read_without_torch():
    code = "import sys, core.data.cards as c; c.list_cards(); sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
