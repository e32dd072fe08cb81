# What a patch may touch (threats 3.4). Everything else needs a tier that this version does not have, so it is denied.
#
# input: facts computed by activities/policy/facts.py from the trees of both sides:
# {"size_bytes", "canonical", "collisions": [path], "files": [{"path", "folded" (list of segments), "git", "plain",
#   "change" ("added", "deleted", "modified"), "kinds": [kind], "modes": [mode], "binary", "misread", "lfs", "hidden": [name], "shadows": [name]}]}
package gen4.patch

decision := {"required": required, "passed": passed, "findings": findings}

required contains name if some name in data.required.patch

passed contains "patch.nonempty" if count(input.files) > 0

passed contains "patch.size" if {
	input.size_bytes <= data.patch.max_bytes
	count(input.files) <= data.patch.max_files
}

# The text that people read and that is attested is the one that the two trees give.
passed contains "patch.canonical" if input.canonical == true

passed contains "patch.no_collisions" if count(input.collisions) == 0

passed contains "patch.regular_files" if every file in input.files { all_regular(file) }

passed contains "patch.modes" if every file in input.files { mode_kept(file) }

passed contains "patch.text" if every file in input.files { file.binary == false }

# Where Python and people read the same bytes as the same text, "misread" is empty.
passed contains "patch.encoding" if every file in input.files { file.misread == "" }

passed contains "patch.no_lfs" if every file in input.files { file.lfs == false }

passed contains "patch.plain_paths" if every file in input.files { file.plain == true }

passed contains "patch.no_git_files" if every file in input.files { file.git == false }

passed contains "patch.no_hidden_characters" if every file in input.files { count(file.hidden) == 0 }

passed contains "patch.no_shadowing" if every file in input.files { count(file.shadows) == 0 }

passed contains "patch.no_tool_files" if every file in input.files { tool_file(file) == false }

passed contains "patch.no_lock_files" if every file in input.files { lock_file(file) == false }

all_regular(file) if {
	count(file.kinds) > 0
	every kind in file.kinds { kind == "regular" }
}

mode_kept(file) if {
	file.change == "added"
	file.modes == ["100644"]
}

mode_kept(file) if {
	file.change == "deleted"
	count(file.modes) == 1
}

mode_kept(file) if {
	file.change == "modified"
	count(file.modes) == 1
}

tool_file(file) := count(tool_marks(file)) > 0

lock_file(file) := count(lock_marks(file)) > 0

name_of(file) := file.folded[count(file.folded) - 1]

tool_marks(file) := union({named, suffixed, inside, inside_suffixed}) if {
	name := name_of(file)
	named := {name} & {n | some n in data.patch.tool_files}
	suffixed := {s | some s in data.patch.tool_suffixes; endswith(name, s)}
	inside := {f | some f in file.folded; f in data.patch.tool_folders}
	inside_suffixed := {s | some f in file.folded; some s in data.patch.tool_folder_suffixes; endswith(f, s)}
}

lock_marks(file) := union({named, suffixed, matched, inside}) if {
	name := name_of(file)
	named := {name} & {n | some n in data.patch.lock_files}
	suffixed := {s | some s in data.patch.lock_suffixes; endswith(name, s)}
	matched := {p | some p in data.patch.lock_patterns; regex.match(p, name)}
	inside := {f | some f in file.folded; f in data.patch.lock_folders; some s in data.patch.lock_folder_suffixes; endswith(name, s)}
}

findings contains {"rule_id": "patch.nonempty", "message": "the patch changes nothing"} if count(input.files) == 0

findings contains {"rule_id": "patch.size", "message": message} if {
	message := sprintf(
		"%v bytes in %v files; at most %v bytes in %v files",
		[input.size_bytes, count(input.files), data.patch.max_bytes, data.patch.max_files],
	)
}

findings contains {"rule_id": "patch.canonical", "message": "the diff is not the one that git writes for its two trees"}

findings contains {"rule_id": "patch.no_collisions", "message": "differs from another path only by case or Unicode form", "path": path} if {
	some path in input.collisions
}

findings contains {"rule_id": "patch.regular_files", "message": message, "path": file.path} if {
	some file in input.files
	some kind in file.kinds
	kind != "regular"
	message := sprintf("is a %v; only regular files may change", [kind])
}

findings contains {"rule_id": "patch.modes", "message": message, "path": file.path} if {
	some file in input.files
	count([1 | mode_kept(file)]) == 0
	message := sprintf("%v with modes %v; a patch may not change modes, and new files are 100644", [file.change, concat(", ", file.modes)])
}

findings contains {"rule_id": "patch.text", "message": "is not text of bearable size", "path": file.path} if {
	some file in input.files
	file.binary == true
}

findings contains {"rule_id": "patch.encoding", "message": file.misread, "path": file.path} if {
	some file in input.files
	file.misread != ""
}

findings contains {"rule_id": "patch.no_lfs", "message": "is a pointer of Git LFS", "path": file.path} if {
	some file in input.files
	file.lfs == true
}

findings contains {"rule_id": "patch.plain_paths", "message": "the path is not plain text that means the same everywhere", "path": file.path} if {
	some file in input.files
	file.plain == false
}

findings contains {"rule_id": "patch.no_git_files", "message": "git reads files of this name", "path": file.path} if {
	some file in input.files
	file.git == true
}

findings contains {"rule_id": "patch.no_hidden_characters", "message": message, "path": file.path} if {
	some file in input.files
	count(file.hidden) > 0
	message := sprintf("adds invisible or direction-changing characters: %v", [concat(", ", file.hidden)])
}

findings contains {"rule_id": "patch.no_shadowing", "message": message, "path": file.path} if {
	some file in input.files
	count(file.shadows) > 0
	message := sprintf("a new top-level module would take the place of: %v", [concat(", ", file.shadows)])
}

findings contains {"rule_id": "patch.no_tool_files", "message": "changes how tests or tools run", "path": file.path} if {
	some file in input.files
	tool_file(file)
}

findings contains {"rule_id": "patch.no_lock_files", "message": "changes which dependencies are installed", "path": file.path} if {
	some file in input.files
	lock_file(file)
}
