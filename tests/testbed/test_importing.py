"""A patch becomes two trees: what would be delivered, and what is judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from activities.compile.activities import CompileActivities
from activities.record.blobs import BlobStore
from activities.record.objects import ObjectStore
from activities.testbed.importing import PATCH_LIMIT, Imported, import_patch
from schemas.capabilities import ImportedPatch, ImportPatch
from schemas.error import Gen4Error, Refused
from schemas.task import Source
from schemas.test_command import parse_test_command

pytestmark = pytest.mark.usefixtures("admitted")

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
BASE = {
    "calc.py": b"def add(a, b):\n    return a - b\n",
    "tests/test_calc.py": b"from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n",
    "tests/data/sums.txt": b"1 2 3\n",
    "conftest.py": b"",
    "pyproject.toml": b"[project]\nname = 'calc'\nversion = '1'\n",
}
FIXED = b"def add(a, b):\n    return a + b\n"


class Repository:
    """Trees of one object store, made from plain dictionaries."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self.base = objects.write_tree(EMPTY_TREE, BASE)

    def patch(self, edits: Mapping[str, bytes | None]) -> bytes:
        return self.objects.diff(self.base, self.objects.write_tree(self.base, edits))

    def imported(self, edits: Mapping[str, bytes | None]) -> Imported:
        return import_patch(self.objects, self.base, self.patch(edits))

    def files(self, tree: str) -> dict[str, bytes]:
        return {entry.path: self.objects.read(entry.oid) for entry in self.objects.entries(tree)}

    def modes(self, tree: str) -> dict[str, str]:
        return {entry.path: entry.mode for entry in self.objects.entries(tree)}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(ObjectStore.open(tmp_path / "objects.git"))


def test_a_product_change_is_in_both_trees(repository: Repository) -> None:
    imported = repository.imported({"calc.py": FIXED})
    assert imported.harness_tree == imported.result_tree
    assert repository.files(imported.result_tree) == {**BASE, "calc.py": FIXED}
    assert imported.paths == ("calc.py",)


def test_the_diff_is_our_own_whatever_text_came_in(repository: Repository) -> None:
    patch = repository.patch({"calc.py": FIXED})
    dressed = b"From: somebody\nSubject: fix\n\n" + patch.replace(b"@@ -1,2 +1,2 @@", b"@@ -1,2 +1,2 @@ anything")
    assert import_patch(repository.objects, repository.base, dressed).diff == patch
    assert import_patch(repository.objects, repository.base, patch).diff == patch


@pytest.mark.parametrize(
    "edit",
    [
        {"tests/test_calc.py": b"def test_add():\n    pass\n"},
        {"tests/test_calc.py": None},
        {"tests/data/sums.txt": b"0 0 0\n"},
        {"conftest.py": b"import os\n"},
        {"conftest.py": None},
        {"pyproject.toml": b"[tool.pytest.ini_options]\naddopts = '--deselect tests'\n"},
        {"tests/conftest.py": b"collect_ignore = ['test_calc.py']\n"},
        {"pytest.ini": b"[pytest]\naddopts = -p no:cacheprovider\n"},
        {"setup.cfg": b"[tool:pytest]\n"},
        {"tox.ini": b"[pytest]\n"},
        {"sitecustomize.py": b"raise SystemExit(0)\n"},
        {"evil.pth": b"import os\n"},
        {"calc.egg-info/entry_points.txt": b"[pytest11]\nevil = calc\n"},
        {"Sub/ConfTest.py": b"import os\n"},
    ],
)
def test_tests_and_their_configuration_are_those_of_base(repository: Repository, edit: dict[str, bytes | None]) -> None:
    imported = repository.imported({"calc.py": FIXED, **edit})
    assert repository.files(imported.harness_tree) == {**BASE, "calc.py": FIXED}
    assert imported.result_tree != imported.harness_tree
    assert set(imported.paths) == {"calc.py", *edit}


