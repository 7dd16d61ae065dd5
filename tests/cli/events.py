#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What `ferry events` prints of a migration, as JSON and as text.

usage: events.py FERRY
"""
import json
import re
import signal
import sys
import time

import ferry

CANCELLED, ABORTED = 1, 10  # gRPC's
FIGURES = {
    "bytes_total", "bytes_sent", "bytes_remaining", "pass", "dirty_bytes_per_second",
    "bytes_per_second", "throttle_percentage", "downtime_limit_ms", "expected_blackout_ms",
}


def follow(place, root=None):
    return place.start("events", "web", "--json", root=root)


def read_until(events, phase):
    """The messages up to the first of that phase."""
    seen = []
    while not seen or seen[-1]["notification"]["phase"] != phase:
        line = events.stdout.readline()
        assert line, (seen, events.communicate())
        seen.append(json.loads(line))
    return seen


def rest_of(process):
    """To its end; communicate() would pass by what readline() has read ahead."""
    lines = process.stdout.read().splitlines()
    assert process.wait(timeout=ferry.LIMIT) == 0, process.stderr.read()
    return lines


def read_on(events):
    return [json.loads(line) for line in rest_of(events)]


def check_messages(seen, origin):
    ids = [message["message_id"] for message in seen]
    assert ids == sorted(set(ids)) and ids[0] == 1, ids
    times = [message["update_time"] for message in seen]
    assert times == sorted(times) and times[-1] <= time.time() * 1e6, times
    started = {message["start_time"] for message in seen}
    assert len(started) == 1 and 0 < started.pop() <= times[0], seen
    for message in seen:
        told = message["notification"]
        assert told["origin"] == origin, message
        assert ("progress" in told) == (told["phase"] == "transfer_in_progress"), message
        assert ("blackout_exited" in told) == (told["phase"] == "blackout_exited"), message
        assert isinstance(told["reason"], str) and isinstance(told["code"], int), message
        if told["state"] == "success" and told["phase"] != "setup_done":  # which may have a notice
            assert (told["reason"], told["code"]) == ("", 0), message


def check_progress(seen):
    figures = [message["notification"]["progress"] for message in seen
               if "progress" in message["notification"]]
    assert figures, seen
    for now in figures:
        assert set(now) == FIGURES, now
        assert all(isinstance(value, int) and value >= 0 for value in now.values()), now
        assert now["bytes_remaining"] <= now["bytes_total"] >= 32 * 2**20, now
        assert now["pass"] >= 1 and now["throttle_percentage"] < 100, now
        assert now["downtime_limit_ms"] >= 1, now
    for before, now in zip(figures, figures[1:]):
        assert before["bytes_sent"] <= now["bytes_sent"] and before["pass"] <= now["pass"], (before, now)


def phases(seen):
    return [f'{message["notification"]["phase"]}/{message["notification"]["state"]}'
            for message in seen if message["notification"]["phase"] != "transfer_in_progress"]


def test_a_move(place):
    """The caller is held where the guest stands, so that who comes then still finds a session."""
    ferry.run(place)
    mover = place.start("migrate", "web", "--to", place.b, "--handover", "caller", *ferry.QUICK)
    ferry.wait_for("the copy", lambda: ferry.is_copying(place))
    source, destination = follow(place), follow(place, root=place.b)
    mover.send_signal(signal.SIGSTOP)
    at_source = read_until(source, "done")
    at_destination = read_until(destination, "done")
    text = place.start("events", "web")
    first = text.stdout.readline()
    mover.send_signal(signal.SIGCONT)
    _, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == 0, err
    at_source += read_on(source)
    at_destination += read_on(destination)
    lines = [first.rstrip(), *rest_of(text)]

    check_messages(at_source, "source")
    check_progress(at_source)
    check_messages(at_destination, "destination")
    changes = phases(at_source)
    assert changes == ["setup_done/success", "blackout_started/success", "offline_done/success",
                       "done/success", "blackout_exited/success"], changes
    changes = phases(at_destination)
    assert changes == ["setup_done/success", "done/success", "blackout_exited/success"], changes
    blackout = at_destination[-1]["notification"]["blackout_exited"]
    exact = blackout["blackout_duration_microseconds"]
    assert 0 < exact <= 1000 * blackout["blackout_duration_milliseconds"] < exact + 1000, blackout
    assert blackout["blackout_stop_timestamp"] < at_destination[-1]["update_time"], blackout
    assert "setup_done/success" in lines[0] and "blackout_exited/success  blackout " in lines[-1], lines
    assert any(re.search(r"/success  pass \d+  .* sent  .* left$", line) for line in lines), lines
    ferry.only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def test_a_cancel(place):
    ferry.run(place)
    mover = place.start("migrate", "web", "--to", place.b, *ferry.SLOW)
    ferry.wait_for("the copy", lambda: ferry.is_copying(place))
    events, text = follow(place), place.start("events", "web")
    seen = read_until(events, "transfer_in_progress")
    assert "setup_done/success" in text.stdout.readline()
    mover.send_signal(signal.SIGINT)
    mover.communicate(timeout=ferry.LIMIT)
    seen += read_on(events)

    check_messages(seen, "source")
    check_progress(seen)
    changes = phases(seen)
    assert changes == ["setup_done/success", "failed/cancelled", "recovery_done/success"], changes
    failed, = (message["notification"] for message in seen
               if message["notification"]["phase"] == "failed")
    assert (failed["code"], failed["reason"]) == (CANCELLED, "cancelled"), failed
    line, = (line for line in rest_of(text) if "failed/" in line)
    assert line.endswith("failed/cancelled  cancelled"), line
    ferry.only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_a_failure(place):
    """Its reason is for a person, its code for a program."""
    ferry.run(place)
    mover = place.start("migrate", "web", "--to", place.b, *ferry.SLOW)
    ferry.wait_for("the copy", lambda: ferry.is_copying(place))
    events = follow(place)
    seen = read_until(events, "transfer_in_progress")
    mover.send_signal(signal.SIGSTOP)  # it would cancel the source once it knew
    ferry.kill(place.status("web", root=place.b)["qemu_pid"])
    seen += read_until(events, "recovery_done")
    mover.send_signal(signal.SIGCONT)
    mover.communicate(timeout=ferry.LIMIT)
    seen += read_on(events)

    check_messages(seen, "source")
    changes = phases(seen)
    assert changes == ["setup_done/success", "failed/source_failed", "recovery_done/success"], changes
    failed, = (message["notification"] for message in seen
               if message["notification"]["phase"] == "failed")
    assert failed["code"] == ABORTED, failed
    assert failed["reason"].startswith("QEMU's migration failed"), failed
    ferry.only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_from_before_the_session(place):
    """Whoever waits for it has all of it."""
    ferry.run(place)
    events = place.start("events", "web", "--wait", "--json")
    mover = place.start("migrate", "web", "--to", place.b, *ferry.SLOW)
    seen = read_until(events, "setup_done")
    mover.send_signal(signal.SIGINT)
    mover.communicate(timeout=ferry.LIMIT)
    seen += read_on(events)
    check_messages(seen, "source")
    assert phases(seen)[-1] == "recovery_done/success", seen
    place.must("stop", "web")


def main():
    ferry.need_qemu()
    tests = [
        ("of a move", test_a_move),
        ("of a cancel", test_a_cancel),
        ("of a failure", test_a_failure),
        ("from before the session", test_from_before_the_session),
    ]

    def in_a_place(test):
        with ferry.Place(sys.argv[1]) as place:
            test(place)

    ferry.tap([(name, lambda test=test: in_a_place(test)) for name, test in tests])


main()
