"""A published bug from an index of our own on loopback: the right files, and refusals for everything that is not as pinned."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.demo_source import Pair, fetch_pair, index_url, is_test_path, load_pairs
from schemas.error import Gen4Error, InfrastructureError, InputError

BUGGY = {
    "pkg/core.py": "BUG = 1\n", "tests/test_core.py": "old\n", "tests/test_gone.py": "gone\n", "setup.py": "raise SystemExit\n",
}  # fmt: skip
FIXED = {
    "pkg/core.py": "BUG = 0\n",
    "pkg/fix.py": "new\n",
    "tests/test_core.py": "new\n",
    "tests/data/é.txt": "data\n",
    "conftest.py": "c\n",
}


def archive(files: dict[str, str], extra: Callable[[tarfile.TarFile], None] = lambda tar: None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, text in files.items():
            add(tar, f"pkg-1.0/{path}", text)
        extra(tar)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, text: str, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text.encode()), mode
    tar.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Archives by file name, served as a package index that is the configured one."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            links = "".join(f'<a href="/files/{file}">{file}</a>' for file in files)
            body = files.get(name) if name else f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Type", "text/html" if not name else "application/octet-stream")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GEN4_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    yield files
    server.shutdown()
    server.server_close()


def pair(buggy: bytes, fixed: bytes, **changes: str) -> Pair:
    fields = {
        "buggy_sdist_sha256": hashlib.sha256(buggy).hexdigest(), "fixed_sdist_sha256": hashlib.sha256(fixed).hexdigest(),
        **changes,
    }  # fmt: skip
    return Pair(
        id="pkg", package="pkg", buggy_version="1.0", fixed_version="1.1", python="3.11", test_cmd="pytest",
        fail_to_pass=("tests/test_core.py::test",), problem_statement="wrong", **fields,
    )  # fmt: skip


def publish(index: dict[str, bytes], buggy: bytes, fixed: bytes) -> Pair:
    index.update({"pkg-1.0.tar.gz": buggy, "pkg-1.1.tar.gz": fixed})
    return pair(buggy, fixed)


def files_below(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_buggy_sources_with_the_fixed_tests_and_nothing_else_of_the_fix(index: dict[str, bytes], tmp_path: Path) -> None:
    asked = publish(index, archive(BUGGY), archive(FIXED))
    assert files_below(fetch_pair(asked, tmp_path / "tree")) == {
        "pkg/core.py": "BUG = 1\n", "setup.py": "raise SystemExit\n", "tests/test_core.py": "new\n",
        "tests/data/é.txt": "data\n", "conftest.py": "c\n",
    }  # fmt: skip


def test_names_that_leave_the_folder_and_links_are_left_out(index: dict[str, bytes], tmp_path: Path) -> None:
    def hostile(tar: tarfile.TarFile) -> None:
        add(tar, "pkg-1.0/../../escaped.py", "x")
        add(tar, "/absolute/x.py", "x")
        link = tarfile.TarInfo("pkg-1.0/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)

    asked = publish(index, archive(BUGGY, hostile), archive(FIXED))
    tree = fetch_pair(asked, tmp_path / "in" / "tree")
    assert "link.py" not in files_below(tree)
    assert not list(tmp_path.rglob("escaped.py"))


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(Gen4Error) as caught:
        call()
    assert isinstance(caught.value, InfrastructureError | InputError)
    return caught.value.code


def test_an_archive_with_another_digest_is_refused(index: dict[str, bytes], tmp_path: Path) -> None:
    publish(index, archive(BUGGY), archive(FIXED))
    asked = pair(archive(BUGGY), archive(FIXED), fixed_sdist_sha256="0" * 64)
    assert code_of(lambda: fetch_pair(asked, tmp_path / "tree")) == "ARCHIVE_CORRUPT"
    assert not (tmp_path / "tree").exists()


def test_a_release_without_a_source_archive(index: dict[str, bytes], tmp_path: Path) -> None:
    asked = publish(index, archive(BUGGY), archive(FIXED))
    del index["pkg-1.1.tar.gz"]
    assert code_of(lambda: fetch_pair(asked, tmp_path / "tree")) == "ARCHIVE_MISSING"


def test_an_index_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEN4_INDEX_URL", "http://127.0.0.1:9/simple/")
    asked = pair(b"", b"")
    assert code_of(lambda: fetch_pair(asked, tmp_path / "tree")) == "INDEX_UNREACHABLE"


def test_a_destination_that_exists(tmp_path: Path) -> None:
    assert code_of(lambda: fetch_pair(pair(b"", b""), tmp_path)) == "DESTINATION_EXISTS"


@pytest.mark.parametrize("text", ["", "[]", '{"pairs": [{"id": "x"}]}', '{"pairs": 1}'])
def test_an_unreadable_pair_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pairs.json"
    file.write_text(text)
    assert code_of(lambda: load_pairs(file)) == "PAIRS_UNREADABLE"


def test_the_pairs_that_we_ship_can_be_read_and_hold_no_fix() -> None:
    pairs = load_pairs(Path(__file__).parents[2] / "deploy" / "demo" / "pairs.json")
    assert len(pairs) == 4
    assert not {name for one in pairs.values() for name in one.model_dump() if "patch" in name or "diff" in name}


def test_the_index_comes_from_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GEN4_INDEX_URL", "PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = http://mirror.example/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    assert index_url() == "http://mirror.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "http://other.example/simple")
    assert index_url() == "http://other.example/simple"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("tests/a.py", True), ("p/tests/t.py", True), ("conftest.py", True), ("p/tests.py", False), ("p/a.py", False)],
)
def test_which_paths_are_tests(path: str, expected: bool) -> None:
    assert is_test_path(path) is expected
