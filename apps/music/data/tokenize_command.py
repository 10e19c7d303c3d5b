"""`dfm music tokenize`: texts in, a container of tokens out (`.bin` beside `.idx`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from core.cli.parser import Parser
from core.errors import UserError

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Tokenise what `argv` names, document by document, and return the exit code.

    Raises:
        UserError: For a mistake in the options, texts that cannot be read, or none at all.
    """
    options = _parser().parse_args(list(argv))
    if (options.path is None) == (options.card is None):
        raise UserError("give either --data.path (texts) or --data.card (python_text), and not both")
    out = Path(options.out)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the prefix of the two files, as in {out / 'corpus'}")
    from apps.music.data.readers.container import paths_of, write_container
    from apps.music.data.sources import documents_of, ids_of, note_tokenizer
    from apps.music.data.tokenizers import open_tokenizer

    tokenizer = open_tokenizer(options.tokenizer)
    texts = documents_of(options.path, options.card, field=options.field, limit=options.document_limit)
    ids = ids_of(texts, tokenizer, end=not options.no_end)
    sequences = ([document] for document in ids)
    documents, tokens = write_container(out, sequences, vocabulary=tokenizer.vocabulary)
    note_tokenizer(out, tokenizer)
    for file in paths_of(out):
        print(file)
    print(f"{documents} documents, {tokens} tokens ({tokenizer.name})")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="dfm music tokenize", description=__doc__)
    add = parser.add_argument
    add("--data.path", dest="path", help="a text file, JSON lines, or a folder of them")
    add("--data.card", dest="card", help="python_text, the text that ships with Python")
    add("--data.tokenizer", dest="tokenizer", default="bytes", help="bytes, or a SentencePiece .model file")
    add("--data.field", dest="field", default="text", help="entry of a JSON line that holds the text")
    add("--data.document_limit", dest="document_limit", type=int, help="most characters of a document")
    add("--out", required=True, help="prefix of the two files, as in corpus for corpus.bin and corpus.idx")
    add("--no_end", action="store_true", help="put no id that ends a document behind each")
    return parser
