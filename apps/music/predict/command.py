"""`dfm music predict`: prompts in, continuations out, as JSON or as text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.words import Parser
from core.errors import UserError

if TYPE_CHECKING:
    from apps.music.predict.model import Continuation

__all__ = ["main", "read_prompts", "save"]


def main(argv: Sequence[str]) -> int:
    """Continue what `argv` names, write the file, and return the exit code.

    Raises:
        UserError: For an unknown option, a missing file, or prompts that cannot be continued.
    """
    options = _parser().parse_args(list(argv))
    out = Path(options.out)
    if out.suffix not in (".json", ".txt"):
        raise UserError(f"--out {out} is neither .json nor .txt; give one of them")
    if (options.path is None) == (options.prompt is None):
        raise UserError("give the prompts either with --data.path (a file) or with --prompt, and not both")
    checkpoint = options.ckpt_path
    if checkpoint.endswith(".ckpt") and not Path(checkpoint).exists():
        raise UserError(f"checkpoint {checkpoint} does not exist; `dfm checkpoint list` shows what there is")
    prompts = [options.prompt] if options.path is None else read_prompts(options.path, field=options.field)
    from apps.music.predict.model import Writer
    from core.accelerators.choice import usable

    device = usable(options.device)
    writer = Writer.from_checkpoint(checkpoint, tokenizer=options.tokenizer, device=device)
    made = writer.write(
        prompts,
        new=options.max_new,
        samples=options.samples,
        seed=options.seed,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
    )
    print(save(made, out))
    return 0


def read_prompts(path: str | Path, *, field: str = "prompt") -> list[str]:
    """Return the prompts of a file: each line of a text file, or the entry `field` of each JSON line.

    Raises:
        UserError: If there is none, or the file cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--data.path {path} does not exist; give a .txt (a prompt a line) or .jsonl file")
    if file.suffix in (".jsonl", ".json"):
        from apps.music.data.readers.texts import documents

        prompts = list(documents(file, field=field))
    else:
        try:
            prompts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is no UTF-8 text (byte {error.start}); convert it") from error
    if not prompts:
        raise UserError(f"{file} holds no prompt; write one a line")
    return prompts


def save(made: Sequence[Continuation], out: Path) -> Path:
    """Write continuations to a `.json` or `.txt` file, whole or not at all, and return its path."""
    from core.files import replacing

    if out.suffix == ".txt":
        text = "\n\n".join(f"{one.prompt}{one.text}" for one in made) + "\n"
    else:
        rows: list[dict[str, Any]] = [
            {"prompt": one.prompt, "continuation": one.text, "tokens": list(one.tokens), "ended": one.ended}
            for one in made
        ]
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="dfm music predict", description=__doc__)
    add = parser.add_argument
    add("--ckpt_path", required=True, help="own checkpoint, folder, weights card or hub id")
    add("--data.path", dest="path", help="a .txt file with a prompt a line, or .jsonl")
    add("--data.field", dest="field", default="prompt", help="entry of a JSON line that holds the prompt")
    add("--data.tokenizer", dest="tokenizer", help="default: the one that the checkpoint carries")
    add("--prompt", help="one prompt, instead of a file; '' begins a document")
    add("--out", default="continuations.json", help=".json or .txt")
    add("--max_new", type=int, default=200, help="most new tokens (default 200)")
    add("--samples", type=int, default=1, help="continuations of each prompt (default 1)")
    add("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default 0.8)")
    add("--top_k", type=int, help="draw from the so many likeliest")
    add("--top_p", type=float, help="draw from the fewest that reach this probability together")
    add("--repetition_penalty", type=float, default=1.0, help="above 1 makes tokens rarer that were used")
    add("--seed", type=int, default=0, help="of the draws (default 0)")
    add("--device", default="auto", help="auto, cpu, cuda, mps or neuron")
    return parser
