#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Builds everything with one compiler and -Werror, then each header alone.

usage: check-compile.py COMPILER BUILD-FOLDER MESON-OPTION...
The folder is kept, so that a second run only builds what has changed.
"""
import concurrent.futures
import json
import os
import shlex
import shutil
import sys

import tree

WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers",
            "-Wno-gnu-zero-variadic-macro-arguments", "-Wmissing-prototypes", "-Werror"]
OURS = ["-std=gnu17", "-D_GNU_SOURCE", '-DFERRY_VERSION="0"']
PUBLIC = "include/ttrpc/ttrpc.h"  # others include it: older C and C++ too


def build(compiler, folder, options):
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        shutil.rmtree(folder, ignore_errors=True)
        status, lines = tree.run("meson", "setup", folder, tree.ROOT, "-Dwerror=true", *options,
                                 env=dict(os.environ, CC=compiler))
        if status:
            return lines[-20:]
    status, lines = tree.run("ninja", "-C", folder)
    return lines[-60:] if status else []


def include_flags(folder):
    """All -I of the build, made absolute: the sources' roots and the generated headers'."""
    flags = {}  # keeps the order
    with open(os.path.join(folder, "compile_commands.json"), encoding="utf-8") as commands:
        for entry in json.load(commands):
            for word in shlex.split(entry["command"]):
                if word.startswith("-I"):
                    path = os.path.normpath(os.path.join(entry["directory"], word[2:]))
                    # Each target's own object folder holds nothing to include.
                    if os.path.isdir(path) and not path.endswith(".p"):
                        flags["-I" + path] = True
    return list(flags)


def compile_alone(job):
    compiler, header, flags = job
    status, lines = tree.run(compiler, "-fsyntax-only", *flags, "-",
                             input=f'#include "{os.path.join(tree.ROOT, header)}"\n'.encode())
    return lines[:20] or ["failed"] if status else []


def main():
    compiler, folder, options = sys.argv[1], sys.argv[2], sys.argv[3:]
    tree.need(compiler)
    complaints = build(compiler, folder, options)
    results = [(f"{compiler} -Werror", complaints)]
    if not complaints:
        includes = include_flags(folder)
        jobs = [(compiler, header, ["-xc", *OURS, *WARNINGS, *includes])
                for header in tree.tracked(".h")]
        names = [f"{header} alone" for _, header, _ in jobs]
        if os.path.exists(os.path.join(tree.ROOT, PUBLIC)):
            for label, flags in (("C99", ["-xc", "-std=c99", "-pedantic-errors"]),
                                 ("C++11", ["-xc++", "-std=c++11", "-pedantic-errors"])):
                names.append(f"{PUBLIC} alone in {label}")
                jobs.append((compiler, PUBLIC, [*flags, "-Wall", "-Wextra", "-Werror", *includes]))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            results += zip(names, pool.map(compile_alone, jobs))
    tree.tap(results)


main()
