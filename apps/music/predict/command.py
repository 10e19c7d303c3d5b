"""`dfm music predict`: prompts in, continuations out, as JSON or as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.parser import Parser
from core.cli.predict import check_options, predict_parser
from core.errors import UserError

if TYPE_CHECKING:
    from apps.music.predict.model import Continuation

__all__ = ["main"]

_COMMAND = "dfm music predict"
_FILES = "a .txt (a prompt a line) or .jsonl file"


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
    check_options(options, data=_FILES)
    from core.inference.outputs import check_replaceable

    check_replaceable(out, _COMMAND)
    from apps.music.data.tokenizers import well_formed
    from apps.music.predict.model import Writer
    from core.accelerators.choice import usable
    from core.backbones.generation import Sampling

    prompts = (
        [well_formed(options.prompt)]
        if options.path is None
        else _read_prompts(Path(options.path), options.field)
    )
    writer = Writer.from_checkpoint(
        options.ckpt_path, tokenizer=options.tokenizer, device=usable(options.device)
    )
    chosen = ("temperature", "top_k", "top_p", "repetition_penalty")
    sampling = Sampling(**{name: getattr(options, name) for name in chosen})
    continuations = writer.write(
        prompts, new=options.max_new, samples=options.samples, seed=options.seed, sampling=sampling
    )
    print(_save(continuations, out))
    return 0


def _read_prompts(file: Path, field: str) -> list[str]:
    """Return each line of a text file, or the entry `field` of each JSON line."""
    if not file.is_file():
        raise UserError(f"--data.path {file} is a folder; give {_FILES}")
    if file.suffix in (".jsonl", ".json"):
        from apps.music.data.readers.texts import documents

        prompts = list(documents(file, field=field))
    else:
        try:
            # "\n" alone, which text mode makes of "\r\n" too: U+2028, U+0085 and form feeds belong to a line
            lines = file.read_text(encoding="utf-8-sig").split("\n")
            prompts = [line for line in lines if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is no UTF-8 text (byte {error.start}); convert it") from error
    if not prompts:
        raise UserError(f"{file} holds no prompt; write one a line")
    return prompts


def _save(continuations: Sequence[Continuation], out: Path) -> Path:
    """Write a `.json` or `.txt` file, whole or not at all, and return its path."""
    from core.inference.outputs import output

    if out.suffix == ".txt":
        text = "\n\n".join(f"{each.prompt}{each.text}" for each in continuations) + "\n"
    else:
        names = ("prompt", "continuation", "tokens", "ended")
        rows = [dict(zip(names, astuple(each), strict=True)) for each in continuations]
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    with output(out, _COMMAND) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


def _parser() -> Parser:
    parser = predict_parser(
        "music", __doc__, data="a .txt file with a prompt a line, or .jsonl", out=".json or .txt",
        default_out="continuations.json", figure=False, data_required=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--data.field", dest="field", default="prompt", help="entry of a JSON line that holds the prompt")
    add("--data.tokenizer", dest="tokenizer", help="default: the one that the checkpoint carries")
    add("--prompt", help="one prompt, instead of a file; '' begins a document")
    add("--max_new", type=int, default=200, help="most new tokens (default 200)")
    add("--samples", type=int, default=1, help="continuations of each prompt (default 1)")
    add("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default 0.8)")
    add("--top_k", type=int, help="draw from the so many likeliest")
    add("--top_p", type=float, help="draw from the fewest that reach this probability together")
    add("--repetition_penalty", type=float, default=1.0, help="above 1 makes tokens rarer that were used")
    add("--seed", type=int, default=0, help="of the draws (default 0)")
    return parser
