#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What libttrpc.so exports is what ttrpc.h declares, no more and no less.

usage: check-symbols.py LIBRARY
"""
import re
import subprocess
import sys

import tree

DECLARED = re.compile(r"\b(ttrpc_[a-z_0-9]+)\(")


def declared():
    text = re.sub(r"/\*.*?\*/", "", tree.text_of("include/ttrpc/ttrpc.h"), flags=re.DOTALL)
    return {name for name in DECLARED.findall(text)}


def exported(library):
    lines = subprocess.run(["nm", "-D", "--defined-only", library], check=True,
                           stdout=subprocess.PIPE, text=True).stdout.splitlines()
    # "ADDRESS KIND NAME@@VERSION"; kind A is the version itself
    return {line.split()[2].split("@")[0] for line in lines if line.split()[1] != "A"}


in_header, in_library = declared(), exported(sys.argv[1])
tree.tap([
    ("what is declared is exported", sorted(in_header - in_library)),
    ("what is exported is declared", sorted(in_library - in_header)),
])