def test_new_test_files_stay(repository: Repository) -> None:
    added = {"tests/test_more.py": b"def test_more():\n    pass\n", "tests/data/more.txt": b"x\n"}
    imported = repository.imported({"calc.py": FIXED, **added})
    assert repository.files(imported.harness_tree) == {**BASE, "calc.py": FIXED, **added}


def test_a_test_file_that_became_a_link_or_executable_is_restored_exactly(repository: Repository) -> None:
    objects = repository.objects
    name = b"tests/test_calc.py"
    oid = next(entry.oid for entry in objects.entries(repository.base) if entry.path == name.decode()).encode()
    head = b"diff --git a/%s b/%s\n" % (name, name)
    link = head + b"deleted file mode 100644\nindex %s..%s\n" % (oid, b"0" * 40)
    body = BASE[name.decode()]
    link += b"--- a/%s\n+++ /dev/null\n@@ -1,5 +0,0 @@\n" % name
    link += b"".join(b"-" + line for line in body.splitlines(keepends=True))
    link += head + b"new file mode 120000\nindex %s..%s\n" % (b"0" * 40, b"1" * 40)
    link += b"--- /dev/null\n+++ b/%s\n@@ -0,0 +1 @@\n+../calc.py\n" % name
    link += b"\\ No newline at end of file\n"
    executable = head + b"old mode 100644\nnew mode 100755\n"
    for patch in (link, executable):
        imported = import_patch(objects, repository.base, patch)
        assert repository.modes(imported.result_tree)[name.decode()] in ("120000", "100755")
        assert imported.harness_tree == repository.base


def test_a_file_in_place_of_the_test_folder_makes_way(repository: Repository) -> None:
    emptied = repository.objects.write_tree(repository.base, {path: None for path in BASE if path.startswith("tests/")})
    patch = repository.objects.diff(repository.base, repository.objects.write_tree(emptied, {"tests": b"not a folder\n"}))
    imported = import_patch(repository.objects, repository.base, patch)
    assert "tests" in repository.files(imported.result_tree)
    assert imported.harness_tree == repository.base


@pytest.mark.parametrize(
    ("command", "restored"),
    [
        (("pytest", "calc.py::test_in_the_module"), True),
        (("python", "-m", "pytest", "./calc.py", "-q"), True),
        (("node", "--test", "**/{calc,other}.py"), True),
        (("pytest", "[c]alc.py"), False),
        (("pytest", "tests"), False),
        (("pytest", "--doctest-modules", "calc.py"), False),
        ((), False),
    ],
)
def test_a_file_that_the_command_names_is_a_test(repository: Repository, command: tuple[str, ...], restored: bool) -> None:
    named = parse_test_command(command).named_tests
    imported = import_patch(repository.objects, repository.base, repository.patch({"calc.py": FIXED}), named)
    assert (imported.harness_tree == repository.base) is restored
    assert imported.result_tree != repository.base


def _refusal(repository: Repository, patch: bytes) -> str:
    with pytest.raises(Gen4Error) as caught:
        import_patch(repository.objects, repository.base, patch)
    assert caught.value.remedy
    return caught.value.code


def test_what_is_refused(repository: Repository) -> None:
    good = repository.patch({"calc.py": FIXED})
    assert _refusal(repository, b"#" * (PATCH_LIMIT + 1)) == "PATCH_TOO_LARGE"
    assert _refusal(repository, b"") == "PATCH_DOES_NOT_APPLY"
    assert _refusal(repository, b"not a patch") == "PATCH_DOES_NOT_APPLY"
    assert _refusal(repository, good.replace(b"a - b", b"a * b")) == "PATCH_DOES_NOT_APPLY"
    assert _refusal(repository, good.replace(b"calc.py", b"../calc.py")) == "PATCH_DOES_NOT_APPLY"
    assert _refusal(repository, good.replace(b"b/calc.py", b"b/.git/hooks/x").replace(b"a/calc.py", b"a/.git/hooks/x")) in (
        "PATCH_DOES_NOT_APPLY", "PATCH_PATH",
    )  # fmt: skip


