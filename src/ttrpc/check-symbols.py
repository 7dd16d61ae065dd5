#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""check-symbols.py LIBRARY HEADER: the shared library shows what the header declares, no more."""
import re
import subprocess
import sys

library, header = sys.argv[1:]
listing = subprocess.run(["nm", "-D", "--defined-only", library], check=True, text=True,
                         stdout=subprocess.PIPE).stdout
shown = {line.split()[2].split("@")[0] for line in listing.splitlines() if line.split()[1] == "T"}
with open(header, encoding="utf-8") as file:
    text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)
declared = set(re.findall(r"^[a-z].*?\b(ttrpc_[a-z_]+)\(", text, flags=re.M))
problems = ([f"{name} is declared, and not in the library" for name in sorted(declared - shown)] +
            [f"{name} is in the library, and not declared" for name in sorted(shown - declared)])
for problem in problems:
    print(f"# {problem}")
print(f"{'not ok' if problems or not shown else 'ok'} 1 - {len(shown)} symbols")
print("1..1")
sys.exit(1 if problems or not shown else 0)
