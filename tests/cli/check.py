#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`ferry check`: can it go, every reason why not, what it would be like; and that it looks only.

usage: check.py FERRY TINY-GUEST
"""
import os
import sys

import ferry

PAGE = 4096


def tiny(place, rate, wss):
    """A guest that writes `rate` pages a second, one after the other, over `wss` pages."""
    config = {**ferry.IDLE_VM, "memory_mb": 96, "kernel": os.path.abspath(sys.argv[2]),
              "cmdline": f"rate={rate} wss={wss}"}
    place.must("run", "web", "--config", place.file("vm.json", config))
    log = os.path.join(place.a, "web", "console.log")

    def is_writing():
        with open(log, encoding="utf-8", errors="replace") as console:
            return "H 3 " in console.read()

    ferry.wait_for("the guest", is_writing)


def reasons(answer):
    return [(entry["where"], entry["reason"]) for entry in answer["reasons"]]


def test_it_can_go(place):
    tiny(place, 1000, 4096)
    before = place.status("web")
    result = place.must("check", "web", "--to", place.b, "--bandwidth", "50M", "--json")
    answer = result.json()
    assert answer["can_go"] and answer["reasons"] == [], answer
    found = answer["prediction"]
    # a guest that stands for lack of time writes less, never more
    assert 0 < found["dirty_bytes_per_second"] < 1000 * PAGE * 1.6, found
    assert 4096 * PAGE * 0.7 < found["filled_bytes"] < 4096 * PAGE * 1.4, found
    assert found["passes"] > 0 and found["bytes"] > 4096 * PAGE * 0.7, found
    assert found["bytes_per_second"] > 0 and found["blackout_usec"] > 0, found

    # it has only looked
    after = place.status("web")
    assert after.pop("prediction")["made_usec"] == found["made_usec"], after
    assert after == before, (before, after)
    assert not os.path.exists(os.path.join(place.b, "web"))

    text = place.must("check", "web", "--to", place.b).out
    assert "web can go to host" in text and "predicted" in text, text
    moved = place.must("migrate", "web", "--check", "--to", place.b, "--json").json()
    assert moved["outcome"] == "migrated" and moved["predicted"]["passes"] > 0, moved
    text = place.must("migrate", "web", "--to", place.a, root=place.b).out
    assert "predicted" not in text, text  # nobody had asked this shim
    place.must("check", "web", "--to", place.b)
    text = place.must("migrate", "web", "--to", place.b).out
    assert "predicted" in text and "ago" in text, text
    place.must("stop", "web", root=place.b)


def test_a_hot_set_is_told_from_a_stream(place):
    """Written without rest: the set's size is what counts, and that it does not converge."""
    tiny(place, "max", 2048)
    answer = place.must("check", "web", "--to", place.b, "--bandwidth", "4M", "--json").json()
    hot = answer["prediction"]["hot_bytes"]
    assert 2048 * PAGE * 0.6 < hot < 2048 * PAGE * 1.6, answer
    place.must("stop", "web")


def test_every_reason_is_told(place):
    ferry.run(place)
    place.must("host", "set", "--name", "b", "--qemu", "/bin/false", root=place.b)
    os.makedirs(os.path.join(place.b, "web"))
    with open(os.path.join(place.b, "web", "config.json"), "w", encoding="utf-8") as config:
        config.write("{}")
    result = place.ferry("check", "web", "--to", place.b, "--postcopy", "always",
                         "--verify-memory", "--json")
    assert result.code == 4, result
    told = reasons(result.json())
    for where, words in ("source", "postcopy"), ("target", "sandbox of that name"), \
            ("target", "does not start such a VM"):
        assert any(where == w and words in text for w, text in told), (where, words, told)
    before = place.snapshot()
    result = place.ferry("migrate", "web", "--check", "--to", place.b)
    assert result.code == 4 and "cannot go" in result.err, result
    assert "session" not in place.status("web")
    assert place.snapshot() == before
    place.must("stop", "web")
    os.remove(os.path.join(place.b, "web", "config.json"))


def test_files_and_disks(place):
    disk = place.file("disk", "\0" * (1 << 20))
    config = {**ferry.IDLE_VM, "disks": [{"path": disk}]}
    place.must("run", "web", "--config", place.file("vm.json", config))
    result = place.ferry("check", "web", "--to", place.b, "--json")
    assert result.code == 4, result
    assert any("not below this host's disk root (none)" in text
               for _, text in reasons(result.json())), result
    place.must("host", "set", "--name", "b", "--disk-root", place.folder, root=place.b)
    assert place.ferry("check", "web", "--to", place.b).code == 0
    place.must("stop", "web")


def test_where_it_is_not(place):
    ferry.run(place)
    for arguments, code in (("check", "web"), 2), (("check", "web", "--to", "b"), 2), \
            (("check", "nosuch", "--to", place.b), 3), (("check", "web", "--to", place.a), 4):
        result = place.ferry(*arguments)
        assert result.code == code, result
    mover = place.start("migrate", "web", "--to", place.b, *ferry.SLOW)
    ferry.wait_for("the copy", lambda: ferry.is_copying(place))
    result = place.ferry("check", "web", "--to", place.b, "--json")
    assert result.code == 4, result
    assert any("is open (Transferring)" in text for _, text in reasons(result.json())), result
    mover.terminate()
    mover.communicate(timeout=ferry.LIMIT)
    place.must("stop", "web")


def main():
    ferry.need_qemu()
    tests = [
        ("it can go", test_it_can_go),
        ("a hot set is told from a stream", test_a_hot_set_is_told_from_a_stream),
        ("every reason is told", test_every_reason_is_told),
        ("files and disks", test_files_and_disks),
        ("where it is not", test_where_it_is_not),
    ]

    def in_a_place(test):
        with ferry.Place(sys.argv[1]) as place:
            test(place)

    ferry.tap([(name, lambda test=test: in_a_place(test)) for name, test in tests])


main()
