#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A sandbox's life by the command line: started, looked at, moved, cancelled, settled, ended.

usage: life.py FERRY
"""
import json
import os
import signal
import sys

import ferry

RUNNING = "running"
SLOW = ("--bandwidth", "64K")  # the least; the firmware has several hundred KiB
QUICK = ("--bandwidth", "256K")  # some seconds


def run(place, name="web"):
    place.must("run", name, "--config", place.file("vm.json", ferry.IDLE_VM))


def only_at(place, root, other, name="web"):
    """The sandbox runs in `root`, and the other host has nothing of it."""
    status = place.status(name, root=root)
    assert status["vm_state"] == RUNNING and status["owner"] == "this_side", status
    assert "session" not in status, status
    assert not os.path.exists(os.path.join(other, name)), other
    return status


def is_copying(place):
    session = place.status("web").get("session", {})
    return session.get("detail") == "S_COPYING"


def test_run_and_look(place):
    result = place.must("run", "web", "--json", "--config", place.file("vm.json", ferry.IDLE_VM))
    assert result.json()["vm_state"] == RUNNING, result
    listed = place.must("ls", "--json").json()
    assert [(entry["name"], entry["state"]) for entry in listed] == [("web", RUNNING)], listed
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
    assert "web was not started" in result.err, result
    assert os.listdir(place.a) == [], os.listdir(place.a)


def test_there_and_back(place):
    run(place)
    report = place.must("migrate", "web", "--to", place.b, "--json").json()
    assert report["outcome"] == "migrated" and report["passes"] > 0, report
    assert report["bytes"] > 0 and report["total_ms"] > report["blackout_ms"] > 0, report
    only_at(place, place.b, place.a)
    result = place.must("migrate", "web", "--to", place.a, "--handover", "caller", root=place.b)
    assert "blackout" in result.out and "done" in result.err, result
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_a_name_that_is_taken(place):
    run(place)
    place.must("run", "web", "--memory", "32", root=place.b)
    result = place.ferry("migrate", "web", "--to", place.b)
    assert result.code == 4 and "runs at the source" in result.err, result
    for root in place.a, place.b:
        assert place.status("web", root=root)["vm_state"] == RUNNING
        place.must("stop", "web", root=root)


def test_cancelled(place, number, code):
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, "--json", *SLOW)
    ferry.wait_for("the copy", lambda: is_copying(place))
    refused = place.ferry("stop", "web")
    assert refused.code == 4, refused
    mover.send_signal(number)
    out, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == code, (mover.returncode, out, err)
    assert json.loads(out)["outcome"] == "cancelled", out
    assert "web runs at the source" in err, err
    only_at(place, place.a, place.b)
    place.must("migrate", "web", "--to", place.b)
    only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def test_timeout(place):
    run(place)
    result = place.ferry("migrate", "web", "--to", place.b, "--timeout", "1", *SLOW)
    assert result.code == 5 and "--timeout" in result.err, result
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_events(place):
    run(place)
    events = place.start("events", "web", "--wait", "--json")
    place.must("migrate", "web", "--to", place.b)
    out, err = events.communicate(timeout=ferry.LIMIT)
    assert events.returncode == 0, (events.returncode, err)
    seen = [json.loads(line) for line in out.splitlines()]
    phases = [event["notification"]["phase"] for event in seen]
    changes = [phase for phase in phases if phase != "transfer_in_progress"]
    assert changes[0] == "setup_done" and changes[-1] == "done", phases
    ids = [event["message_id"] for event in seen]
    assert ids == sorted(set(ids)), ids
    place.must("stop", "web", root=place.b)


def kill_in_the_copy(place, *options):
    mover = place.start("migrate", "web", "--to", place.b, *options)
    ferry.wait_for("the copy", lambda: is_copying(place))
    mover.kill()
    mover.communicate()


def test_a_killed_caller(place):
    run(place)
    kill_in_the_copy(place, *SLOW)
    under_way = place.ferry("migrate", "web", "--to", place.b)
    assert under_way.code == 4 and "session already" in under_way.err, under_way
    result = place.ferry("settle", "web", "--to", place.b, "--cancel")
    assert result.code == 5 and "runs at the source" in result.err, result
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_settle_finds_it_moved(place):
    """The caller dies in the copy, the shims go on: what is left is to close the session."""
    run(place)
    kill_in_the_copy(place, *QUICK)
    ferry.wait_for("the other side", lambda: place.status("web")["vm_state"] == "none")
    report = place.must("settle", "web", "--to", place.b, "--json").json()
    assert report["outcome"] == "migrated" and report["blackout_ms"] > 0, report
    only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def test_settle_waits_for_its_caller(place):
    run(place)
    kill_in_the_copy(place, *QUICK, "--handover", "caller")
    ferry.wait_for("the load", lambda: place.status("web")["session"]["detail"] == "S_READY")
    result = place.ferry("settle", "web", "--to", place.b)
    assert result.code == 4 and "--cancel" in result.err, result
    result = place.ferry("settle", "web", "--to", place.b, "--cancel")
    assert result.code == 5, result
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_a_killed_destination_shim(place):
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, *SLOW)
    ferry.wait_for("the copy", lambda: is_copying(place))
    os.kill(place.status("web", root=place.b)["shim_pid"], signal.SIGKILL)
    _, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == 5, (mover.returncode, err)
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_a_hung_destination_shim(place):
    """It answers nobody: the source goes on all the same, and the rest is settled later."""
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, *SLOW)
    ferry.wait_for("the copy", lambda: is_copying(place))
    shim = place.status("web", root=place.b)["shim_pid"]
    os.kill(shim, signal.SIGSTOP)
    try:
        mover.send_signal(signal.SIGINT)
        ferry.wait_for("the rollback", lambda: not is_copying(place))
        assert place.status("web")["vm_state"] == RUNNING
        _, err = mover.communicate(timeout=ferry.LIMIT * 3)
    finally:
        os.kill(shim, signal.SIGCONT)
    assert mover.returncode == 130, (mover.returncode, err)
    assert "web runs at the source" in err and "not all was cleared away" in err, err
    result = place.ferry("settle", "web", "--to", place.b)
    assert result.code == 5, result
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_a_shim_killed_in_the_handover(place):
    """The source has handed over, the destination's shim dies before it hears of it. The caller
    starts that shim again and brings it the source's record: the guest goes on there."""
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, "--handover", "caller", *QUICK)
    ferry.wait_for("the copy", lambda: is_copying(place))
    mover.send_signal(signal.SIGSTOP)
    ferry.wait_for("READY", lambda: place.status("web")["session"]["detail"] == "S_READY")
    destination = place.status("web", root=place.b)
    os.kill(destination["shim_pid"], signal.SIGSTOP)
    mover.send_signal(signal.SIGCONT)
    ferry.wait_for("GO", lambda: place.status("web")["session"]["detail"] == "S_HANDED")
    os.kill(destination["shim_pid"], signal.SIGKILL)
    _, err = mover.communicate(timeout=ferry.LIMIT * 2)
    assert mover.returncode == 0 and "had been handed over" in err, (mover.returncode, err)
    assert only_at(place, place.b, place.a)["qemu_pid"] == destination["qemu_pid"]
    place.must("stop", "web", root=place.b)


