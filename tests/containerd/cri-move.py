#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Pods of the CRI plugin with `sandboxer = "shim"` move from one containerd to another.

usage: cri-move.py FERRY SHIM FETCH FOLDER SUITE
"""
import os
import signal
import subprocess
import sys

import host
import pods
from pair import Pair
from podmove import SESSION, Mover, check_unharmed, recover, start_one, there_and_back


def test_three_containers_there_and_back(here, there):
    there_and_back(here, there, Mover.make_pod)


def test_nobody_makes_the_pod(here, there):
    cri, pod, container = start_one(here)
    mover = Mover(here, there, pod)
    mover.wait_for("waiting for a pod")
    mover.process.send_signal(signal.SIGINT)
    assert mover.end() == 130, mover.said
    mover = Mover(here, there, pod, "--timeout", "1")
    assert mover.end() != 0 and "not within the time" in mover.said, mover.said
    check_unharmed(here, cri, pod, container)


def test_nobody_makes_its_containers(here, there):
    cri, pod, container = start_one(here)
    mover = Mover(here, there, pod)
    new = mover.make_pod()
    mover.wait_for("waiting for its containers")
    mover.process.send_signal(signal.SIGINT)
    assert mover.end() == 130, mover.said
    other = pods.Cri(there.socket)
    host.wait_for("its end", lambda: not other.pod_is_ready(new))
    other.remove_pod(new)
    host.wait_for("nothing left", lambda: not there.sandboxes())
    check_unharmed(here, cri, pod, container)


def test_a_mover_that_is_killed(here, there):
    """From either side it is known what the sandbox is called on the other."""
    for number, asked in enumerate((here, there)):
        cri, pod, container = start_one(here)
        mover = Mover(here, there, pod, "--bandwidth", "1M")
        new = mover.make_pod()
        mover.wait_for("waiting for its containers")
        if number == 1:
            mover.make(new, "web", container)
            mover.wait_for("pass 1")
        mover.process.kill()
        mover.process.wait()
        recover(asked, asked.sandboxes()[0])
        other = pods.Cri(there.socket)
        host.wait_for("its end", lambda at=other, one=new: not at.pod_is_ready(one))
        other.remove_pod(new)
        host.wait_for("nothing left", lambda: not there.sandboxes())
        check_unharmed(here, cri, pod, container)


def test_a_pod_for_which_nobody_comes(here, there):
    cri = pods.Cri(there.socket)
    pod = cri.run_pod(there, **{SESSION: "one"})
    name, = there.sandboxes()
    assert not os.path.exists(os.path.join(there.root, name, "qemu.json"))
    assert cri.pod_is_ready(pod)
    source, source_pod, container = start_one(here)
    mover = Mover(here, there, source_pod, "--timeout", "3")
    assert mover.end() != 0 and "not within the time" in mover.said, mover.said
    check_unharmed(here, source, source_pod, container)
    cri.remove_pod(pod)
    host.wait_for("nothing left", lambda: not there.sandboxes())


def test_an_annotation_that_is_none(here, there):
    cri = pods.Cri(there.socket)
    try:
        cri.run_pod(there, **{SESSION: "no/session"})
        raise AssertionError("it was taken")
    except pods.grpc.RpcError as error:
        assert "no session's id" in error.details(), error
    host.wait_for("nothing left", lambda: not there.sandboxes())


def test_a_pod_is_not_moved_without_its_makers(here, there):
    cri, pod, container = start_one(here)
    done = subprocess.run([here.ferry, "--root", here.root, "migrate", container, "--to",
                           there.root], env=here.environment, text=True, stderr=subprocess.PIPE,
                          check=False)
    assert done.returncode == 4 and "--await-pod" in done.stderr, done
    check_unharmed(here, cri, pod, container)


def main():
    with Pair(*sys.argv[1:3], host.fetch(*sys.argv[3:]), pods.prepare) as (here, there):
        failed = host.run_tests(globals(), here, there)
    sys.exit(failed)


main()
