package gen4.patch_test

import data.gen4.patch

file := {
	"path": "src/pkg/mod.py", "folded": ["src", "pkg", "mod.py"], "change": "modified", "git": false, "plain": true,
	"kinds": ["regular"], "modes": ["100644"], "binary": false, "misread": "", "lfs": false, "hidden": [], "shadows": [],
}

good := {"size_bytes": 100, "canonical": true, "collisions": [], "files": [file]}

all := {rule | some rule in data.required.patch}

passed(question) := decision.passed if decision := patch.decision with input as question

of(changes) := passed(object.union(good, changes))

with_file(changes) := passed(object.union(good, {"files": [file, object.union(file, changes)]}))

named(name) := with_file({"path": name, "folded": split(name, "/")})

test_good if passed(good) == all

test_every_check_is_required if {
	decision := patch.decision with input as good
	decision.required == all
	count(all) == 15
}

test_nonempty if of({"files": []}) == all - {"patch.nonempty"}

test_size_at_the_limit if of({"size_bytes": data.patch.max_bytes}) == all

test_size if of({"size_bytes": data.patch.max_bytes + 1}) == all - {"patch.size"}

test_number_of_files if {
	of({"files": [file | some i in numbers.range(0, data.patch.max_files); i >= 0]}) == all - {"patch.size"}
}

test_canonical if of({"canonical": false}) == all - {"patch.canonical"}

test_collisions if of({"collisions": ["SRC/pkg/mod.py"]}) == all - {"patch.no_collisions"}

test_links if {
	every kind in ["symlink", "gitlink", "file of mode 060000"] {
		with_file({"kinds": [kind]}) == all - {"patch.regular_files"}
	}
}

test_regular_becomes_a_link if {
	with_file({"kinds": ["regular", "symlink"], "modes": ["100644", "120000"]}) == all - {"patch.regular_files", "patch.modes"}
}

test_mode_change if with_file({"modes": ["100644", "100755"]}) == all - {"patch.modes"}

test_an_executable_stays_one if with_file({"modes": ["100755"]}) == all

test_new_file if with_file({"change": "added"}) == all

test_new_executable if with_file({"change": "added", "modes": ["100755"]}) == all - {"patch.modes"}

test_deleted_file if with_file({"change": "deleted", "modes": ["100755"]}) == all

test_binary if with_file({"binary": true}) == all - {"patch.text"}

test_encoding if with_file({"misread": "it declares utf-7"}) == all - {"patch.encoding"}

test_lfs if with_file({"lfs": true}) == all - {"patch.no_lfs"}

test_odd_path if with_file({"plain": false}) == all - {"patch.plain_paths"}

test_git_file if with_file({"git": true}) == all - {"patch.no_git_files"}

test_hidden_characters if with_file({"hidden": ["U+202E"]}) == all - {"patch.no_hidden_characters"}

test_shadowing if with_file({"shadows": ["json"]}) == all - {"patch.no_shadowing"}

test_tool_files if {
	every name in [
		"conftest.py", "tests/conftest.py", "pytest.ini", "tox.ini", "setup.py", "setup.cfg", "pyproject.toml", "noxfile.py",
		"makefile", "sitecustomize.py", "src/usercustomize.py", "x.pth", "a/b.so", "docs/codeowners", ".envrc",
		".devcontainer/x.json", ".vscode/settings.json", "pkg.dist-info/metadata", "pkg.egg-info/entry_points.txt", "pip.conf", "justfile",
	] {
		named(name) == all - {"patch.no_tool_files"}
	}
}

test_lock_files if {
	every name in [
		"poetry.lock", "uv.lock", "requirements.txt", "requirements-dev.txt", "dev-requirements.txt", "constraints.txt", "pipfile",
		"requirements.in", "pylock.toml", "pylock.dev.toml", "package-lock.json", "requirements/base.txt", "ci/requirements/dev.in",
	] {
		named(name) == all - {"patch.no_lock_files"}
	}
}

test_ordinary_files if {
	every name in ["src/pkg/setup_tools.py", "tests/test_x.py", "README.md", "src/lock.py", "docs/requirements.md", "src/conftest_helper.py", "requirements/readme.md"] {
		named(name) == all
	}
}

test_a_missing_fact_passes_nothing_that_needs_it if {
	bare := passed({"files": [{"path": "x"}], "collisions": []})
	bare == {"patch.nonempty", "patch.no_collisions"}
}

test_an_empty_question_passes_nothing if {
	decision := patch.decision with input as {}
	decision.passed == set()
}

test_reasons_name_only_the_file_that_is_wrong if {
	wrong := object.union(file, {
		"path": "bad", "folded": ["conftest.py"], "change": "added", "git": true, "plain": false, "kinds": ["symlink"],
		"modes": ["120000"], "binary": true, "misread": "it declares utf-7", "lfs": true, "hidden": ["U+202E"], "shadows": ["json"],
	})
	decision := patch.decision with input as object.union(good, {"files": [file, wrong], "collisions": ["bad"]})
	{finding.path | some finding in decision.findings; finding.path} == {"bad"}
	decision.required - decision.passed == {finding.rule_id | some finding in decision.findings; finding.path}
}

test_reasons_for_lock_files_and_emptiness if {
	lock := object.union(file, {"path": "uv.lock", "folded": ["uv.lock"]})
	locked := patch.decision with input as object.union(good, {"files": [lock]})
	"uv.lock" in {finding.path | some finding in locked.findings; finding.rule_id == "patch.no_lock_files"}
	empty := patch.decision with input as object.union(good, {"files": []})
	"patch.nonempty" in {finding.rule_id | some finding in empty.findings}
}
