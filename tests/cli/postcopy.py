#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`ferry migrate --postcopy`: what it tells, and what it does when a shim or it itself ends while the
guest's memory follows.

usage: postcopy.py FERRY TINY-GUEST
"""
import os
import signal
import sys

import ferry
from ferry import kill, only_at

DONE, UNDECIDED = 0, 6
HOT = ("--postcopy", "always", "--bandwidth", "16M")  # the guest writes more
SLOW = ("--postcopy", "always", "--bandwidth", "1M")  # 8 MB, twice


def run(place, tiny):
    place.must("run", "web", "--config", place.file("vm.json", {
        "memory_mb": 128, "vcpus": 1, "accelerator": "tcg", "kernel": tiny,
        "cmdline": "rate=20000 wss=2048 hb=50"}))


def phases(trace):
    return [phase["name"] for phase in trace["phases"]]


def test_it_moves(place, tiny):
    run(place, tiny)
    check = "check", "web", "--to", place.b, *SLOW
    assert place.must(*check, "--json").json()["prediction"]["postcopy"]
    assert "then post-copy" in place.must(*check).out
    result = place.must("migrate", "web", "--to", place.b, *HOT, "--json").json()
    assert result["outcome"] == "migrated" and result["runs_at"], result
    for side in "source", "destination":
        assert "post-copy" in phases(result["trace"][side]), result["trace"][side]
    only_at(place, place.b, place.a)
    result = place.must("migrate", "web", "--to", place.a, "--postcopy", "never", "--json",
                        root=place.b).json()
    assert "post-copy" not in phases(result["trace"]["source"]), result
    only_at(place, place.a, place.b)
    refused = place.ferry("migrate", "web", "--to", place.b, *HOT, "--verify-memory")
    assert refused.code != DONE and "postcopy" in refused.err, refused
    place.must("stop", "web")


def start_to_follow(place, tiny):
    """The guest runs at the destination, and its memory is on the way."""
    run(place, tiny)
    mover = place.start("migrate", "web", "--to", place.b, *SLOW)
    ferry.wait_for("the guest at the destination", lambda:
                   os.path.exists(os.path.join(place.b, "web", "shim.sock")) and
                   ferry.detail(place, place.b) == "D_FETCHING")
    return mover


def test_a_shim_is_killed(place, tiny, side):
    mover = start_to_follow(place, tiny)
    kill(place.status("web", root=place.a if side == "source" else place.b)["shim_pid"])
    _, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == DONE, err
    only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def test_it_is_killed_and_both_shims(place, tiny):
    mover = start_to_follow(place, tiny)
    mover.kill()
    mover.communicate()
    kill(place.status("web")["shim_pid"], place.status("web", root=place.b)["shim_pid"])
    result = place.ferry("recover", "web")
    assert result.code == DONE, result
    only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def test_ctrl_c(place, tiny):
    mover = start_to_follow(place, tiny)
    mover.send_signal(signal.SIGINT)
    _, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode in (DONE, UNDECIDED), err
    if mover.returncode == UNDECIDED:
        assert "memory is still on the way" in err, err
        place.must("recover", "web")
    only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    ferry.need_qemu()
    tiny = os.path.abspath(sys.argv[2])

    def case(name, function, *arguments):
        def in_a_place_of_its_own():
            with ferry.Place(sys.argv[1]) as place:
                function(place, tiny, *arguments)
        return name, in_a_place_of_its_own

    ferry.tap([
        case("it moves, and says so before and after", test_it_moves),
        case("the source's shim is killed", test_a_shim_is_killed, "source"),
        case("the destination's shim is killed", test_a_shim_is_killed, "destination"),
        case("it is killed, and both shims", test_it_is_killed_and_both_shims),
        case("Ctrl-C", test_ctrl_c),
    ])


main()
