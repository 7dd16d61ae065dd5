#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Pods of the CRI plugin with `sandboxer = "shim"` move from one containerd to another.

usage: cri-move.py FERRY SHIM FETCH FOLDER SUITE
"""
import os
import re
import signal
import subprocess
import sys
import uuid

import pods
import host
from pair import Pair

SESSION = "io.ferry.migration.session-id"
SOURCE = "io.microsoft.migration.source-container-id"
COUNT = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done")
BOOT = "cat /proc/sys/kernel/random/boot_id"


class Mover:
    """A `ferry migrate --await-pod`, and what a kubelet would do for it."""

    def __init__(self, here, there, name, *options):
        self.session, self.said = str(uuid.uuid4()), ""
        self.there = there
        self.process = subprocess.Popen(
            [here.ferry, "--root", here.root, "migrate", name, "--to", there.root, "--await-pod",
             "--session-id", self.session, *options], env=here.environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_for(self, what):
        while what not in self.said:
            line = self.process.stderr.readline()
            assert line, f"no {what!r} in {self.said}"
            self.said += line

    def make_pod(self):
        self.wait_for(f"{SESSION}={self.session}\n")
        return pods.Cri(self.there.socket).run_pod(self.there, **{SESSION: self.session})

    def make(self, pod, name, source_id):
        """Without a command of its own: what runs is what ran."""
        return pods.Cri(self.there.socket).run(self.there, pod, name, **{SOURCE: source_id})

    def end(self):
        self.said += self.process.stderr.read()
        return self.process.wait(host.LIMIT)


def move(here, there, pod, containers):
    """containers: name -> id, by which the mover knows the pod too; returns those there."""
    mover = Mover(here, there, pod)
    new = mover.make_pod()
    mover.wait_for("waiting for its containers")
    made = {name: mover.make(new, name, one) for name, one in containers.items()}
    code = mover.end()
    assert code == 0, (code, mover.said)
    for one in containers.values():
        assert f"{SOURCE}={one}\n" in mover.said, mover.said
    return new, made


def lines_of(place, name):
    with open(os.path.join(place.folder, name + ".log"), encoding="utf-8") as log:
        return [int(number) for number in re.findall(r" F line (\d+)\n", log.read())]


def check_one_vm(cri, containers, boot):
    for name in "web", "other", "count":
        assert cri.exec(containers[name], BOOT) == boot
    assert cri.exec(containers["count"], pods.GET.format("10.99.0.5")) == "it moved\n"


def test_three_containers_there_and_back(here, there):
    cri = {place: pods.Cri(place.socket) for place in (here, there)}
    pod = cri[here].run_pod(here)
    containers = {name: cri[here].run(here, pod, name, *command) for name, command in (
        ("web", pods.FOREVER), ("other", pods.FOREVER), ("count", COUNT))}
    cri[here].exec(containers["web"], "echo it moved >/tmp/page; busybox httpd -p 8081 -h /tmp")
    boot = cri[here].exec(containers["web"], BOOT)
    check_one_vm(cri[here], containers, boot)
    host.wait_for("lines", lambda: len(lines_of(here, "count")) > 20)
    seen = []
    for source, target in (here, there), (there, here):
        old, old_pod = containers, pod
        pod, containers = move(source, target, old_pod, old)
        assert cri[target].pod_is_ready(pod) and len(target.sandboxes()) == 1
        host.wait_for("the pod's end", lambda at=source, one=old_pod: not cri[at].pod_is_ready(one))
        host.wait_for("its end", lambda at=source, one=old["web"]: cri[at].state(one) == (2, 255))
        assert cri[source].state(old["count"]) == (2, 255)
        check_one_vm(cri[target], containers, boot)
        seen += lines_of(source, "count")
        cri[source].remove_pod(old_pod)
        host.wait_for("nothing left", lambda at=source: not at.sandboxes())
        os.unlink(os.path.join(source.folder, "count.log"))
        if target is there:
            containers["added"] = cri[there].run(there, pod, "added", *pods.FOREVER)
        assert cri[target].exec(containers["added"], BOOT) == boot
        host.wait_for("lines", lambda at=target: len(lines_of(at, "count")) > 20)
    cri[here].call("StopContainer", (1, containers["other"]), (2, 60))
    assert cri[here].state(containers["other"]) == (2, 3)
    cri[here].remove_pod(pod)
    seen += lines_of(here, "count")
    assert seen == list(range(1, len(seen) + 1)), seen
    host.wait_for("nothing left", lambda: not here.sandboxes())


def start_one(here):
    cri = pods.Cri(here.socket)
    pod = cri.run_pod(here)
    return cri, pod, cri.run(here, pod, "web", *pods.FOREVER)


def check_unharmed(here, cri, pod, container):
    assert cri.pod_is_ready(pod)
    assert cri.exec(container, "echo well") == "well\n"
    cri.remove_pod(pod)
    host.wait_for("nothing left", lambda: not here.sandboxes())


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


def recover(place, name):
    done = subprocess.run([place.ferry, "--root", place.root, "recover", name, "--cancel"],
                          env=place.environment, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, timeout=host.LIMIT)
    assert done.returncode == 0, done
    assert "runs on host a" in done.stdout, done


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
