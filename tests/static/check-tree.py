#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What every tracked file keeps to: its name, its licence line, nothing of this machine in it."""
import os
import re

import tree

NAME = re.compile(r"^[a-z0-9.][a-z0-9._-]*$")
NAME_EXCEPTIONS = {"README.md", "LICENSE"}
C_NAME = re.compile(r"^[a-z0-9-]+(\.[a-z0-9-]+)?\.[ch]$")  # dashes; "x.pb-c.h" is generated

SPDX = "SPDX-License-Identifier: MIT"
WITH_SPDX = (".c", ".h", ".py", ".go", ".sh", ".proto")

# Brackets, so that this file passes its own check.
MACHINE = re.compile(r"/([w]ork|[r]oot|[f]arm)/|https?://([d]eb|[p]roxy|[r]egistry|[s]tatic|[i]ndex)\.")
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X|H[A]CK)\b(?!\(#\d+\))")

# What a document says about the tree: `](path)` links, relative to it, and plain paths in text.
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
MENTION = re.compile(r"(?<![\w./*{-])(?:docs|src|tests|tools|bench|fuzz|proto|include|man)/"
                     r"[\w./*{},-]*[\w/*}]")


def bad_names():
    for path in tree.tracked():
        for part in path.split("/"):
            if not NAME.match(part) and part not in NAME_EXCEPTIONS:
                yield f"{path}: '{part}' should be lower case: a-z 0-9 . _ -"
    for path in tree.tracked(".c", ".h"):
        if not C_NAME.match(path.rsplit("/", 1)[-1]):
            yield f"{path}: C files are named with dashes"


def without_spdx():
    for path in tree.tracked():
        if path.endswith(WITH_SPDX) or tree.shebang_of(path).startswith("#!"):
            if not any(SPDX in line for line in tree.text_of(path).split("\n")[:3]):
                yield f"{path}: no '{SPDX}' in its first lines"


def without_pragma_once():
    for path in tree.tracked(".h"):
        if "\n#pragma once\n" not in tree.text_of(path):
            yield f"{path}: no '#pragma once'"


def lines_with(pattern):
    for path in tree.tracked():
        for number, line in enumerate(tree.text_of(path).split("\n"), 1):
            match = pattern.search(line)
            if match:
                yield f"{path}:{number}: '{match[0]}'"


def stale_mentions():
    for path in tree.tracked(".md"):
        text = tree.text_of(path)
        names = [os.path.join(os.path.dirname(path), link) for link in LINK.findall(text)]
        names += [name for name in MENTION.findall(text) if not re.search(r"[*{}]", name)]
        for name in sorted(set(map(os.path.normpath, names))):
            if not os.path.exists(os.path.join(tree.ROOT, name)):
                yield f"{path}: there is no {name}"


tree.tap([
    ("file names", list(bad_names())),
    ("licence lines", list(without_spdx())),
    ("#pragma once", list(without_pragma_once())),
    ("no path of this machine, no package host", list(lines_with(MACHINE))),
    ("documents name what is there", list(stale_mentions())),
    ("nothing unfinished without an issue", list(lines_with(UNFINISHED))),
])