def test_another_sandbox_of_that_name(place):
    """settle keeps its hands off a sandbox that has no part in the session."""
    run(place)
    kill_in_the_copy(place, *SLOW)
    other = os.path.join(place.folder, "c")
    place.must("run", "web", "--memory", "32", root=other)
    result = place.ferry("settle", "web", "--to", other, "--cancel")
    assert result.code == 5, result
    assert place.status("web", root=other)["vm_state"] == RUNNING
    place.must("stop", "web", root=other)
    assert place.ferry("settle", "web", "--to", place.b).code == 5
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_a_killed_shim(place):
    run(place)
    before = place.status("web")
    os.kill(before["shim_pid"], signal.SIGKILL)
    ferry.wait_for("its end", lambda: place.must("ls", "--json").json()[0]["state"] == "no shim")
    result = place.ferry("status", "web")
    assert result.code == 4 and "recover" in result.err, result
    place.must("recover", "web")
    ferry.wait_for("the VM", lambda: place.status("web")["vm_state"] == RUNNING)
    after = place.status("web")
    assert after["qemu_pid"] == before["qemu_pid"] and after["shim_pid"] != before["shim_pid"], after
    place.must("stop", "web")
    assert os.listdir(place.a) == [], os.listdir(place.a)


def main():
    ferry.need_qemu()
    tests = [
        ("run, ls, status, stop", test_run_and_look),
        ("run without a file", test_run_without_a_file),
        ("a failed start leaves nothing", test_a_failed_start_leaves_nothing),
        ("there and back", test_there_and_back),
        ("a name that is taken", test_a_name_that_is_taken),
        ("Ctrl-C", lambda place: test_cancelled(place, signal.SIGINT, 130)),
        ("SIGTERM", lambda place: test_cancelled(place, signal.SIGTERM, 143)),
        ("--timeout", test_timeout),
        ("events", test_events),
        ("a killed caller", test_a_killed_caller),
        ("settle finds it moved", test_settle_finds_it_moved),
        ("settle waits for its caller", test_settle_waits_for_its_caller),
        ("a killed destination shim", test_a_killed_destination_shim),
        ("a hung destination shim", test_a_hung_destination_shim),
        ("a shim killed in the handover", test_a_shim_killed_in_the_handover),
        ("another sandbox of that name", test_another_sandbox_of_that_name),
        ("a killed shim", test_a_killed_shim),
    ]

    def in_a_place(test):
        with ferry.Place(sys.argv[1]) as place:
            test(place)

    ferry.tap([(name, lambda test=test: in_a_place(test)) for name, test in tests])


main()