def test_a_path_that_is_no_text_is_refused(repository: Repository) -> None:
    patch = b'diff --git "a/x\\377.py" "b/x\\377.py"\nnew file mode 100644\n--- /dev/null\n'
    patch += b'+++ "b/x\\377.py"\n@@ -0,0 +1 @@\n+x = 1\n'
    assert _refusal(repository, patch) == "PATCH_PATH"


class TestActivity:
    @pytest.fixture
    def activities(self, repository: Repository, tmp_path: Path) -> CompileActivities:
        return CompileActivities(BlobStore(tmp_path / "blobs", "local"), repository.objects)

    @pytest.fixture
    def source(self, repository: Repository) -> Source:
        return Source(
            repository="/src/calc", ref="refs/heads/main", base_commit="c0" * 20, base_tree=repository.base, commit_time=1
        )

    def test_text_and_blob_give_the_same(
        self, activities: CompileActivities, repository: Repository, source: Source, tmp_path: Path
    ) -> None:
        patch = repository.patch({"calc.py": FIXED, "pytest.ini": b"[pytest]\n"})
        as_text: ImportedPatch = activities.import_patch(ImportPatch(source=source, patch=patch.decode()))
        again = activities.import_patch(ImportPatch(source=source, patch_ref=as_text.patch.diff))
        assert again == as_text
        assert repository.files(as_text.harness_tree) == {**BASE, "calc.py": FIXED}
        assert BlobStore(tmp_path / "blobs", "local").get(as_text.patch.diff) == patch

    @pytest.mark.parametrize("given", [{}, {"patch": "\ud800"}, "both"])
    def test_a_request_without_one_patch(
        self, activities: CompileActivities, repository: Repository, source: Source, given: dict[str, str] | str
    ) -> None:
        if isinstance(given, dict):
            request = ImportPatch.model_construct(source=source, patch=given.get("patch"), patch_ref=None)
        else:
            made = activities.import_patch(ImportPatch(source=source, patch=repository.patch({"calc.py": FIXED}).decode()))
            request = ImportPatch(source=source, patch="x", patch_ref=made.patch.diff)
        with pytest.raises(Gen4Error) as caught:
            activities.import_patch(request)
        assert caught.value.code in ("PATCH_MISSING", "PATCH_DOES_NOT_APPLY")

    def test_what_is_refused_is_kept_as_it_was_sent(self, activities: CompileActivities, source: Source, tmp_path: Path) -> None:
        request = ImportPatch(source=source, patch="not a patch: \u00e9\ud800")
        with pytest.raises(Refused, match="PATCH_DOES_NOT_APPLY"):
            activities.import_patch(request)
        assert BlobStore(tmp_path / "blobs", "local").get(request.offered) == request.text
        assert ImportPatch(source=source, patch_ref=request.offered).offered == request.offered

    def test_a_diff_of_a_file_that_is_not_utf8_comes_as_bytes(
        self, activities: CompileActivities, repository: Repository, source: Source, tmp_path: Path
    ) -> None:
        old = "# coding: latin-1\nNAME = 'caf\u00e9'\ndef size():\n    return 5\n".encode("latin-1")
        base = repository.objects.write_tree(repository.base, {"names.py": old})
        diff = repository.objects.diff(base, repository.objects.write_tree(base, {"names.py": old.replace(b"5", b"4")}))
        source = source.model_copy(update={"base_tree": base})
        with pytest.raises(Refused, match="PATCH_DOES_NOT_APPLY") as caught:
            activities.import_patch(ImportPatch(source=source, patch=diff.decode("latin-1")))
        assert "--patch FILE" in caught.value.remedy
        sent = BlobStore(tmp_path / "blobs", "local").put(diff, "text/x-diff")
        imported = activities.import_patch(ImportPatch(source=source, patch_ref=sent))
        assert repository.files(imported.harness_tree)["names.py"] == old.replace(b"5", b"4")
        assert imported.probe_tree is not None
        probed = repository.files(imported.probe_tree)["names.py"]
        assert b"gen4 probe" in probed and b"caf\xe9" in probed
