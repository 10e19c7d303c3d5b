"""`dfm checkpoint`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from published import write_folder

from apps.timeseries.models.mixer.settings import DecoderSettings
from apps.timeseries.models.ttm import KEY_MAP, TTM, to_official_config
from core.checkpoints.cards import load_weights_card
from core.checkpoints.files import read_checkpoint, write_checkpoint
from core.checkpoints.networks import describe_network
from core.checkpoints.sources import read_folder
from core.cli import main as dfm
from core.cli.checkpoint import main
from core.errors import UserError


@pytest.fixture
def network() -> TTM:
    torch.manual_seed(0)
    return TTM(
        context=32, horizon=8, patch=8, width=16, depth=1, levels=2, decoder=DecoderSettings(width=8, depth=1)
    )


@pytest.fixture
def run(tmp_path: Path, network: TTM) -> Path:
    """A runs folder with one run of two checkpoints and a link to the newer one."""
    folder = tmp_path / "runs" / "timeseries" / "ttm-demo" / "20260101-000000" / "checkpoints"
    folder.mkdir(parents=True)
    record = {
        "format": 1,
        "domain": "timeseries",
        "system": "ttm",
        "recipe": "ttm/demo",
        "config": {
            "model": {"class_path": "x.Task", "init_args": {"network": describe_network(network)}},
            "data": {
                "class_path": "apps.timeseries.data.Series",
                "init_args": {"card": "embedded", "context": 32},
            },
        },
        "key_map": "apps.timeseries.models.ttm",
        "licences": ["CC-BY-4.0"],
        "sources": ["embedded"],
        "switches": {"fast_dropout": True},
        "versions": {"torch": "2.14.1"},
    }
    for step in (5, 10):
        content = {
            "state_dict": {f"network.{name}": tensor for name, tensor in network.state_dict().items()},
            "global_step": step,
            "epoch": step // 5,
            "callbacks": {
                "ModelCheckpoint{}": {"monitor": "val_loss", "current_score": torch.tensor(1 / step)}
            },
            "domainfm": record,
        }
        write_checkpoint(content, folder / f"step{step:08d}.ckpt")
    (folder / "last.ckpt").symlink_to("step00000010.ckpt")
    return folder


def test_list_shows_step_metric_and_validity(tmp_path, run, capsys):
    damaged = bytearray((run / "step00000005.ckpt").read_bytes())
    damaged[5000] ^= 1
    (run / "step00000005.ckpt").write_bytes(damaged)

    assert main(["list", str(tmp_path / "runs")]) == 0

    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["checkpoint", "step", "epoch", "metric", "valid"]
    assert first.endswith("no, it fails its SHA-256 check")
    assert second.split()[-5:] == ["10", "2", "val_loss", "0.1", "yes"]
    assert "step00000010.ckpt (last)" in second


def test_list_of_nothing_is_no_mistake_but_no_folder_is(tmp_path, capsys):
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no checkpoints under {tmp_path}\n"

    with pytest.raises(UserError, match="there is no folder"):
        main(["list", str(tmp_path / "runs")])


def test_inspect_prints_what_a_checkpoint_is_and_where_it_came_from(run, network, capsys):
    assert main(["inspect", str(run / "last.ckpt")]) == 0

    lines = {line[:12].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}
    count = sum(p.numel() for p in network.state_dict().values())
    assert lines["format"] == "checkpoint, version 1"
    assert lines["verified"].startswith("SHA-256 ")
    assert (lines["recipe"], lines["step"], lines["epoch"]) == ("ttm/demo", "10", "2")
    assert lines["metric"] == "val_loss 0.1"
    assert lines["network"].startswith("apps.timeseries.models.ttm.from_official_config")
    assert lines["data"] == "apps.timeseries.data.Series(card=embedded, context=32)"
    assert lines["parameters"].replace(" ", "").startswith(f"{count}in")
    assert (lines["licences"], lines["sources"]) == ("CC-BY-4.0", "embedded")
    assert (lines["switches"], lines["versions"]) == ("fast_dropout True", "torch 2.14.1")


def test_inspect_as_json_lists_every_tensor(run, network, capsys):
    assert main(["inspect", str(run / "last.ckpt"), "--json", "--keys"]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["step"] == 10
    assert facts["keys"].keys() == network.state_dict().keys()


def test_inspect_refuses_a_damaged_file_in_one_sentence(run, capsys):
    path = run / "step00000010.ckpt"
    path.write_bytes(path.read_bytes()[:-500])

    assert dfm(["checkpoint", "inspect", str(path)]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "is truncated" in error


def test_export_then_import_gives_the_same_checkpoint_and_export_the_same_files(
    tmp_path, run, network, capsys
):
    assert main(["export", str(run / "last.ckpt"), "--out", str(tmp_path / "out")]) == 0
    assert main(["import", str(tmp_path / "out"), "--system", "ttm", "--out", str(tmp_path / "x.ckpt")]) == 0
    assert main(["export", str(tmp_path / "x.ckpt"), "--out", str(tmp_path / "again")]) == 0

    assert "start from it with --model.weights" in capsys.readouterr().out
    made = read_checkpoint(tmp_path / "x.ckpt")
    assert all(
        torch.equal(made["state_dict"][f"network.{key}"], value)
        for key, value in network.state_dict().items()
    )
    assert made["domainfm"]["licences"] == ["CC-BY-4.0"]
    first, again = read_folder(tmp_path / "out"), read_folder(tmp_path / "again")
    assert first[1] == again[1]
    assert all(torch.equal(tensor, again[0][name]) for name, tensor in first[0].items())
    assert set(first[0]) == set(KEY_MAP.to_official(network.state_dict()))


def test_import_of_a_file_without_configuration_asks_for_one(tmp_path, network):
    folder = tmp_path / "published"
    write_folder(folder, KEY_MAP.to_official(network.state_dict()), to_official_config(network))
    alone = (folder / "model.safetensors").rename(tmp_path / "alone.safetensors")

    with pytest.raises(UserError, match=r"does not say which network it belongs to: it needs a config\.json"):
        main(["import", str(alone), "--system", "ttm", "--out", str(tmp_path / "x.ckpt")])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["inspekt"], "'inspekt' is no verb of dfm checkpoint .*did you mean 'inspect'"),
        (["export", "x.ckpt"], "the following arguments are required: --out"),
        (["inspect", "gone.ckpt"], r"weights gone\.ckpt do not exist; check the path"),
        (["import", ".", "--out", "x.safetensors"], r"must end in \.ckpt"),
        (["import", ".", "--o", "x.ckpt"], "unknown option --o of dfm checkpoint import"),
        (["fetch", "ttm-r2-512-69"], "no weights card 'ttm-r2-512-69'; did you mean 'ttm-r2-512-96'"),
        (["export", "x.ckpt", "--out", "y", "--layout", "hf"], "invalid choice: 'hf'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(words, sentence, capsys):
    with pytest.raises(UserError, match=sentence):
        main(words)

    assert dfm(["checkpoint", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dfm: ")
    assert len(error.splitlines()) == 1


def test_fetch_without_names_lists_the_cards(capsys):
    assert main(["fetch"]) == 0

    assert "ttm-r2-512-96" in capsys.readouterr().out


@pytest.fixture
def hub(tmp_path, monkeypatch, network):
    """A server that answers as the hub does, with one published network under any revision; its folder."""
    published = tmp_path / "published"
    write_folder(published, KEY_MAP.to_official(network.state_dict()), to_official_config(network))
    repository = load_weights_card("ttm-r2-512-192").hub

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = published / Path(self.path).name
            if not self.path.startswith(f"/{repository}/resolve/") or not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("DFM_WEIGHTS", str(tmp_path / "cache"))
    yield published
    server.shutdown()
    server.server_close()


def test_fetch_puts_a_cards_files_where_weights_finds_them(tmp_path, hub, network, capsys):
    assert main(["fetch", "ttm-r2-512-192"]) == 0
    assert main(["inspect", "ttm-r2-512-192"]) == 0

    printed = capsys.readouterr().out
    assert "licence apache-2.0" in printed
    assert "ibm-granite/granite-timeseries-ttm-r2@512-192-r2" in printed
    fetched = tmp_path / "cache" / "ttm-r2-512-192" / "model.safetensors"
    assert fetched.read_bytes() == (hub / "model.safetensors").read_bytes()


def test_fetch_keeps_no_file_with_another_hash_than_the_cards(tmp_path, hub):
    with pytest.raises(UserError, match=r"model\.safetensors .*SHA-256 is \w{64} instead of a706726a"):
        main(["fetch", "ttm-r2-512-96"])

    assert [path.name for path in (tmp_path / "cache" / "ttm-r2-512-96").iterdir()] == ["config.json"]


def test_fetch_of_what_the_hub_does_not_have_is_one_sentence(hub, capsys):
    (hub / "config.json").unlink()

    assert dfm(["checkpoint", "fetch", "ttm-r2-512-192"]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "resolve/512-192-r2/config.json: the server answers 404" in error


def test_the_help_needs_no_torch():
    program = (
        "import sys; from core.cli import main\n"
        "try: main(['checkpoint', '--help'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "inspect" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 False"
