# SPDX-License-Identifier: MIT
"""What the static checks share: the tracked files, and one TAP line a check."""
import os
import shutil
import subprocess
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))


def tracked(*suffixes):
    """Tracked files that are there, relative to ROOT; with `suffixes`, those that end so."""
    names = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "-C", ROOT, "ls-files", "-z"],
        check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
    return [name for name in names
            if name and os.path.isfile(os.path.join(ROOT, name)) and name.endswith(suffixes or "")]


def text_of(name):
    with open(os.path.join(ROOT, name), "rb") as content:
        return content.read().decode("utf-8", "replace")


def shebang_of(name):
    return text_of(name).split("\n", 1)[0]


def shell_scripts():
    return [name for name in tracked()
            if shebang_of(name).startswith("#!") and shebang_of(name).endswith(("sh", "bash"))]


def need(tool):
    """Skips the whole test when `tool` is missing; with CI=true that is a failure."""
    if not shutil.which(tool):
        if os.environ.get("CI") == "true":
            sys.exit(f"no {tool}: ./dev setup installs it")
        print(f"1..0 # SKIP no {tool}: ./dev setup installs it")
        sys.exit(0)


def tap(results):
    """`results`: (what was checked, lines that say what is wrong with it). Exits."""
    failed = False
    number = 0
    for number, (name, complaints) in enumerate(results, 1):
        for line in complaints:
            print(line, file=sys.stderr)  # Meson shows a failed test's stderr
        print(f"{'not ok' if complaints else 'ok'} {number} - {name}", flush=True)
        failed = failed or bool(complaints)
    print(f"1..{number}" if number else "1..0 # SKIP there are none")
    sys.exit(1 if failed else 0)


def run(*command, **options):
    """(exit status, lines of its stdout and stderr)."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            cwd=ROOT, check=False, **options)
    return result.returncode, result.stdout.decode("utf-8", "replace").splitlines()
