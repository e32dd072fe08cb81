"""Facts about patches: nothing that an attacker writes is misread, and each fact appears for its own cause."""

from __future__ import annotations

import codecs
import encodings.aliases
import hashlib
import unicodedata
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.policy.encodings import SINGLE_BYTE, reading_of
from activities.policy.facts import LFS_MARK, MAX_TEXT_BYTES, FileFacts, PatchFacts, Side, is_taken, patch_facts
from activities.policy.spelling import fold, hidden_characters, is_git_name, is_plain_path

Tree = Mapping[str, bytes | tuple[str, bytes]]


def facts(base: Tree, result: Tree, *, diff: bytes = b"d", canonical: bytes = b"d") -> PatchFacts:
    blobs: dict[str, bytes] = {}

    def sides(tree: Tree) -> dict[str, Side]:
        found = {}
        for path, value in tree.items():
            mode, content = value if isinstance(value, tuple) else ("100644", value)
            oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            blobs[oid] = content
            found[path] = Side(mode, oid, len(content))
        return found

    return patch_facts(sides(base), sides(result), blobs.__getitem__, diff=diff, canonical=canonical)


def only(base: Tree, result: Tree) -> FileFacts:
    [file] = facts(base, result).files
    return file


def test_an_ordinary_change_has_no_marks() -> None:
    file = only({"src/a.py": b"x = 1\n", "b": b"same"}, {"src/a.py": b"x = 2\n", "b": b"same"})
    assert file == FileFacts(
        path="src/a.py", folded=("src", "a.py"), change="modified", git=False, plain=True, kinds=("regular",),
        modes=("100644",), binary=False, misread="", lfs=False, hidden=(), shadows=(),
    )  # fmt: skip


def test_added_and_deleted() -> None:
    assert only({}, {"a": b"x"}).change == "added"
    assert only({"a": b"x"}, {}).change == "deleted"
    assert facts({"a": b"x"}, {"a": b"x"}).files == ()


@pytest.mark.parametrize("mode, kind", [("120000", "symlink"), ("160000", "gitlink"), ("060000", "file of mode 060000")])
def test_both_sides_tell_their_kind(mode: str, kind: str) -> None:
    assert only({"a": b"x"}, {"a": (mode, b"/etc/passwd")}).kinds == tuple(sorted({"regular", kind}))
    assert only({"a": (mode, b"x")}, {}).kinds == (kind,)


def test_mode_changes_without_content() -> None:
    assert only({"a": b"x"}, {"a": ("100755", b"x")}).modes == ("100644", "100755")


@pytest.mark.parametrize("content", [b"\0", b"a\0b", "caf\u00e9".encode("utf-16")])
def test_binary(content: bytes) -> None:
    assert only({}, {"a": content}).binary
    assert only({"a": content}, {}).binary
    assert only({"a": content}, {"a": b"text"}).binary


def test_a_file_too_large_to_look_at_is_binary() -> None:
    assert only({}, {"a": b"a" * (MAX_TEXT_BYTES + 1)}).binary


def test_lfs_pointer() -> None:
    assert only({}, {"a": LFS_MARK + b"v1\noid sha256:0\nsize 1\n"}).lfs


def test_size_and_canonical() -> None:
    assert facts({}, {"a": b"x"}, diff=b"abc", canonical=b"abc").size_bytes == 3
    assert not facts({}, {"a": b"x"}, diff=b"From: somebody\nabc", canonical=b"abc").canonical


# --- hidden characters -----------------------------------------------------------------------------------------------

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e\ufe0f\u3164\U000e0041"
CONTROLS = "\x00\x08\x1b\x7f\x85\u2028\u2029"


@pytest.mark.parametrize("char", BIDI + ZERO_WIDTH + CONTROLS[1:])
def test_each_invisible_character_is_found(char: str) -> None:
    name = f"U+{ord(char):04X}"
    assert only({}, {"a.py": f"x = '{char}'\n".encode()}).hidden == (name,)
    assert only({}, {f"a{char}.py": b"x\n"}).hidden == (name,)


