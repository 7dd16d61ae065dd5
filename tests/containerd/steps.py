#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""containerd, or its client, is killed at each step of a container's life: what was begun is there
afterwards or is not, nothing is left that nobody could remove, and the same is asked for again.

usage: steps.py FERRY SHIM [FETCH FOLDER SUITE]

With FERRY_TEST_ALL=1 (`./dev test --all`) at more moments of each step.
"""
import os
import subprocess
import time

import host
from pair import FOREVER, Watched

ALL = os.environ.get("FERRY_TEST_ALL") == "1"
POD = ("--label", "io.kubernetes.cri.sandbox-id=pod")

SLOW_START = """#!/bin/sh
# Does what it is called for, and is slow to say so.
out=$({shim} "$@") || exit
case "$*" in
*" start")
    touch {folder}/started
    while ! test -e {folder}/go-on; do sleep 0.02; done
    ;;
esac
printf %s "$out"
"""


def moments(first, last, few, many):
    """Seconds from `first` to `last`: so many points between them."""
    n = many if ALL else few
    return [first + (last - first) * i / (n - 1) for i in range(n)]


def runs_qemu(place):
    return subprocess.run(["pgrep", "-f", f"qemu-system.* -kernel {place.guest}/"], stdout=subprocess.DEVNULL,
                          check=False).returncode == 0


def wait_clean(place):
    host.wait_for("nothing left", lambda: not place.sandboxes() and not runs_qemu(place))
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        left = [line for line in mounts if f" {place.root}" in line or f" {place.folder}/state" in line]
    assert not left, left


def is_removed(place, name):
    """Tries; a Delete that nobody waits for any more may be under way."""
    if host.state(place, name) is not None:
        place.ctr("task", "delete", "-f", name)
    place.ctr("container", "delete", name)
    place.ctr("snapshot", "rm", name)
    return host.state(place, name) is None and name not in place.must("container", "ls", "-q").out.split()


def settle(place, name):
    """As a user who looks at what there is, removes it, and tries again."""
    host.wait_for(f"{name} is removed", lambda: is_removed(place, name))
    wait_clean(place)
    result = host.run(place, name, "echo", "again")
    assert (result.code, result.out) == (0, "again\n"), result
    wait_clean(place)


def begin(place, *arguments):
    return subprocess.Popen(place.argv(*arguments), env=place.environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def run_detached(place, name, *flags):
    return begin(place, "run", "-d", "--runtime", host.RUNTIME, *flags, host.IMAGE, name, "sh", "-c", FOREVER)


def kill_containerd_in(place, client, seconds):
    """So long after the client began, or when it has ended."""
    try:
        client.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    place.kill()
    client.communicate()
    place.start()


def test_a_client_killed_in_create(place):
    """Ctrl-C while the VM boots: containerd gives its Create up."""
    client = run_detached(place, "a1")
    host.wait_for("its VM", lambda: runs_qemu(place))
    client.kill()
    client.communicate()
    wait_clean(place)
    settle(place, "a1")


def test_killed_before_create(place):
    """There is a shim, with a VM, that was never asked for a container."""
    folder = os.path.join(place.folder, "slow")
    os.mkdir(folder)
    wrapper = place.write("slow/containerd-shim-ferry-v2", SLOW_START.format(shim=place.shim, folder=folder))
    os.chmod(wrapper, 0o755)
    before = place.environment["PATH"]
    place.stop()
    place.environment["PATH"] = f"{folder}:{before}"
    place.start()
    client = run_detached(place, "a2")
    host.wait_for("its shim", lambda: os.path.exists(f"{folder}/started"))
    place.kill()
    client.communicate()
    open(f"{folder}/go-on", "wb").close()
    assert place.sandboxes()
    place.environment["PATH"] = before
    place.start()
    assert host.state(place, "a2") is None
    wait_clean(place)
    settle(place, "a2")


def test_killed_in_create_or_start(place):
    for seconds in moments(0.1, 5, 3, 20):
        kill_containerd_in(place, run_detached(place, "a3"), seconds)
        seen = host.state(place, "a3")
        print(f"# after {seconds:.2f} s: {seen}")
        assert seen in (None, "CREATED", "RUNNING"), seen
        if seen == "RUNNING":
            result = place.must("task", "exec", "--exec-id", "e1", "a3", "echo", "well")
            assert result.out == "well\n", result
        settle(place, "a3")


def test_killed_in_exec(place):
    """The container's other execs do not notice; the next of its id may be there already."""
    host.start(place, "a4", FOREVER)
    for number, seconds in enumerate(moments(0, 0.4, 4, 20)):
        client = begin(place, "task", "exec", "--exec-id", f"e{number}", "a4", "sh", "-c", "sleep 1; echo x")
        kill_containerd_in(place, client, seconds)
        assert host.state(place, "a4") == "RUNNING"
        result = place.must("task", "exec", "--exec-id", f"after{number}", "a4", "echo", "well")
        assert result.out == "well\n", result
    host.remove(place, "a4")
    wait_clean(place)
    settle(place, "a4")


def test_killed_in_wait(place):
    """It ends while nobody is there to hear of it."""
    host.start(place, "a5", "while ! test -e /go; do sleep 0.05; done; exit 7")
    client = begin(place, "task", "attach", "a5")
    time.sleep(0.3)
    assert client.poll() is None
    go = begin(place, "task", "exec", "--exec-id", "go", "a5", "touch", "/go")
    go.wait(host.LIMIT)
    place.kill()
    client.communicate()
    place.start()
    host.wait_for("its end", lambda: host.state(place, "a5") == "STOPPED")
    result = place.ctr("task", "delete", "a5")
    assert "non-zero exit code 7" in result.err, result
    place.must("container", "delete", "a5")
    wait_clean(place)


def test_killed_in_kill_and_delete(place):
    for seconds in moments(0, 0.5, 3, 15):
        host.start(place, "a6", FOREVER)
        kill_containerd_in(place, begin(place, "task", "delete", "-f", "a6"), seconds)
        settle(place, "a6")


def test_killed_while_a_pod_gets_another(place):
    """The pod runs on, and its VM has room for the one that was not finished."""
    run = ("run", "-d", "--runtime", host.RUNTIME, *POD, host.IMAGE)
    place.must(*run, "pod", "sh", "-c", FOREVER)
    for seconds in moments(0.05, 1, 3, 12):
        kill_containerd_in(place, run_detached(place, "app", *POD), seconds)
        assert host.state(place, "pod") == "RUNNING"
        seen = host.state(place, "app")
        print(f"# after {seconds:.2f} s: {seen}")
        host.wait_for("app is removed", lambda: is_removed(place, "app"))
        place.must(*run, "app", "sh", "-c", FOREVER)
        result = place.must("task", "exec", "--exec-id", "e1", "app", "echo", "in the pod")
        assert result.out == "in the pod\n", result
        assert len(place.sandboxes()) == 1
        host.remove(place, "app")
    host.remove(place, "pod")
    wait_clean(place)


def test_killed_between_events(place):
    """What could not be told is told to the next containerd."""
    host.start(place, "a7", "while ! test -e /go; do sleep 0.05; done; sleep 1; exit 3")
    place.must("task", "exec", "--exec-id", "go", "a7", "touch", "/go")
    place.kill()
    time.sleep(1.5)
    place.start()
    events = Watched(place, "events")
    events.wait_for('"exit_status":3')
    events.kill()
    place.ctr("task", "delete", "a7")
    place.must("container", "delete", "a7")
    wait_clean(place)


if __name__ == "__main__":
    host.main(globals())
