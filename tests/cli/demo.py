#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The demo itself: what it prints, and that it leaves nothing however it ends.

usage: demo.py FERRY-DEMO
"""
import glob
import json
import os
import signal
import subprocess
import sys
import time

import ferry

HOP = {"total_ms": float, "blackout_ms": float, "client_stall_ms": float, "passes": int,
       "bytes": int, "requests_lost": int, "connection_kept": bool, "memory_intact": bool}
NAMESPACES = "ferry-a", "ferry-b", "ferry-sw"
TURN_LIMIT = 300  # seconds, for another demo of this machine to end

DEMO = os.path.abspath(sys.argv[1])


def start(*arguments):
    return subprocess.Popen([DEMO, *arguments], text=True, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def start_to_hop(*arguments):
    """A demo that is copying its guest's memory: (process, what it said until then)."""
    deadline = time.monotonic() + TURN_LIMIT
    while True:
        demo = start(*arguments)
        said = ""
        for line in demo.stderr:
            said += line
            if "copying" in line:
                return demo
        demo.wait()
        assert "another demo" in said and time.monotonic() < deadline, said
        time.sleep(1)


def run(*arguments):
    deadline = time.monotonic() + TURN_LIMIT
    while True:
        demo = start(*arguments)
        out, err = demo.communicate()
        if "another demo" not in err or time.monotonic() > deadline:
            return demo.returncode, out, err
        time.sleep(1)


def left_behind():
    """Of any demo; our own is over, and only one runs at a time."""
    found = glob.glob("/tmp/ferry-demo-*") + glob.glob("/run/ferry-demo*")
    return found + [name for name in NAMESPACES if os.path.exists(f"/run/netns/{name}")]


def test_object():
    code, out, err = run("--json")
    assert code == 0, (code, out, err)
    result = json.loads(out)
    assert sorted(result) == ["hops", "ok"] and result["ok"] is True, result
    assert len(result["hops"]) == 2, result
    has_network = os.geteuid() == 0 and "no network namespaces" not in err
    for hop in result["hops"]:
        assert sorted(hop) == sorted(HOP), hop
        for field, kind in HOP.items():
            absent = hop[field] is None and not has_network
            assert absent or isinstance(hop[field], kind), (field, hop)
        assert hop["memory_intact"], hop
        if has_network:
            assert hop["requests_lost"] == 0 and hop["connection_kept"], hop
    assert not left_behind(), left_behind()


def test_terminated():
    demo = start_to_hop()
    demo.terminate()
    out, err = demo.communicate()
    assert demo.returncode == 128 + signal.SIGTERM, (demo.returncode, out, err)
    assert not left_behind(), (left_behind(), err)


def test_killed():
    demo = start_to_hop()
    demo.kill()
    demo.communicate()
    assert left_behind()
    code, _, err = run("--clean")
    assert code == 0, err
    assert not left_behind(), (left_behind(), err)


def test_usage():
    for arguments in ("--bogus",), ("--hops", "0"), ("--hops", "x"), ("word",):
        code, out, err = run(*arguments)
        assert code == 2 and not out and err.startswith("demo: "), (arguments, code, out, err)


def main():
    ferry.need_qemu()
    ferry.tap([
        ("bad input", test_usage),
        ("the object", test_object),
        ("SIGTERM in a hop", test_terminated),
        ("SIGKILL in a hop, then --clean", test_killed),
    ])


main()