def test_what_was_there_before_is_not_the_patchs_doing() -> None:
    old = "a = '\u202e'\n"
    assert only({"a": old.encode()}, {"a": (old + "b = 1\n").encode()}).hidden == ()
    assert only({"a": old.encode()}, {"a": (old + old).encode()}).hidden == ("U+202E",)


def test_line_ends_and_tabs_are_ordinary() -> None:
    assert only({}, {"a": b"x\r\n\ty\r\n\x0c\n"}).hidden == ()
    assert only({}, {"a": b"x\rhidden = 1\n"}).hidden == ("U+000D",)


def test_a_form_feed_that_moves_a_line_out_of_its_block_is_hidden() -> None:
    moved = "for n in ():\n    pass\n    \fran = True\n"
    names: dict[str, object] = {}
    exec(moved, names)  # noqa: S102
    assert names["ran"] and only({}, {"a.py": moved.encode()}).hidden == ("U+000C",)


# --- encodings -------------------------------------------------------------------------------------------------------

LATIN = "# coding: latin-1\nNAME = 'caf\u00e9'\n".encode("latin-1")


@pytest.mark.parametrize("path", ["a.py", "a.c", "README"])
def test_latin_1_is_text(path: str) -> None:
    file = only({path: LATIN}, {path: LATIN + b"# \xe9t\xe9\n"})
    assert (file.binary, file.misread, file.hidden) == (False, "", ())


@pytest.mark.parametrize(
    "declared, byte, name",
    [
        ("latin-1", b"\x85", "U+0085"), ("cp1255", b"\xfd", "U+200E"), ("cp1256", b"\x9d", "U+200C"),
        ("iso-8859-8", b"\xfe", "U+200F"),
    ],
)  # fmt: skip
def test_hidden_characters_are_seen_through_the_encoding(declared: str, byte: bytes, name: str) -> None:
    source = b"# vim: set fileencoding=%s :\n" % declared.encode()
    assert name in only({"a.py": source}, {"a.py": source + b"x = '" + byte + b"'\n"}).hidden


@pytest.mark.parametrize("char", BIDI + ZERO_WIDTH + CONTROLS[1:])
@pytest.mark.parametrize("more", [b"", b"\xe9"])
def test_no_encoding_hides_what_utf8_readers_would_see(char: str, more: bytes) -> None:
    """One byte that is no UTF-8 makes nothing of the rest unseen; nor does a cookie."""
    for head in (b"", b"# coding: latin-1\n", b"# coding: koi8-r\n"):
        assert f"U+{ord(char):04X}" in only({}, {"a.py": head + b"x = '" + char.encode() + more + b"'\n"}).hidden


UTF_7 = b"# coding: utf-7\nx = 1 # +AAo-evil()\n"


@pytest.mark.parametrize(
    "content",
    [
        UTF_7, b"#!/usr/bin/python\n" + UTF_7, b"\r" + UTF_7, b" \x0c\r\n" + UTF_7, b"\xef\xbb\xbf" + UTF_7,
        b"# -*- coding: unicode_escape -*-\n", b"#coding=utf-16\n", b"# coding: rot13\n", b"# coding: shift_jis\n",
        b"# coding: mac_arabic\n", b"# coding: nonsense\n", b"# coding: undefined\n", b"# coding: ../../x\n",
        b"#coding:" + b"x" * 999,
    ],
)  # fmt: skip
def test_a_source_may_not_declare_what_reads_ascii_as_something_else(content: bytes) -> None:
    for path in ("a.py", "A.PY", "a.pyw"):
        assert only({}, {path: content}).misread.startswith("it declares the encoding ")
    assert len(only({}, {"a.py": content}).misread) < 150
    assert only({"a.py": content}, {}).misread == ""


@pytest.mark.parametrize(
    "content",
    [
        b"# coding: utf-8\n", b"# coding: UTF8\n", b"# coding: cp1252\n", b"x = 1\n" + UTF_7, b"\n\n" + UTF_7,
        b"x = '# coding: utf-7'\n",
    ],
)  # fmt: skip
def test_other_sources_are_read_as_they_look(content: bytes) -> None:
    assert only({}, {"a.py": content}).misread == ""
    assert only({}, {"notes.txt": UTF_7}).misread == ""
    assert only({}, {"script": b"#!/usr/bin/env python3\n" + UTF_7}).misread


