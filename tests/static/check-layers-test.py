#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Plants includes in a copy of src/ and sees tools/check-layers refuse the wrong ones."""
import os
import shutil
import tempfile

import tree

# What is planted where, and whether it must be refused.
CASES = [
    ("src/base/planted.c", '#include "vm/planted.h"', True),
    ("src/base/planted.h", '#include "../cli/planted.h"', True),
    ("src/qmp/planted.c", '#include "ttrpc/planted.h"', True),
    ("src/vm/planted.c", '#include "migration/planted.h"', True),
    ("src/vm/planted.c", '#  include <migration/planted.h>', True),
    ("src/migration/planted.c", '#include "services/planted.h"', True),
    ("src/shim/planted.c", '#include "cli/planted.h"', True),
    ("src/guest/planted.c", '#include "vm/planted.h"', True),
    ("src/vm/planted.c", '#include "shim.pb-c.h"', True),
    ("src/ttrpc/planted.c", '#include "base/planted.h"', True),
    ("src/ttrpc/planted.c", '#include <systemd/sd-event.h>', True),
    ("src/migration/machine.c", '#include <time.h>', True),
    ("src/migration/policy.h", '#include "base/clock.h"', True),
    ("src/unknown/planted.c", '#include <stdio.h>', True),
    ("src/ttrpc/ttrpc-sd-event.c", '#include <systemd/sd-event.h>', False),
    ("src/vm/planted.c", '#include "qmp/planted.h"', False),
    ("src/migration/planted.c", '#include "shim.pb-c.h"', False),
    ("src/cli/planted.c", '#include "services/planted.h"', False),
    ("src/base/planted.c", '/* #include "vm/planted.h" */', False),
]
FOLDERS = ["base", "ttrpc", "qmp", "vm", "guest", "migration", "services", "shim", "cli"]


def plant(root, path, line):
    for folder in FOLDERS:
        os.makedirs(os.path.join(root, "src", folder))
        with open(os.path.join(root, "src", folder, "planted.h"), "w", encoding="utf-8") as header:
            header.write("#pragma once\n")
    os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
    with open(os.path.join(root, path), "w", encoding="utf-8") as planted:
        planted.write(f"\n{line}\n")


def complaints_about(path, line, refused):
    root = tempfile.mkdtemp(prefix="ferry-layers-")
    try:
        plant(root, path, line)
        status, lines = tree.run(os.path.join(tree.ROOT, "tools", "check-layers"), root)
    finally:
        shutil.rmtree(root)
    if (status != 0) != refused:
        return [f"exit status {status}", *lines]
    if refused and "unknown" not in path and not any(f"{path}:2:" in text for text in lines):
        return ["refused, but not with file:line", *lines]
    return []


tree.tap((f"{path}: {line}{' is refused' if refused else ''}".replace("#", "", 1),
          complaints_about(path, line, refused)) for path, line, refused in CASES)
