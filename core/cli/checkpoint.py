"""`dfm checkpoint list|fetch|inspect|import|export|average`; only what reads weights imports torch."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.cli.parser import Parser, checked_verb, verb_parsers
from core.errors import UserError
from core.tables import text_table

__all__ = ["main"]

VERBS = {
    "list": "list the checkpoints of a runs folder",
    "fetch": "download published weights by their card",
    "inspect": "show what a checkpoint holds and where it came from",
    "import": "make one of our checkpoints of published weights",
    "export": "write a checkpoint's weights as config.json and model.safetensors",
    "average": "average the weights of several trainings of one network",
}


def main(argv: Sequence[str]) -> int:
    """Run `dfm checkpoint` with the words after it, and return the exit code."""
    options = _parser().parse_args(checked_verb(argv, list(VERBS), command="dfm checkpoint"))
    run: Callable[[argparse.Namespace], int] = globals()[f"_{options.verb}"]
    return run(options)


def _parser() -> Parser:
    parser = Parser(prog="dfm checkpoint", description="Checkpoints and weights.")
    add = verb_parsers(parser, VERBS)
    add["list"]("folder", nargs="?", default="runs", help="runs folder or one run (default: runs)")
    add["fetch"]("card", nargs="*", help="names of weights cards; none lists them")
    add["fetch"]("--out", type=Path, help="folder to put them in (default: the cache)")
    add["inspect"]("checkpoint", help=".ckpt, .safetensors, folder, card or hub id")
    add["inspect"]("--json", action="store_true", help="print everything as JSON")
    add["inspect"]("--keys", action="store_true", help="list every tensor with its shape")
    source = "folder, .safetensors file, weights card or hub id owner/name[@revision]"
    add["import"]("source", help=source)
    add["import"]("--system", help="the system's name, such as ttm, where the source does not tell")
    add["import"]("--out", type=Path, required=True, help="the .ckpt file to write")
    add["export"]("checkpoint", help="the .ckpt, file or folder")
    add["export"]("--out", type=Path, required=True, help="the folder to write, or one .safetensors file")
    layouts = ["official", "own"]
    add["export"]("--layout", choices=layouts, default="official", help="names of the tensors")
    add["export"]("--adapter", action="store_true", help="write only what was trained beside frozen weights")
    add["average"]("checkpoint", nargs="+", help="two or more, of one network")
    add["average"]("--out", type=Path, required=True, help="the .ckpt file to write")
    return parser


def _list(options: argparse.Namespace) -> int:
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the runs folder, or train something first")
    paths = sorted(path for path in folder.rglob("*.ckpt") if not path.is_symlink())
    links = {path: os.path.realpath(path) for path in folder.rglob("*.ckpt") if path.is_symlink()}
    if not paths:
        print(f"no checkpoints under {folder}")
        return 0
    from core.checkpoints.files import damage, read_unverified

    rows = []
    for path in paths:
        wrong = damage(path)
        names = [link.stem for link, target in links.items() if target == os.path.realpath(path)]
        shown = str(path.relative_to(folder)) + (f" ({', '.join(names)})" if names else "")
        content: Mapping[str, Any] = {}
        if wrong is None:
            try:
                content = read_unverified(path, mmap=True)
            except UserError:
                wrong = "holds Python objects"
        step, epoch = str(content.get("global_step", "-")), str(content.get("epoch", "-"))
        rows.append((shown, step, epoch, _metric(content), "yes" if wrong is None else f"no, it {wrong}"))
    print(text_table(rows, head=("checkpoint", "step", "epoch", "metric", "valid")))
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from core.checkpoints.cards import card_names, fetch_weights, is_fetched, load_weights_card

    if not options.card:
        rows = []
        for card in map(load_weights_card, card_names()):
            fits = card.size.class_path if card.size else "its config.json"
            rows.append((card.name, "yes" if is_fetched(card) else "no", card.source, card.licence, fits))
        print(text_table(rows, head=("card", "fetched", "source", "licence", "fits")))
        return 0
    cards = [load_weights_card(name) for name in options.card]
    if options.out is not None and len(cards) > 1:
        raise UserError("--out takes one card at a time; fetch them one by one, or into the cache")
    for card in cards:
        folder = fetch_weights(card, options.out)
        print(f"{card.name}: {folder} (licence {card.licence}; {card.source})")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from core.checkpoints.files import damage
    from core.checkpoints.sources import read_weights

    path = Path(options.checkpoint).expanduser()
    wrong = damage(path) if path.exists() and path.suffix == ".ckpt" else None
    if wrong:
        raise UserError(
            f"checkpoint {path} {wrong}; `dfm checkpoint list {path.parent}` shows which are valid"
        )
    weights = read_weights(options.checkpoint, outline=True)
    facts = _facts(weights)
    if options.keys:
        facts["keys"] = {name: [str(t.dtype)[6:], *t.shape] for name, t in weights.tensors.items()}
    if options.json:
        print(json.dumps(facts, indent=2, default=str))
        return 0
    keys = facts.pop("keys", {})
    print(
        text_table((name, _shown(value)) for name, value in facts.items() if value not in (None, "", [], {}))
    )
    for name, (dtype, *shape) in keys.items():
        print(f"  {name}  {dtype} {'x'.join(map(str, shape)) or 'scalar'}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from core.checkpoints.exchange import import_weights

    path = import_weights(options.source, options.out, system=options.system)
    print(f"wrote {path}; start from it with --model.weights {path}")
    return 0


def _export(options: argparse.Namespace) -> int:
    if options.adapter:
        from core.adaptation import export_adapter

        path = export_adapter(options.checkpoint, options.out)
        print(
            f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB); put it on top of the same weights with "
            f"--model.adaptation core.adaptation.SavedAdapter --model.adaptation.path {path}"
        )
        return 0
    from core.checkpoints.exchange import export_weights

    written = export_weights(options.checkpoint, options.out, layout=options.layout)
    single = written.suffix == ".safetensors"
    files = written if single else f"{written / 'config.json'} and {written / 'model.safetensors'}"
    print(f"wrote {files} ({options.layout} layout)")
    return 0


def _average(options: argparse.Namespace) -> int:
    from core.checkpoints.soups import average_checkpoints

    path = average_checkpoints(options.checkpoint, options.out)
    print(f"wrote {path}, the mean of {len(options.checkpoint)}; start from it with --model.weights {path}")
    return 0


def _facts(weights: Any) -> dict[str, Any]:
    """Return what a source of weights says about itself, in the order it is printed."""
    from core.checkpoints.files import read_unverified

    record = weights.record
    ours = weights.format == "checkpoint"
    content = read_unverified(weights.path, mmap=True) if ours or weights.format == "state_dict" else {}
    numbers = [tensor.numel() for tensor in weights.tensors.values()]
    return {
        "file": str(weights.path),
        "format": f"{weights.format}, version {record.get('format', 0)}" if ours else weights.format,
        "verified": _verified(weights.path),
        "written by": _writers(weights.path),
        "domain": record.get("domain"),
        "system": record.get("system") or weights.system,
        "recipe": record.get("recipe"),
        "step": content.get("global_step", record.get("step")),
        "epoch": content.get("epoch"),
        "metric": _metric(content).removesuffix("-"),
        "network": _network_line(weights),
        "data": _data_line(record.get("config")),
        "parameters": f"{sum(numbers):,} in {len(numbers)} tensors".replace(",", " "),
        "layout": weights.layout or "not stated",
        "key map": record.get("key_map"),
        "licences": record.get("licences"),
        "sources": record.get("sources"),
        "average of": [f"{o['source']} (step {o.get('step', 0)})" for o in record.get("averaged") or ()],
        "switches": record.get("switches"),
        "versions": record.get("versions"),
    }


def _verified(path: Path) -> str:
    from core.checkpoints.manifest import is_sharded, read_manifest

    if is_sharded(path):
        return f"SHA-256 of {len(read_manifest(path)['files'])} files in manifest.json"
    if not path.is_file():
        return "the safetensors header only"
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - 75, 0))
        tail = file.read()
    if tail.startswith(b"DFM-SHA256:"):
        return f"SHA-256 {tail[11:].decode()}"
    return "every record's CRC-32" if path.suffix != ".safetensors" else "the safetensors header only"


def _writers(path: Path) -> str | None:
    """Return how many processes wrote a checkpoint folder, and on which mesh."""
    from core.checkpoints.manifest import is_sharded, read_manifest

    if not is_sharded(path):
        return None
    manifest = read_manifest(path)
    axes = " x ".join(f"{name} {size}" for name, size in manifest["mesh"].items() if size != 1)
    count = manifest["world"]
    return f"{count} process{'es' if count != 1 else ''}" + (f" ({axes})" if axes else "")


def _network_line(weights: Any) -> str | None:
    from core.checkpoints.networks import chosen_arguments

    if weights.network:
        return _called(str(weights.network["class_path"]), chosen_arguments(weights.network))
    if weights.config:
        kind = weights.config.get("model_type", "network")
        return f"{kind} with {len(weights.config)} settings in config.json"
    return None


def _data_line(config: Any) -> str | None:
    data = config.get("data") if isinstance(config, Mapping) else None
    if not isinstance(data, Mapping):
        return None
    arguments = (data.get("init_args") or {}).items()
    shown = [
        f"{key}={value}" for key, value in arguments if value is not None and not isinstance(value, Mapping)
    ]
    return f"{data.get('class_path', 'data')}({', '.join(shown)})"


def _metric(content: Mapping[str, Any]) -> str:
    """Return `name value` of the metric that chooses the best checkpoint, from its callback's state."""
    callbacks = content.get("callbacks")
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        monitor = state.get("monitor") if isinstance(state, Mapping) else None
        if monitor not in (None, "step", "epoch") and state.get("current_score") is not None:
            return f"{monitor} {float(state['current_score']):.4g}"
    return "-"


def _called(name: str, arguments: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{key}={_short(value)}" for key, value in arguments.items() if value is not None)
    return f"{name}({shown})" if shown else name


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        return _called(str(value["class_path"]).rpartition(".")[2], value.get("init_args") or {})
    return f"{len(value)} settings" if isinstance(value, Mapping) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "on" in value:  # a process switch
        return ("on" if value["on"] else "off") + (f" ({value['reason']})" if value.get("reason") else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_shown(item) if isinstance(item, Mapping) else str(item) for item in value)
    return str(value)
