#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Pods of containerd's CRI plugin with `sandboxer = "shim"`: one VM a pod.

usage: cri.py FERRY SHIM FETCH FOLDER SUITE
"""
import json
import os
import subprocess
import sys

import pods
import host
import ttrpc


def test_three_containers_in_one_vm(place):
    cri = pods.Cri(place.socket)
    pod = cri.run_pod(place)
    assert cri.pod_is_ready(pod) and len(place.sandboxes()) == 1
    first, second, third = (cri.run(place, pod, name, *pods.FOREVER) for name in ("a", "b", "c"))
    assert len(place.sandboxes()) == 1
    boot = "cat /proc/sys/kernel/random/boot_id"
    assert cri.exec(first, boot) == cri.exec(third, boot)
    assert "10.99.0.5/24" in cri.exec(second, "busybox ip -o addr show dev eth0")
    cri.exec(first, "echo by the first > /tmp/page; busybox httpd -p 8081 -h /tmp")
    assert cri.exec(second, pods.GET.format("127.0.0.1")) == "by the first\n"
    done = subprocess.run(["ip", "netns", "exec", place.netns, "sh", "-c", pods.GET.format("10.99.0.5")],
                          stdout=subprocess.PIPE, check=True, timeout=host.LIMIT)
    assert done.stdout == b"by the first\n", done
    cri.call("StopContainer", (1, second), (2, 60))
    assert cri.state(second) == (2, 3), cri.state(second)
    cri.call("RemoveContainer", (1, second))
    assert cri.state(first)[0] == 1 and cri.state(third)[0] == 1
    cri.remove_pod(pod)
    host.wait_for("nothing left", lambda: not place.sandboxes())


def test_a_pod_whose_vm_dies(place):
    cri = pods.Cri(place.socket)
    pod = cri.run_pod(place)
    only = cri.run(place, pod, "d", *pods.FOREVER)
    sandbox, = place.sandboxes()
    subprocess.run([place.ferry, "--root", place.root, "stop", "--force", sandbox], check=True)
    host.wait_for("its end", lambda: cri.state(only)[0] == 2 and not cri.pod_is_ready(pod))
    cri.remove_pod(pod)
    host.wait_for("nothing left", lambda: not place.sandboxes())


def test_its_figures(place):
    cri = pods.Cri(place.socket)
    pod = cri.run_pod(place)
    assert cri.pod_figures(pod)[2] == 0
    for name in "a", "b":
        cri.run(place, pod, name, *pods.FOREVER)
    cpu, memory, processes = cri.pod_figures(pod)
    assert cpu > 0 and memory > 100_000 and processes >= 2, (cpu, memory, processes)
    cri.run(place, pod, "c", "sh", "-c", "head -c 20000000 /dev/zero >/tmp/z; while :; do sleep 1; done")
    host.wait_for("more", lambda: cri.pod_figures(pod)[1] > memory + 20_000_000)
    assert cri.pod_figures(pod)[0] > cpu
    cri.remove_pod(pod)
    host.wait_for("nothing left", lambda: not place.sandboxes())


def shim(place, bundle, action):
    """As containerd calls it for a pod."""
    done = subprocess.run([place.shim, "-namespace", "k8s.io", "-address", place.socket, "-id", "s1",
                           "-bundle", bundle, action], cwd=bundle, env=place.environment, check=True,
                          stdout=subprocess.PIPE, timeout=host.LIMIT)
    return done.stdout


def test_a_stop_while_it_starts(place):
    bundle = os.path.join(place.folder, "io.containerd.sandbox.controller.v1.shim", "s1")
    os.makedirs(bundle)
    address = json.loads(shim(place, bundle, "start"))["address"]
    client = ttrpc.Client(address[len("unix://"):], "containerd.runtime.sandbox.v1.Sandbox")
    client.call("CreateSandbox", (1, "s1"), (2, bundle))
    start, wait, stop = (client.begin(method, (1, "s1"))
                         for method in ("StartSandbox", "WaitSandbox", "StopSandbox"))
    code, answer = client.end(stop)
    assert code == 0, (code, answer)
    assert client.end(start)[0] != 0
    code, answer = client.end(wait)
    assert code == 0 and answer[1] == 137, (code, answer)
    client.call("ShutdownSandbox", (1, "s1"))
    shim(place, bundle, "delete")
    assert not place.sandboxes(), place.sandboxes()


def main():
    binaries = host.fetch(*sys.argv[3:])
    netns = f"fcri{os.getpid()}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        place = host.Host(*sys.argv[1:3], binaries, netns=netns)
        pods.prepare(place)
        with place:
            failed = host.run_tests(globals(), place)
    finally:
        subprocess.run(["ip", "netns", "delete", netns], check=True)
    sys.exit(failed)


main()
