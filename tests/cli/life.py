#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A sandbox's life by the command line: started, looked at, moved, cancelled, ended.

usage: life.py FERRY
"""
import json
import os
import signal
import sys

import ferry


def test_run_and_look(place):
    result = place.must("run", "web", "--json", "--config", place.file("vm.json", ferry.IDLE_VM))
    assert result.json()["vm_state"] == ferry.RUNNING, result
    listed = place.must("ls", "--json").json()
    assert [(entry["name"], entry["state"]) for entry in listed] == [("web", ferry.RUNNING)], listed
    assert "web" in place.must("ls").out
    text = place.must("status", "web").out
    for word in "sandbox:     web", "vm:          running", "memory:      32.0 MiB":
        assert word in text, text
    place.must("console", "--log", "web")
    assert "its shim runs" in place.must("recover", "web").err
    place.must("stop", "web")
    assert os.listdir(place.a) == [], os.listdir(place.a)
    assert place.must("ls", "--json").json() == []


def test_run_without_a_file(place):
    place.must("run", "web", "--memory", "48", "--vcpus", "2")
    status = place.status("web")
    assert (round(status["memory_bytes"] / 2**20), status["vcpus"]) == (48, 2), status
    place.must("stop", "web")


def test_a_failed_start_leaves_nothing(place):
    config = {**ferry.IDLE_VM, "qemu": "/bin/false"}
    result = place.ferry("run", "web", "--config", place.file("vm.json", config))
    assert result.code not in (0, 2), result
    headline = result.err.splitlines()[0]
    assert headline.startswith("ferry: web was not started: the VM did not start: QEMU"), result
    assert os.listdir(place.a) == [], os.listdir(place.a)


def test_there_and_back(place):
    ferry.run(place)
    report = place.must("migrate", "web", "--to", place.b, "--json").json()
    assert report["outcome"] == "migrated" and report["passes"] > 0, report
    assert report["bytes"] > 0 and report["total_ms"] > report["blackout_ms"] > 0, report
    ferry.only_at(place, place.b, place.a)
    result = place.must("migrate", "web", "--to", place.a, "--handover", "caller", root=place.b)
    assert "blackout" in result.out and "done" in result.err, result
    ferry.only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_large_files(place):
    """Reading a disk to know it takes a while; the shim answers meanwhile."""
    disk = place.file("disk.raw", "")
    os.truncate(disk, 2**30)
    config = {**ferry.IDLE_VM, "disks": [{"path": disk, "readonly": True}]}
    place.must("run", "web", "--config", place.file("vm.json", config))
    mover = place.start("migrate", "web", "--to", place.b)
    ferry.wait_for("the export", lambda: ferry.detail(place) == "S_EXPORTING")
    _, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == 0, (mover.returncode, err)
    ferry.only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def test_a_name_that_is_taken(place):
    ferry.run(place)
    place.must("run", "web", "--memory", "32", root=place.b)
    result = place.ferry("migrate", "web", "--to", place.b)
    assert result.code == 4 and "runs at the source" in result.err, result
    for root in place.a, place.b:
        assert place.status("web", root=root)["vm_state"] == ferry.RUNNING
        place.must("stop", "web", root=root)


def test_cancelled(place, number, code):
    ferry.run(place)
    mover = place.start("migrate", "web", "--to", place.b, "--json", *ferry.SLOW)
    ferry.wait_for("the copy", lambda: ferry.is_copying(place))
    refused = place.ferry("stop", "web")
    assert refused.code == 4, refused
    mover.send_signal(number)
    out, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == code, (mover.returncode, out, err)
    assert json.loads(out)["outcome"] == "cancelled", out
    assert "web runs at the source" in err, err
    ferry.only_at(place, place.a, place.b)
    place.must("migrate", "web", "--to", place.b)
    ferry.only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def test_timeout(place):
    ferry.run(place)
    result = place.ferry("migrate", "web", "--to", place.b, "--timeout", "1", *ferry.SLOW)
    assert result.code == 5 and "--timeout" in result.err, result
    ferry.only_at(place, place.a, place.b)
    place.must("stop", "web")


def main():
    ferry.need_qemu()
    tests = [
        ("run, ls, status, stop", test_run_and_look),
        ("run without a file", test_run_without_a_file),
        ("a failed start leaves nothing", test_a_failed_start_leaves_nothing),
        ("there and back", test_there_and_back),
        ("large files", test_large_files),
        ("a name that is taken", test_a_name_that_is_taken),
        ("Ctrl-C", lambda place: test_cancelled(place, signal.SIGINT, 130)),
        ("SIGHUP", lambda place: test_cancelled(place, signal.SIGHUP, 129)),
        ("SIGTERM", lambda place: test_cancelled(place, signal.SIGTERM, 143)),
        ("--timeout", test_timeout),
    ]

    def in_a_place(test):
        with ferry.Place(sys.argv[1]) as place:
            test(place)

    ferry.tap([(name, lambda test=test: in_a_place(test)) for name, test in tests])


main()
