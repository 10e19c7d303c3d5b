"""The Megatron container: written and read back, lazily; every kind of damage in one sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.music.data.readers.container import is_container, open_container, paths_of, write_container
from apps.music.data.sources import note_tokenizer, noted_tokenizer, open_source
from apps.music.data.tokenizers import Bytes
from apps.music.parity import CASES
from core.errors import UserError
from core.parity import run_case

DOCUMENTS = [[[1, 2, 3], [4]], [[5, 6]], [[]], [[7, 8, 9, 10]]]


def written(prefix: Path, vocabulary: int = 300) -> Path:
    write_container(
        prefix, ([np.array(ids, dtype=np.int64) for ids in one] for one in DOCUMENTS), vocabulary=vocabulary
    )
    return prefix


@pytest.mark.parametrize(("vocabulary", "dtype"), [(300, "<u2"), (65_499, "<u2"), (65_500, "<i4")])
def test_what_was_written_is_read_back(tmp_path, vocabulary, dtype):
    corpus = open_container(written(tmp_path / "corpus", vocabulary))

    assert corpus.tokens.dtype == np.dtype(dtype)
    assert corpus.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert corpus.lengths.tolist() == [3, 1, 2, 0, 4]
    assert corpus.starts.tolist() == [0, 3, 4, 6, 6]
    assert corpus.borders.tolist() == [0, 2, 3, 4, 5]
    assert corpus.document_lengths().tolist() == [4, 2, 0, 4]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 70_000), max_size=5), max_size=3), min_size=1, max_size=6))
def test_any_documents_survive_a_round_trip(tmp_path_factory, documents):
    everything = [token for document in documents for ids in document for token in ids]
    prefix = tmp_path_factory.mktemp("round") / "corpus"
    arrays = [[np.array(ids, dtype=np.int64) for ids in document] for document in documents]

    if not everything:
        with pytest.raises(UserError, match="no text to write"):
            write_container(prefix, arrays, vocabulary=70_001)
        return
    assert write_container(prefix, arrays, vocabulary=70_001) == (len(documents), len(everything))

    corpus = open_container(prefix)
    assert corpus.tokens.tolist() == everything
    assert corpus.lengths.tolist() == [len(ids) for document in documents for ids in document]


def test_the_head_is_as_documented(tmp_path):
    index = paths_of(written(tmp_path / "corpus"))[1].read_bytes()

    assert index[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack_from("<QBQQ", index, 9) == (1, 8, 5, 5)


def test_tokens_are_mapped_not_read(tmp_path):
    assert isinstance(open_container(written(tmp_path / "corpus")).tokens, np.memmap)


@pytest.mark.parametrize("name", ["corpus", "corpus.bin", "corpus.idx"])
def test_any_of_its_names_means_the_container(tmp_path, name):
    written(tmp_path / "corpus")

    assert is_container(tmp_path / name)
    assert open_container(tmp_path / name).documents == 4


def damaged(prefix: Path, how: str) -> None:
    data, index = paths_of(prefix)
    content = index.read_bytes()
    changes = {
        "magic": lambda: index.write_bytes(b"X" + content[1:]),
        "version": lambda: index.write_bytes(content[:9] + b"\x07" + content[10:]),
        "float": lambda: index.write_bytes(content[:17] + b"\x06" + content[18:]),
        "short": lambda: index.write_bytes(content[:-3]),
        "empty": lambda: index.write_bytes(b""),
        "pointer": lambda: index.write_bytes(content[:54] + b"\x01" + content[55:]),
        "beyond": lambda: data.write_bytes(data.read_bytes()[:-2]),
        "border": lambda: index.write_bytes(content[:-8] + struct.pack("<q", 99)),
        "missing": data.unlink,
    }
    changes[how]()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("magic", "does not begin with MMIDIDX"),
        ("version", "version 7"),
        ("float", "whole numbers"),
        ("short", "it is damaged"),
        ("empty", "does not begin with MMIDIDX"),
        ("pointer", "between the tokens"),
        ("beyond", "one of them is incomplete"),
        ("border", "document borders"),
        ("missing", "corpus.bin does not exist"),
    ],
)
def test_damage_is_named_in_one_sentence(tmp_path, how, words):
    written(tmp_path / "corpus")
    damaged(tmp_path / "corpus", how)

    with pytest.raises(UserError, match=words) as caught:
        open_container(tmp_path / "corpus")

    assert "\n" not in str(caught.value)


def test_an_id_outside_the_vocabulary_is_not_written(tmp_path):
    with pytest.raises(UserError, match="id 10 lies outside the vocabulary of 9"):
        written(tmp_path / "corpus", vocabulary=9)

    assert not list(tmp_path.iterdir())


def test_the_tokeniser_is_noted_beside_it(tmp_path):
    prefix = written(tmp_path / "corpus")
    assert noted_tokenizer(prefix) is None

    note_tokenizer(prefix, Bytes())

    assert isinstance(noted_tokenizer(prefix), Bytes)
    assert open_source(str(prefix), None).vocabulary == 257


def test_a_container_of_an_unknown_tokeniser_needs_a_vocabulary(tmp_path):
    prefix = str(written(tmp_path / "corpus"))

    with pytest.raises(UserError, match=r"data\.vocabulary"):
        open_source(prefix, None)

    assert open_source(prefix, None, vocabulary=11).tokenizer is None


def test_another_tokeniser_than_the_noted_one_is_refused(tmp_path, shared):
    from apps.music.data.tokenizers import open_tokenizer

    prefix = written(tmp_path / "corpus")
    note_tokenizer(prefix, Bytes())
    other = open_tokenizer(str(shared / "data/music/yue_tokenizer/mm_tokenizer_v0.2.model"))

    with pytest.raises(UserError, match="was made with the tokeniser bytes"):
        open_source(str(prefix), None, tokenizer=other)


def test_the_recorded_container_passes(shared):
    report = run_case(shared / "parity/yue/mmap_container.json", known=CASES)

    assert report.passed
    assert len(report.checks) == 8
