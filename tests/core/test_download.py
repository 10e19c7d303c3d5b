"""Downloads from a real server on this machine that breaks off, lies, and goes away."""

from __future__ import annotations

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from core.data import download as module
from core.data.download import data_folder, download, sha256_of
from core.errors import UserError

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Paths: /good, /norange (ignores Range), /cut (breaks off at 300 kB a time), /busy, /wrong, /shifted."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = BODY[::-1] if self.path == "/wrong" else BODY
        if self.path == "/missing" or (self.path == "/busy" and len(self.server.asked) < 3):
            self.send_response(404 if self.path == "/missing" else 503)
            self.end_headers()
            return
        if self.path == "/norange":
            begin, asked = 0, None
        if asked and begin >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        if asked:
            first = 0 if self.path == "/shifted" else begin
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        rest = body[begin:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cut = self.path == "/cut" or (self.path in ("/norange", "/shifted") and len(self.server.asked) == 1)
        self.wfile.write(rest[:300_000] if cut else rest)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        yield running
        running.shutdown()
        thread.join()


def fetch(server, name: str, path, **how):
    return download([server.url + name], path, **{"sha256": SHA, "pause": 0.01} | how)


def test_a_good_file_comes_whole_and_only_once(server, tmp_path):
    path = fetch(server, "/good", tmp_path / "deep" / "file", size=len(BODY))
    fetch(server, "/good", path)

    assert path.read_bytes() == BODY and sha256_of(path) == SHA
    assert server.asked == [("/good", None)]
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("sha256", [SHA, None])
def test_a_body_that_breaks_off_is_continued_where_it_stopped(server, tmp_path, sha256):
    path = fetch(server, "/cut", tmp_path / "file", sha256=sha256)

    assert path.read_bytes() == BODY
    asked = [range_ for _, range_ in server.asked]
    assert asked == [None, "bytes=294912-", "bytes=589824-", "bytes=884736-"]


def test_a_part_of_an_earlier_run_is_continued(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY[:1000])

    assert fetch(server, "/good", tmp_path / "file").read_bytes() == BODY
    assert server.asked == [("/good", "bytes=1000-")]


@pytest.mark.parametrize("left", [BODY, BODY + b"x", b"something else", b"x" * len(BODY)])
def test_whatever_an_earlier_run_left_the_right_file_comes(server, tmp_path, left):
    (tmp_path / "file.part").write_bytes(left)

    assert fetch(server, "/good", tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("name", ["/norange", "/shifted"])
def test_a_server_that_ignores_or_misreads_the_range_is_read_from_the_start(server, tmp_path, name):
    assert fetch(server, name, tmp_path / "file").read_bytes() == BODY
    assert len(server.asked) >= 2


def test_a_busy_server_is_asked_again(server, tmp_path):
    assert fetch(server, "/busy", tmp_path / "file").read_bytes() == BODY


def test_a_wrong_hash_is_refused_and_leaves_no_file(server, tmp_path):
    with pytest.raises(UserError, match=r"/wrong: its SHA-256 is [0-9a-f]{64} instead of"):
        fetch(server, "/wrong", tmp_path / "file")
    with pytest.raises(UserError, match="bytes instead of 5"):
        fetch(server, "/good", tmp_path / "file", sha256=None, size=5)

    assert os.listdir(tmp_path) == []


def test_a_wrong_file_under_the_final_name_is_replaced(server, tmp_path):
    (tmp_path / "file").write_bytes(b"old")

    assert fetch(server, "/good", tmp_path / "file").read_bytes() == BODY


def test_mirrors_are_tried_in_turn(server, tmp_path):
    mirrors = ["http://127.0.0.1:9/dead", *(server.url + name for name in ("/missing", "/wrong", "/good"))]

    path = download(mirrors, tmp_path / "file", sha256=SHA, pause=0.01, progress=False)

    assert path.read_bytes() == BODY
    assert [name for name, _ in server.asked] == ["/missing", "/wrong", "/good"]


def test_no_mirror_alive_says_what_each_answered_and_keeps_no_secret(server, tmp_path):
    mirrors = ["http://user:word@127.0.0.1:9/dead?token=secret", server.url + "/missing"]

    with pytest.raises(UserError) as raised:
        download(mirrors, tmp_path / "file", sha256=SHA, pause=0.01)

    assert "http://127.0.0.1:9/dead: no connection" in str(raised.value)
    assert "/missing: the server answers 404" in str(raised.value)
    assert "secret" not in str(raised.value) and "word@" not in str(raised.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_and_leaves_nothing_under_the_final_name(server, tmp_path):
    (tmp_path / "file.part").symlink_to("/dev/full")

    with pytest.raises(UserError, match="No space left on device; free some space"):
        fetch(server, "/good", tmp_path / "file")

    assert not (tmp_path / "file").exists()


def test_a_server_that_stops_talking_runs_into_the_time_out(server, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(UserError, match="no answer in time"):
            download(url, tmp_path / "file", pause=0.01, timeout=(0.2, 0.1))


def test_addresses_of_another_kind_and_none_at_all_are_refused(tmp_path):
    with pytest.raises(UserError, match="only http and https"):
        download("file:///etc/passwd", tmp_path / "file")
    with pytest.raises(UserError, match="no address is known"):
        download([], tmp_path / "file")


def test_an_unwritable_folder_is_the_users_mistake(server, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")

    with pytest.raises(UserError, match="choose a folder"):
        fetch(server, "/good", tmp_path / "taken" / "file")


def test_a_bar_is_drawn_on_a_terminal_only(server, tmp_path, monkeypatch, capsys):
    fetch(server, "/good", tmp_path / "quiet")
    assert capsys.readouterr().err == ""

    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    fetch(server, "/good", tmp_path / "drawn")
    assert "drawn" in capsys.readouterr().err


def test_the_data_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DFM_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("DFM_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "domainfm" / "data"
