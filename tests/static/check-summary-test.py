#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/test-summary must not call a run good that was not."""
import json
import os
import tempfile

import tree

OK2 = {"name": "a", "result": "OK", "stdout": "ok 1 - x\nok 2 - y\n1..2\n"}
CASES = [
    ("TAP lines count", [OK2], 0, "2 passed, 0 failed"),
    ("a test without TAP counts as one", [{"name": "b", "result": "OK"}], 0, "1 passed, 0 failed"),
    ("a failed line", [OK2, {"name": "b", "result": "FAIL", "stdout": "ok 1\nnot ok 2 - z\n"}],
     1, "3 passed, 1 failed"),
    ("a crash after the last ok", [dict(OK2, result="ERROR")], 1, "2 passed, 1 failed"),
    ("a time-out without output", [OK2, {"name": "c", "result": "TIMEOUT"}], 1,
     "2 passed, 1 failed"),
    ("a skipped line", [{"name": "d", "result": "OK", "stdout": "ok 1 # SKIP no peer\nok 2\n"}],
     0, "1 passed, 0 failed, 1 skipped"),
    ("a skipped test", [OK2, {"name": "e", "result": "SKIP"}], 0,
     "2 passed, 0 failed, 1 skipped"),
    ("nothing but a skip", [{"name": "e", "result": "SKIP"}], 1, "0 passed, 0 failed, 1 skipped"),
    ("Go's 'ok' is no TAP", [{"name": "g", "result": "OK", "stdout": "ok  \tferry/x\t0.1s\n"}],
     0, "1 passed, 0 failed"),
    ("no test at all", [], 1, "0 passed, 0 failed"),
    ("no log", None, 1, "0 passed, 1 failed"),
]


def complaints_about(tests, expected_status, expected_line):
    with tempfile.TemporaryDirectory(prefix="ferry-summary-") as folder:
        log = os.path.join(folder, "testlog.json")
        if tests is not None:
            with open(log, "w", encoding="utf-8") as lines:
                lines.writelines(json.dumps(test) + "\n" for test in tests)
        status, lines = tree.run(os.path.join(tree.ROOT, "tools", "test-summary"), log)
    if status != expected_status or not lines or lines[-1] != expected_line:
        return [f"exit status {status}, expected {expected_status} and '{expected_line}'", *lines]
    return []


tree.tap((name, complaints_about(tests, status, line)) for name, tests, status, line in CASES)
