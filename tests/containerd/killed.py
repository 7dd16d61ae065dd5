#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""containerd is killed around and in the move of a container; a container runs out of memory or disk.

usage: killed.py FERRY SHIM [FETCH FOLDER SUITE]
"""
import json
import os
import re
import subprocess
import sys

import host
from pair import FOREVER, Pair, Watched, ferry, introduce, move, move_slowly, wait_clean


def kill_containerd(*places):
    """And another begins, which knows what the killed one has written and asks the shims."""
    for place in places:
        place.kill()
    for place in places:
        place.start()


def qemus(place):
    """Of its sandboxes, those that live."""
    found = []
    for name in place.sandboxes():
        try:
            with open(os.path.join(place.root, name, "qemu.json"), encoding="utf-8") as file:
                found.append(json.load(file)["pid"])
        except FileNotFoundError:
            pass
    return [pid for pid in found if host.runs(pid)]


def execute(place, name, script):
    return place.ctr("task", "exec", "--exec-id", os.urandom(4).hex(), name, "sh", "-c", script)


def check_only_at(place, other, name):
    """It runs at `place`, and there alone."""
    host.wait_for("one QEMU", lambda: len(qemus(place)) == 1 and not qemus(other))
    assert host.state(place, name) == "RUNNING"
    assert host.state(other, name) in ("STOPPED", None), host.state(other, name)
    result = execute(place, name, "echo well")
    assert (result.code, result.out) == (0, "well\n"), result


def clear(place, name):
    """What has been left of it for whoever made it."""
    if host.state(place, name) is not None:
        place.ctr("task", "delete", "-f", name)
    place.ctr("container", "delete", name)
    wait_clean(place)


def remove_everywhere(place, other, name):
    host.remove(place, name)
    wait_clean(place)
    clear(other, name)


def test_containerd_killed_before_a_move(here, there):
    host.start(here, "k1", FOREVER)
    kill_containerd(here, there)
    check_only_at(here, there, "k1")
    move(here, there, "k1")
    check_only_at(there, here, "k1")
    remove_everywhere(there, here, "k1")


def kill_in_the_copy(here, there, name, victim):
    """Whatever the move comes to."""
    host.start(here, name, FOREVER)
    mover = move_slowly(here, there, name)
    kill_containerd(victim)
    assert mover.poll() is None, "the copy was over before"
    mover.terminate()
    _, errors = mover.communicate(timeout=host.LIMIT)
    assert mover.returncode != 0, errors
    check_only_at(here, there, name)
    clear(there, name)
    move(here, there, name)
    check_only_at(there, here, name)
    remove_everywhere(there, here, name)


def test_containerd_killed_at_the_source_in_the_copy_that_is_cancelled(here, there):
    kill_in_the_copy(here, there, "k2", here)


def test_containerd_killed_at_the_destination_in_the_copy_that_is_cancelled(here, there):
    kill_in_the_copy(here, there, "k3", there)


def test_containerd_killed_after_a_move(here, there):
    host.start(here, "k4", FOREVER)
    move(here, there, "k4")
    kill_containerd(here, there)
    check_only_at(there, here, "k4")
    kill_containerd(there)
    move(there, here, "k4")
    check_only_at(here, there, "k4")
    remove_everywhere(here, there, "k4")


def start_two(place, name):
    """A pod, of `name` and another; what one of them has in memory."""
    pod = ("run", "-d", "--runtime", host.RUNTIME, "--label", f"io.kubernetes.cri.sandbox-id={name}", host.IMAGE)
    place.must(*pod, name, "sh", "-c", FOREVER)
    place.must(*pod, name + "-app", "sh", "-c", "echo kept >/tmp/note; " + FOREVER)


def check_two(place, other, name):
    check_only_at(place, other, name)
    host.wait_for("the note", lambda: execute(place, name + "-app", "cat /tmp/note").out == "kept\n")


def remove_two(place, name):
    for one in name + "-app", name:
        host.remove(place, one)
    wait_clean(place)


def begin_move(here, there, name):
    """Slow enough for its copy to be there when containerd is killed."""
    mover = subprocess.Popen([here.ferry, "--root", here.root, "migrate", name, "--to", there.root,
                              "--bandwidth", "20M"], env=here.environment, text=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for one in name, name + "-app":
        host.wait_for("its task there", lambda task=one: host.state(there, task) == "RUNNING")
    return mover


def end_move(mover):
    _, errors = mover.communicate(timeout=host.LIMIT)
    assert mover.returncode == 0, errors
    return errors


def test_killed_at_the_source_in_a_move_that_goes_on(here, there):
    start_two(here, "g1")
    mover = begin_move(here, there, "g1")
    kill_containerd(here)
    assert "not all" not in end_move(mover)
    wait_clean(here)
    check_two(there, here, "g1")
    remove_two(there, "g1")


def test_killed_at_the_destination_in_a_move_that_goes_on(here, there):
    start_two(here, "g2")
    mover = begin_move(here, there, "g2")
    kill_containerd(there)
    assert "not all" not in end_move(mover)
    wait_clean(here)
    check_two(there, here, "g2")
    remove_two(there, "g2")


def test_dead_at_the_source_when_a_move_ends(here, there):
    """It is told how the rest is removed, and again by who tries the move again."""
    start_two(here, "g3")
    mover = begin_move(here, there, "g3")
    here.kill()
    errors = end_move(mover)
    assert "not all was cleared away: containerd (" in errors, errors
    command = re.search(r"removes the rest:\n  ferry (.*)\n", errors).group(1).split()
    assert len(qemus(there)) == 1 and not qemus(here)
    done = ferry(here, *command, check=False)
    assert done.returncode == 1 and "not all was cleared away: containerd (" in done.stderr, done
    here.start()
    check_two(there, here, "g3")
    for one in "g3", "g3-app":
        assert host.state(here, one) == "STOPPED"
    done = ferry(here, "--root", here.root, "migrate", "g3", "--to", there.root, check=False)
    assert done.returncode == 3 and "g3 has moved away" in done.stderr, done
    ferry(here, *command)
    wait_clean(here)
    check_two(there, here, "g3")
    move(there, here, "g3")
    check_two(here, there, "g3")
    remove_two(here, "g3")


def test_dead_at_the_destination_when_a_move_ends(here, there):
    start_two(here, "g4")
    mover = begin_move(here, there, "g4")
    there.kill()
    assert "not all" not in end_move(mover)
    wait_clean(here)
    there.start()
    check_two(there, here, "g4")
    remove_two(there, "g4")


def test_dead_when_a_move_begins(here, there):
    """Nothing has happened, and that is said; the same command goes through afterwards."""
    start_two(here, "g5")
    for victim, code in (here, 1), (there, 5):
        victim.kill()
        done = ferry(here, "--root", here.root, "migrate", "g5", "--to", there.root, check=False)
        assert done.returncode == code and f"containerd ({victim.socket})" in done.stderr, done
        assert len(qemus(here)) == 1 and not there.sandboxes()
        victim.start()
        check_two(here, there, "g5")
    move(here, there, "g5")
    check_two(there, here, "g5")
    remove_two(there, "g5")


LIMITED = ("--memory-limit", str(24 << 20))


def test_out_of_memory(here, _):
    events = Watched(here, "events")
    result = host.run(here, "m1", "tail", "/dev/zero", flags=LIMITED)
    assert result.code == 137, result
    events.wait_for("/tasks/oom")
    events.wait_for("/tasks/delete")
    events.kill()
    wait_clean(here)


def test_out_of_memory_of_a_child_is_told_at_once(here, there):
    """And at the destination too: what was told here is not told again there."""
    eats = "for i in 1 2; do until test -e /go$i; do sleep 0.1; done; (tail /dev/zero); echo $?; done; " + FOREVER
    events = Watched(here, "events")
    here.must("run", "-d", "--runtime", host.RUNTIME, *LIMITED, host.IMAGE, "m3", "sh", "-c", eats)
    execute(here, "m3", "touch /go1")
    events.wait_for("/tasks/oom")
    assert host.state(here, "m3") == "RUNNING"
    move(here, there, "m3")
    wait_clean(here)
    assert events.text.count("/tasks/oom") == 1, events.text
    events.kill()
    events = Watched(there, "events")
    execute(there, "m3", "echo the source told of the first")
    events.wait_for("/tasks/exit")  # that exec's
    assert "/tasks/oom" not in events.text, events.text
    execute(there, "m3", "touch /go2")
    events.wait_for("/tasks/oom")
    assert host.state(there, "m3") == "RUNNING"
    host.remove(there, "m3")
    wait_clean(there)
    events.wait_for("/tasks/delete")
    events.kill()
    assert events.text.count("/tasks/oom") == 1, events.text


def test_out_of_memory_in_an_exec(here, _):
    """The largest is killed: the container's init and another exec are not."""
    here.must("run", "-d", "--runtime", host.RUNTIME, *LIMITED, host.IMAGE, "m2", "sh", "-c", FOREVER)
    other = Watched(here, "task", "exec", "--exec-id", "other", "m2", "sh", "-c",
                    "echo begun; until test -e /go; do sleep 0.1; done; echo went on; exit 6")
    other.wait_for("begun\n")
    result = execute(here, "m2", "exec tail /dev/zero")
    assert result.code == 137, result
    result = execute(here, "m2", "echo well >/go; cat /go")
    assert (result.code, result.out) == (0, "well\n"), result
    other.wait_for("went on\n")
    assert other.end() == 6
    assert host.state(here, "m2") == "RUNNING"
    host.remove(here, "m2")
    wait_clean(here)


