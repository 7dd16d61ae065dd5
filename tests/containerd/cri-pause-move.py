#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The same as cri-move.py for pods that have a container of their own (`sandboxer = "podsandbox"`).

usage: cri-pause-move.py FERRY SHIM [FETCH FOLDER SUITE]
"""
import signal
import subprocess
import sys

import host
import pods
from pair import Pair
from podmove import Mover, check_unharmed, recover, start_one, there_and_back


def test_three_containers_there_and_back(here, there):
    there_and_back(here, there, Mover.make_paused_pod)


def test_nobody_makes_the_pod(here, there):
    cri, pod, container = start_one(here)
    mover = Mover(here, there, container)
    mover.wait_for("waiting for the containers")
    mover.process.send_signal(signal.SIGINT)
    assert mover.end() == 130, mover.said
    assert not there.sandboxes()
    check_unharmed(here, cri, pod, container)


def test_nobody_makes_its_containers(here, there):
    cri, pod, container = start_one(here)
    mover = Mover(here, there, pod)
    new = mover.make_paused_pod()
    mover.process.send_signal(signal.SIGINT)
    assert mover.end() == 130, mover.said
    other = pods.Cri(there.socket)
    host.wait_for("its end", lambda: not other.pod_is_ready(new))
    other.remove_pod(new)
    host.wait_for("nothing left", lambda: not there.sandboxes())
    check_unharmed(here, cri, pod, container)


def test_a_mover_that_is_killed(here, there):
    """Before the pod is made there, and after."""
    for number, asked in enumerate((here, there)):
        cri, pod, container = start_one(here)
        mover = Mover(here, there, pod)
        mover.wait_for("waiting for the containers")
        new = mover.make_paused_pod() if number == 1 else None
        mover.process.kill()
        mover.process.wait()
        recover(asked, asked.sandboxes()[0])
        if new:
            other = pods.Cri(there.socket)
            host.wait_for("its end", lambda at=other, one=new: not at.pod_is_ready(one))
            other.remove_pod(new)
        host.wait_for("nothing left", lambda: not there.sandboxes())
        check_unharmed(here, cri, pod, container)


def test_it_is_not_moved_without_its_makers(here, there):
    cri, pod, container = start_one(here)
    done = subprocess.run([here.ferry, "--root", here.root, "migrate", container, "--to",
                           there.root], env=here.environment, text=True, stderr=subprocess.PIPE,
                          check=False)
    assert done.returncode == 4 and "--await-pod" in done.stderr, done
    check_unharmed(here, cri, pod, container)


def main():
    binaries = host.fetch(*sys.argv[3:]) if len(sys.argv) > 3 else None
    with Pair(*sys.argv[1:3], binaries, pods.prepare_paused) as (here, there):
        failed = host.run_tests(globals(), here, there)
    sys.exit(failed)


main()