def test_declared_is_what_python_believes() -> None:
    """Against Python itself, also where lines end oddly."""
    for head in (b"", b"\n", b"\r", b"\r\n", b"# x\n", b"# x\r", b"\x0c\n", b"x = 0\n", b"\n\n", b"# coding: ascii\n", b"\\\n"):
        source = head + b"# coding: koi8-r\nname = '\xc1'\n"
        try:
            found: dict[str, str] = {}
            exec(compile(source, "a", "exec"), found)  # noqa: S102  our own text
            believed = found["name"] == "\u0430"
        except SyntaxError:
            believed = False
        assert ("koi8-r" in reading_of("a.py", source).encodings) == believed, head


@pytest.mark.parametrize("name", sorted(SINGLE_BYTE))
def test_each_accepted_encoding_extends_ascii_byte_by_byte(name: str) -> None:
    single = [bytes([byte]).decode(name, "replace") for byte in range(256)]
    assert "".join(single[:128]).encode() == bytes(range(128))
    assert all(len(char) == 1 and not char.isascii() for char in single[128:])
    everything = bytes(range(256)) + bytes(range(255, -1, -1))
    assert everything.decode(name, "replace") == "".join(single + single[::-1])
    assert codecs.lookup(name).name == name


@given(st.from_regex(rb"[-\w.]{1,40}", fullmatch=True) | st.sampled_from([name.encode() for name in encodings.aliases.aliases]))
def test_whatever_is_declared_is_taken_or_refused(name: bytes) -> None:
    reading = reading_of("a.py", b"# coding: " + name + b"\n")
    assert reading.problem or set(reading.encodings) <= {"utf-8", *SINGLE_BYTE}


def test_a_new_cookie_makes_every_line_new() -> None:
    old = b"\nx = '\xfd'\n"
    assert only({"a.py": old}, {"a.py": b"# coding: cp1255" + old}).hidden == ("U+200E",)


@given(st.text())
def test_printable_text_is_never_hidden(text: str) -> None:
    found = set(hidden_characters(text))
    for char in text:
        if char.isprintable() and unicodedata.category(char)[0] in "LNPS" and not 0xFE00 <= ord(char) <= 0xFE0F:
            assert f"U+{ord(char):04X}" not in found or ord(char) in (0x115F, 0x1160, 0x3164, 0xFFA0)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        ".git", ".GIT", ".gItmodules", ".gitattributes", ".gitignore", ".github", ".git ", ".git.", ".git. .",
        ".git::$INDEX_ALLOCATION", "GIT~1", "git~2", ".g\u200cit", "\u200d.git", ".gi\u200dt", ".git\ufeff", ".g\u00adit",
    ],
)  # fmt: skip
def test_git_names_in_any_spelling(name: str) -> None:
    assert is_git_name(name)
    assert only({}, {f"docs/{name}/config": b"x"}).git and only({}, {name: b"x"}).git


@pytest.mark.parametrize("name", ["git", "gitignore", "legit.py", "git.py", "a.git"])
def test_names_that_only_look_like_it(name: str) -> None:
    assert not is_git_name(name)


@pytest.mark.parametrize(
    "name, folded",
    [
        ("CONFTEST.PY", "conftest.py"), ("conftest.py.", "conftest.py"), ("conftest.py ", "conftest.py"),
        ("conf\u200btest.py", "conftest.py"), ("conftest.py::$DATA", "conftest.py"), ("con\u017ftest.py", "constest.py"),
        ("Cafe\u0301.py", "caf\u00e9.py"), ("...", "..."),
    ],
)  # fmt: skip
def test_folding(name: str, folded: str) -> None:
    assert fold(name) == folded


