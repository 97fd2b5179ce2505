"""Sentences of passages: signatures and headings are what sentences stand under, and no sentences of their own."""

from __future__ import annotations

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.answer.sentences import sentences_of, words_of


def read(text: str, heading: str = "", title: str = "", start: int = 0) -> list[tuple[str, str]]:
    passage = Passage(chunk_id="c", doc_id="d", title=title, text=text, heading=heading, start=start)
    found = sentences_of([passage])
    assert all(" ".join(text[s.start : s.end].split()) == s.text and s.number == 1 for s in found)
    return [(s.name, s.text) for s in found]


def test_sentences_belong_to_the_signature_above_them() -> None:
    text = "shutil.copy(src, dst)\n\nCopy data. Return it.\n\nclass shutil.Error(OSError)\n\nRaised for most troubles."
    assert read(text) == [
        ("shutil.copy", "Copy data."),
        ("shutil.copy", "Return it."),
        ("shutil.Error", "Raised for most troubles."),
    ]
    assert read("maxlen\n\nmaximum size of a deque") == [("maxlen", "maximum size of a deque")]


def test_a_passage_that_begins_inside_an_entry_takes_its_name_from_the_headings() -> None:
    assert read("It is called once.", heading="shutil > shutil.copytree(src, dst, syml") == [
        ("shutil.copytree", "It is called once.")
    ]
    assert read("It is called once.", heading="shutil > Functions") == [("", "It is called once.")]


def test_calls_in_examples_are_no_signatures_and_wrapped_lines_are_one_sentence() -> None:
    text = "f(x)\n\nCall it like this:\n\n    g(y) -> z\n\nIf strict\nis true, fail.\nelse go on"
    assert read(text) == [
        ("f", "Call it like this:"),
        ("f", "g(y) -> z"),
        ("f", "If strict is true, fail."),
        ("f", "else go on"),
    ]


def test_headings_end_an_entry_and_prose_has_none() -> None:
    assert read("f(x)\n\nDoes this.\n\nKnown subclasses\n\nNone that we know.") == [
        ("f", "Does this."),
        ("", "None that we know."),
    ]
    prose = "Superb (in 2010) was the word. Note: a bowl\nwas played in 2016 (50 years later)."
    assert [name for name, _ in read(prose)] == ["", ""]


def test_a_listed_name_is_the_name_of_its_own_line_only() -> None:
    assert read("ExecError: Raised when a command fails\n\nNote: take care of it.") == [
        ("ExecError", "ExecError: Raised when a command fails"),
        ("", "Note: take care of it."),
    ]
    assert read("call(...): Runs it\nrun(...): Runs it anew") == [
        ("call", "call(...): Runs it"),
        ("run", "run(...): Runs it anew"),
    ]


def test_the_end_of_a_sentence_that_a_passage_begins_with_is_left_out() -> None:
    text = "is true, then keys are sorted. Else they are not."
    assert read(text, start=90) == [("", "Else they are not.")] and len(read(text)) == 2


def test_titles_and_single_words_are_no_sentences() -> None:
    assert read("shutil\n\n# Copying\n\n- Error\n\nIt copies files.", title="shutil") == [("", "It copies files.")]


def test_words_are_stems_and_parts_of_names_and_pairs_where_nothing_is_spaced() -> None:
    assert words_of("Copying the lru_cache") == words_of("copies, copy lruCaching") == {"cop", "lru", "cach"}
    assert words_of("run calls") == words_of("running call")
    assert words_of("丹佛野马队2015") == {"丹佛", "佛野", "野马", "马队", "2015"}
    assert words_of("Was kostet die Fähre nach Bonn?") >= {"kostet", "fähr", "bon"}
    assert words_of("of the, an?") == frozenset()
