#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Pods of containerd's CRI plugin with `sandboxer = "shim"`: one VM a pod.

usage: cri.py FERRY SHIM FETCH FOLDER SUITE

Needs Debian's python3-grpcio (hence its own Python); messages are written by field numbers, so that no
stubs are needed.
"""
import os
import subprocess
import sys

try:
    import grpc
except ImportError:
    assert os.environ.get("CI") != "true", "python3-grpcio is not installed"
    print("1..0 # SKIP python3-grpcio is not installed")
    sys.exit(0)

import host

CONFIG = """version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{image}"
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "ferry"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.ferry]
  runtime_type = "io.containerd.ferry.v2"
  sandboxer = "shim"
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dir = "{folder}/cni"
  conf_dir = "{folder}/net"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_port = "0"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""

PLUGIN = """#!/bin/sh -e
# A CNI plugin: one veth, whose other end stays with containerd.
cat > /dev/null
pod=$(basename "$CNI_NETNS")
case $CNI_COMMAND in
ADD)
    ip link add pod0 type veth peer name "$CNI_IFNAME" netns "$pod" >&2
    ip addr add 10.99.0.1/24 dev pod0 >&2
    ip link set pod0 up >&2
    ip -n "$pod" addr add 10.99.0.5/24 dev "$CNI_IFNAME" >&2
    ip -n "$pod" link set "$CNI_IFNAME" up >&2
    echo '{"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}],
        "ips": [{"version": "4", "interface": 0, "address": "10.99.0.5/24"}]}'
    ;;
DEL) ip link del pod0 2> /dev/null || true ;;
VERSION) echo '{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}' ;;
esac
"""

LOOPBACK = """#!/bin/sh
cat > /dev/null
test "$CNI_COMMAND" = VERSION && echo '{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}' ||
    echo '{"cniVersion": "0.4.0"}'
"""


# ---- protobuf ----

def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(*fields):
    """(number, value): a number, text, bytes, or a list of such."""
    out = b""
    for number, value in fields:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                out += varint(number << 3) + varint(one)
            else:
                one = one.encode() if isinstance(one, str) else one
                out += varint(number << 3 | 2) + varint(len(one)) + one
    return out


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at


def fields_of(data):
    found, at = {}, 0
    while at < len(data):
        key, at = read_varint(data, at)
        value, at = read_varint(data, at)
        if key & 7 == 2:
            value, at = data[at:at + value], at + value
        found[key >> 3] = value
    return found


# ---- CRI ----

class Cri:
    def __init__(self, socket):
        self.channel = grpc.insecure_channel("unix:" + socket)

    def call(self, method, *fields):
        stub = self.channel.unary_unary("/runtime.v1.RuntimeService/" + method)
        return fields_of(stub(message(*fields), timeout=host.LIMIT))

    def pod_config(self, place):
        return message((1, message((1, "pod"), (2, "uid"), (3, "default"))), (2, "pod"),
                       (3, place.folder), (8, message((1, ""))))

    def run_pod(self, place):
        return self.call("RunPodSandbox", (1, self.pod_config(place)), (2, "ferry"))[1].decode()

    def run(self, place, pod, name, *command):
        config = message((1, message((1, name))), (2, message((1, host.IMAGE))), (3, list(command)),
                         (11, name + ".log"))
        container = self.call("CreateContainer", (1, pod), (2, config),
                              (3, self.pod_config(place)))[1].decode()
        self.call("StartContainer", (1, container))
        return container

    def exec(self, container, script):
        answer = self.call("ExecSync", (1, container), (2, ["sh", "-c", script]), (3, host.LIMIT))
        assert answer.get(3, 0) == 0, answer
        return answer.get(1, b"").decode()

    def state(self, container):
        """(0 created, 1 running, 2 exited; exit code)"""
        status = fields_of(self.call("ContainerStatus", (1, container))[1])
        return status.get(3, 0), status.get(7, 0)

    def pod_is_ready(self, pod):
        return fields_of(self.call("PodSandboxStatus", (1, pod))[1]).get(3, 0) == 0


FOREVER = ("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")


def test_three_containers_in_one_vm(place):
    cri = Cri(place.socket)
    pod = cri.run_pod(place)
    assert cri.pod_is_ready(pod) and len(place.sandboxes()) == 1
    first, second, third = (cri.run(place, pod, name, *FOREVER) for name in ("a", "b", "c"))
    assert len(place.sandboxes()) == 1
    boot = "cat /proc/sys/kernel/random/boot_id"
    assert cri.exec(first, boot) == cri.exec(third, boot)
    assert "10.99.0.5/24" in cri.exec(second, "busybox ip -o addr show dev eth0")
    cri.exec(first, "echo by the first > /tmp/page; busybox httpd -p 8081 -h /tmp")
    get = "printf 'GET /page HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 60 {} 8081 | tail -n 1"
    assert cri.exec(second, get.format("127.0.0.1")) == "by the first\n"
    done = subprocess.run(["ip", "netns", "exec", place.netns, "sh", "-c", get.format("10.99.0.5")],
                          stdout=subprocess.PIPE, check=True, timeout=host.LIMIT)
    assert done.stdout == b"by the first\n", done
    cri.call("StopContainer", (1, second), (2, 60))
    assert cri.state(second) == (2, 3), cri.state(second)
    cri.call("RemoveContainer", (1, second))
    assert cri.state(first)[0] == 1 and cri.state(third)[0] == 1
    cri.call("StopPodSandbox", (1, pod))
    assert not cri.pod_is_ready(pod)
    cri.call("RemovePodSandbox", (1, pod))
    host.wait_for("nothing left", lambda: not place.sandboxes())


def test_a_pod_whose_vm_dies(place):
    cri = Cri(place.socket)
    pod = cri.run_pod(place)
    only = cri.run(place, pod, "d", *FOREVER)
    sandbox, = place.sandboxes()
    subprocess.run([place.ferry, "--root", place.root, "stop", "--force", sandbox], check=True)
    host.wait_for("its end", lambda: cri.state(only)[0] == 2 and not cri.pod_is_ready(pod))
    cri.call("StopPodSandbox", (1, pod))
    cri.call("RemovePodSandbox", (1, pod))
    host.wait_for("nothing left", lambda: not place.sandboxes())


def main():
    binaries = host.fetch(*sys.argv[3:])
    netns = f"fcri{os.getpid()}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        place = host.Host(*sys.argv[1:3], binaries, netns=netns)
        place.config = CONFIG.replace("{image}", host.IMAGE)
        place.namespace = "k8s.io"
        for folder in "cni", "net":
            os.mkdir(os.path.join(place.folder, folder))
        for name, text in ("hand", PLUGIN), ("loopback", LOOPBACK):
            os.chmod(place.write("cni/" + name, text), 0o755)
        place.write("net/1.conflist", '{"cniVersion": "0.4.0", "name": "hand", "plugins": '
                    '[{"type": "hand"}]}')
        with place:
            failed = host.tap([(name[len("test_"):].replace("_", " "),
                                lambda test=test: test(place)) for name, test in globals().items()
                               if name.startswith("test_")])
    finally:
        subprocess.run(["ip", "netns", "delete", netns], check=True)
    sys.exit(failed)


main()