@given(st.text(min_size=1))
def test_folding_is_stable_and_never_empty(name: str) -> None:
    assert fold(name) == fold(unicodedata.normalize("NFD", name)) == fold(unicodedata.normalize("NFC", name))
    assert fold(name) == fold(name.casefold()) or ":" in name
    assert fold(name) or not is_plain_path(name), "what only has characters that nobody sees is refused for that"


@pytest.mark.parametrize("path", ["a/b.py", "a b/c.py", "ä/ö.py", "-x", "a/.b", "a(1).py", "日本/x"])
def test_plain_paths(path: str) -> None:
    assert is_plain_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.", "a\\b", "a:b", "a\nb", "a\tb", "a ", " a", "a.", "a\u202eb",
     "e\u0301", "a\x7f", "a*", "a?", '"a"', "a|b", "\udcff"],
)  # fmt: skip
def test_paths_with_two_readings(path: str) -> None:
    assert not is_plain_path(path)


def test_undecodable_paths_are_shown_escaped() -> None:
    file = only({}, {"a\udcff": b"x"})
    assert file.path == "a\\udcff" and file.plain is False and file.model_dump_json().encode()


def test_collisions_by_case_form_and_folder() -> None:
    assert facts({"Src/a.py": b"x"}, {"Src/a.py": b"x", "src/b.py": b"x"}).collisions == ("src/b.py",)
    assert facts({"a.py": b"x"}, {"a.py": b"x", "A.PY": b"x"}).collisions == ("A.PY",)
    assert facts({}, {"\u00e9": b"x", "e\u0301": b"x"}).collisions == ("e\u0301", "\u00e9")
    assert facts({"a": b"1", "A": b"2"}, {"a": b"3", "A": b"2"}).collisions == ()
    assert facts({"a": b"1"}, {"A": b"1"}).collisions == ()


# --- modules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, name",
    [
        ("json.py", "json"), ("src/json.py", "json"), ("tests/json.py", "json"), ("JSON.py", "json"),
        ("src/pytest/__init__.py", "pytest"),
        ("re/__init__.py", "re"), ("_pytest.py", "_pytest"), ("pluggy.py", "pluggy"), ("pytest_cov.py", "pytest_cov"),
        ("json.pyc", "json"), ("json.cpython-311-x86_64-linux-gnu.so", "json"), ("lib/deep/er/random.py", "random"),
    ],
)  # fmt: skip
def test_new_modules_that_take_a_known_place(path: str, name: str) -> None:
    assert only({"src/pkg/__init__.py": b""}, {"src/pkg/__init__.py": b"", path: b"x"}).shadows == (name,)


def test_inside_a_package_any_name_is_fine() -> None:
    package = {"src/pkg/__init__.py": b"", "src/pkg/sub/__init__.py": b""}
    for path in ("src/pkg/json.py", "src/pkg/sub/types.py", "src/pkg/pytest/__init__.py"):
        assert only(package, {**package, path: b"x"}).shadows == (), path
    assert facts({}, {"pkg/__init__.py": b"", "pkg/json.py": b"x"}).files[1].shadows == ()


def test_a_module_that_base_has_already_is_not_new() -> None:
    assert only({"json.py": b"1"}, {"json.py": b"2"}).shadows == ()
    assert only({"json.py": b"1", "b.py": b""}, {"json.py": b"1"}).shadows == ()


def test_taken_names() -> None:
    assert all(map(is_taken, ["os", "json", "pytest", "_pytest", "pytest_timeout"])) and not is_taken("shop")


PATHS = st.text(alphabet="aA.gGiItT/_~ \u200d\u202eé\u0301\udcff\\:json", min_size=1, max_size=12)


@given(st.dictionaries(PATHS, st.binary(max_size=8), max_size=4), st.dictionaries(PATHS, st.binary(max_size=8), max_size=4))
def test_total_over_whatever_is_in_a_tree(base: dict[str, bytes], result: dict[str, bytes]) -> None:
    found = facts(base, result)
    changed = {path for path in base.keys() | result.keys() if base.get(path) != result.get(path)}
    assert len(found.files) == len(changed)
    found.model_dump_json().encode("utf-8")
