"""Text to tokens and back, and a tokeniser from its own description."""

from __future__ import annotations

import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from apps.music.batch import TokenFacts
from apps.music.data.tokenizers import Bytes, SentencePiece, from_state, open_tokenizer, well_formed
from core.data.normaliser import Normaliser
from core.errors import UserError


@pytest.fixture(scope="module")
def pieces(shared) -> SentencePiece:
    """YuE's tokeniser."""
    return SentencePiece.open(shared / "data/music/yue_tokenizer/mm_tokenizer_v0.2.model")


@pytest.fixture
def small_pieces() -> SentencePiece:
    """A tokeniser of two letters, to which all others are unknown."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab ba aab bba"] * 20), model_writer=model, vocab_size=8, minloglevel=2,
        character_coverage=1.0, hard_vocab_limit=False,
    )  # fmt: skip
    return SentencePiece(model.getvalue())


@given(st.text())
def test_bytes_give_any_text_back(text):
    clean = well_formed(text)
    ids = Bytes().encode(text)

    assert Bytes().decode([*ids.tolist(), Bytes.end]) == clean
    assert Bytes().lengths[ids].sum() == len(clean.encode())


def test_pieces_give_a_text_back_and_know_its_bytes(pieces):
    text = "Der Mond ist aufgegangen, 月が綺麗ですね."
    ids = pieces.encode(text)

    assert pieces.decode([*ids.tolist(), pieces.end]) == text
    assert pieces.lengths[ids].sum() == len(text.encode()) + 1  # SentencePiece puts a space in front
    assert (pieces.vocabulary, pieces.end, pieces.lengths[pieces.end]) == (83_734, 2, 0)


def test_half_a_character_is_one_replacement_character_in_any_tokeniser(pieces):
    assert well_formed("a \ud83d b \ud83d\ude00") == "a \ufffd b \U0001f600"
    assert Bytes().encode("\ud83d").tolist() == list("\ufffd".encode())
    assert pieces.decode(pieces.encode("Takt \ud83d").tolist()) == "Takt \ufffd"


def test_an_unknown_piece_counts_the_bytes_it_stood_for(small_pieces):
    text = "aba βγδ ab ж ba"
    ids = small_pieces.encode(text)

    assert (ids == 0).sum() == 2
    assert small_pieces.lengths[0] == (6 + 2) / 2
    assert small_pieces.lengths[ids].sum() == len(text.encode()) + 1  # SentencePiece puts a space in front


def test_ids_beyond_the_pieces_give_no_text(pieces):
    assert pieces.decode([83_737, 90_000]) == ""


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_a_checkpoint_carries_its_tokeniser(kind, request):
    original = Bytes() if kind == "bytes" else request.getfixturevalue("pieces")
    facts = TokenFacts(context=8, vocabulary=original.vocabulary, tokenizer=original.state())
    kept, loaded = Normaliser(TokenFacts, facts), Normaliser(TokenFacts)

    loaded.set_extra_state(kept.get_extra_state())

    again = from_state(loaded.facts.tokenizer)
    assert again.fingerprint == original.fingerprint
    np.testing.assert_array_equal(again.encode("Takt und Ton"), original.encode("Takt und Ton"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("byte", "did you mean 'bytes'"),
        ("missing.model", "missing.model does not exist"),
        ("text.model", "is no SentencePiece model"),
        ("folder", "holds no tokenizer.model"),
    ],
)
def test_a_wrong_name_is_one_sentence(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.model").write_text("no model at all")
    (tmp_path / "folder").mkdir()

    with pytest.raises(UserError, match=words):
        open_tokenizer(name)
