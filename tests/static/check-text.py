#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs one tool over the tracked files it is for: format, shell, spelling or man.

usage: check-text.py format|shell|spelling|man
A missing tool is a skip; with CI=true it is a failure.
"""
import os
import sys

import tree

# Words that codespell takes for mistakes.
NOT_MISTAKES = "mis,fo,inout,creat,ot,te,nd"


def check_format(names):
    """One run for all files: starting the tool takes longer than its work."""
    status, lines = tree.run("clang-format", "--dry-run", "-Werror", *names)
    found = {name: [line for line in lines if line.startswith(f"{name}:")] for name in names}
    if status and not any(found.values()):
        yield "clang-format", lines[:20]
    yield from found.items()


def check_shell(name):
    status, lines = tree.run("shellcheck", name)
    return lines if status else []


def check_spelling(names):
    status, lines = tree.run("codespell", f"--ignore-words-list={NOT_MISTAKES}", *names)
    return lines or ["codespell failed"] if status else []


def check_man(name):
    with open(os.path.join(tree.ROOT, name), "rb") as page:
        status, lines = tree.run("scdoc", stdin=page)
    return lines or ["scdoc failed"] if status else []


def each(check):
    return lambda names: ((name, check(name)) for name in names)


# tool, check, files. codespell starts slowly, so it gets all files at once.
CHECKS = {
    "format": ("clang-format", check_format, lambda: tree.tracked(".c", ".h")),
    "shell": ("shellcheck", each(check_shell), tree.shell_scripts),
    "man": ("scdoc", each(check_man), lambda: tree.tracked(".scd")),
    # go.sum is hashes: no words in it.
    "spelling": ("codespell", lambda names: [("all files", check_spelling(names))],
                 lambda: [name for name in tree.tracked() if not name.endswith((".sum", ".golden"))]),
}


def main():
    tool, check, files = CHECKS[sys.argv[1]]
    tree.need(tool)
    tree.tap(check(files()))


main()
