#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of a real containerd in VMs whose agent turns bad: containerd stays able to look at them,
to move them, and to be rid of them.

usage: hostile.py FERRY SHIM FOLDER      FOLDER has the bad agent, as `ferry image build` wants it
"""
import os
import re
import subprocess
import sys
import time

import host
from pair import FOREVER, Pair, Watched, ferry, move, wait_clean
from ttrpc import Client

RUNNING = 2  # containerd's
STATE_LIMIT = 2  # what containerd waits for a shim's State when it starts again
GROWTH_LIMIT = 16 << 20


def console(place):
    sandbox, = place.sandboxes()
    with open(os.path.join(place.root, sandbox, "console.log"), encoding="utf-8", errors="replace") as file:
        return file.read()


def log(place):
    sandbox, = place.sandboxes()
    with open(os.path.join(place.root, sandbox, "shim.log"), encoding="utf-8", errors="replace") as file:
        return file.read()


def turn_bad(place, name, order, script=FOREVER):
    """A container whose agent does `order` from now on."""
    host.start(place, name, script)
    process = subprocess.Popen(place.argv("task", "exec", "--exec-id", "order", name, "sh", "-c",
                                          f"echo {order} >/hostile"), env=place.environment,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    host.wait_for("its order", lambda: f"hostile: {order}" in console(place))
    return process


def shim_pid(place):
    sandbox, = place.sandboxes()
    with open(os.path.join(place.root, sandbox, "shim.lock"), encoding="utf-8") as file:
        return int(file.read())


def resident(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def check_states(place, name, seconds):
    """State is answered in time all the while, but for what a loaded machine does; the slowest answer."""
    sandbox, = place.sandboxes()
    shim = Client(os.path.join(place.root, sandbox, "shim.sock"), "containerd.task.v2.Task")
    took, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.monotonic()
        assert shim.call("State", (1, name))[4] == RUNNING
        took.append(time.monotonic() - begun)
        time.sleep(0.02)
    shim.socket.close()
    took.sort()
    assert took[len(took) * 9 // 10] < STATE_LIMIT, took
    return took[-1]


def end_it(place, name, order):
    """SIGKILL is carried out, by the VM's end if need be; then all of it goes."""
    place.must("task", "kill", "-s", "KILL", name)
    host.wait_for("its end", lambda: host.state(place, name) == "STOPPED")
    result = place.ctr("task", "delete", name)
    assert "exit code 137" in result.err, result
    place.must("container", "delete", name)
    wait_clean(place)
    order.wait(host.LIMIT)


def test_it_breaks_the_protocol_and_is_good_again(here, _):
    ended = Watched(here, "events")
    order = turn_bad(here, "b1", "break", "until test -e /go; do sleep 0.1; done; exit 5")
    host.wait_for("the log", lambda: "broke the protocol" in log(here))
    sandbox, = here.sandboxes()
    status = ferry(here, "--root", here.root, "status", sandbox).stdout
    assert re.search("^agent: .* dropped [12] times$", status, re.M), status
    order.wait(host.LIMIT)
    host.wait_for("another connection", lambda: here.ctr("task", "exec", "--exec-id", os.urandom(4).hex(),
                                                         "b1", "true").code == 0)
    here.must("task", "exec", "--exec-id", "go", "b1", "touch", "/go")
    host.wait_for("its end", lambda: host.state(here, "b1") == "STOPPED")
    ended.wait_for("/tasks/exit")
    ended.kill()
    result = here.ctr("task", "delete", "b1")
    assert "exit code 5" in result.err, result
    here.must("container", "delete", "b1")
    wait_clean(here)


def test_it_is_silent(here, _):
    order = turn_bad(here, "b2", "silent")
    print(f"# State within {check_states(here, 'b2', 3):.2f} s")
    begun = time.monotonic()
    end_it(here, "b2", order)
    print(f"# ended and deleted in {time.monotonic() - begun:.1f} s")


def misbehave(here, name, order):
    process = turn_bad(here, name, order)
    pid, seconds = shim_pid(here), 10
    before = resident(pid)
    slowest = check_states(here, name, seconds)
    after = resident(pid)
    print(f"# {order}: State within {slowest:.2f} s, shim {before >> 10} KiB before and {after >> 10} KiB after")
    if "asan" not in here.shim:  # which keeps what was freed
        assert after < before + GROWTH_LIMIT, (before, after)
    end_it(here, name, process)


def test_it_floods(here, _):
    misbehave(here, "b3", "flood")


def test_it_opens_its_ports_again_and_again(here, _):
    misbehave(here, "b4", "reopen")


def test_a_silent_one_moves(here, there):
    """Nothing of a move waits for the agent."""
    order = turn_bad(here, "b5", "silent")
    report = move(here, there, "b5")
    assert report["outcome"] == "migrated", report
    assert host.state(there, "b5") == "RUNNING"
    wait_clean(here)
    order.wait(host.LIMIT)
    end_it(there, "b5", order)


def test_a_flooding_one_moves_or_stays(here, there):
    order = turn_bad(here, "b6", "flood")
    done = ferry(here, "--root", here.root, "migrate", "b6", "--to", there.root, "--timeout", "60",
                 check=False)
    place, other = (there, here) if done.returncode == 0 else (here, there)
    print(f"# {'moved' if place is there else 'stayed: ' + done.stderr.strip()}")
    assert host.state(place, "b6") == "RUNNING"
    if other is there and host.state(there, "b6") is not None:
        there.ctr("task", "delete", "-f", "b6")
        there.must("container", "delete", "b6")
    end_it(place, "b6", order)
    wait_clean(other)




def build(place, folder):
    if place.has_guest:
        return
    built = subprocess.run([place.ferry, "image", "build", "--containers", "--agent-dir", folder, "--output",
                            place.guest], text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, check=False)
    if built.returncode != 0 and os.environ.get("CI") != "true":
        print(f"1..0 # SKIP {built.stderr.splitlines()[0]}")
        sys.exit(0)
    assert built.returncode == 0, built.stderr
    place.has_guest = True


def main():
    programs, folder = sys.argv[1:3], sys.argv[3]
    with Pair(*programs, prepare=lambda place: build(place, folder)) as (here, there):
        failed = host.run_tests(globals(), here, there)
    sys.exit(failed)


main()