FILL = "busybox dd if=/dev/zero of=/fill bs=64k 2>&1"


def fill_and_move(here, there, name):
    host.start(here, name, FOREVER)
    for place, target in (here, there), (there, here):
        result = execute(place, name, FILL)
        assert result.code == 1 and "No space left on device" in result.out, result
        before = execute(place, name, "busybox stat -c %s /fill; busybox md5sum /fill").out
        assert int(before.split()[0]) > 8 << 20, before
        move(place, target, name)
        check_only_at(target, place, name)
        wait_clean(place)
        seen = execute(target, name, "busybox stat -c %s /fill; busybox md5sum /fill").out
        assert seen == before, (seen, before)
        result = execute(target, name, "busybox rm /fill && busybox dd if=/dev/zero of=/anew bs=1M count=8 && "
                         "busybox stat -c %s /anew; busybox rm /anew")
        assert result.out == f"{8 << 20}\n", result
    host.remove(here, name)
    wait_clean(here)


def test_out_of_memory_to_write_to(here, there):
    fill_and_move(here, there, "f1")


def test_out_of_disk(here, there):
    disks = os.path.join(here.folder, "disks")
    for place, name, address in (here, "a", "10.9.0.1"), (there, "b", "10.9.0.2"):
        place.configure(disk_root=disks, layer_mb=64)
        introduce(place, name, address, "--disk-root", disks)
    fill_and_move(here, there, "f2")
    assert not os.listdir(disks), os.listdir(disks)
    for place in here, there:
        place.configure()


def main():
    binaries = host.fetch(*sys.argv[3:]) if len(sys.argv) > 3 else None
    with Pair(*sys.argv[1:3], binaries) as (here, there):
        failed = host.run_tests(globals(), here, there)
    sys.exit(failed)


main()
