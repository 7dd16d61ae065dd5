# SPDX-License-Identifier: MIT
"""containerd's CRI plugin with `sandboxer = "shim"`, and a caller of it.

Needs Debian's python3-grpcio (hence its own Python); messages are written by field numbers, so that no
stubs are needed.
"""
import os
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
  sandboxer = "{sandboxer}"
  pod_annotations = ["io.ferry.*"]
  container_annotations = ["io.microsoft.migration.*"]
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dir = "{folder}/cni"
  conf_dir = "{folder}/net"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_port = "0"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""

CONFIG_1 = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "ferry"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.ferry]
  runtime_type = "io.containerd.ferry.v2"
  pod_annotations = ["io.ferry.*"]
  container_annotations = ["io.microsoft.migration.*"]
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{folder}/cni"
  conf_dir = "{folder}/net"
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


def entries(values):
    """Of a map from text to text."""
    return [message((1, key), (2, value)) for key, value in values.items()]


# ---- CRI ----

class Cri:
    def __init__(self, socket):
        self.channel = grpc.insecure_channel("unix:" + socket)

    def call(self, method, *fields):
        stub = self.channel.unary_unary("/runtime.v1.RuntimeService/" + method)
        return fields_of(stub(message(*fields), timeout=host.LIMIT))

    def pod_figures(self, pod):
        """As containerd's own service gives them: (CPU, usec; memory, bytes; processes)."""
        stub = self.channel.unary_unary("/containerd.services.sandbox.v1.Controller/Metrics")
        answer = fields_of(stub(message((1, pod), (10, "shim")), timeout=host.LIMIT,
                                metadata=[("containerd-namespace", "k8s.io")]))
        metric = fields_of(answer[1])
        data = fields_of(metric[3])
        assert metric[2] == pod.encode() and data[1] == b"io.containerd.cgroups.v2.Metrics", metric
        pids, cpu, memory = (fields_of(fields_of(data[2]).get(number, b"")) for number in (1, 2, 4))
        return cpu.get(1, 0), memory.get(32, 0), pids.get(1, 0)

    def pod_config(self, place, **annotations):
        return message((1, message((1, "pod"), (2, os.urandom(4).hex()), (3, "default"))), (2, "pod"),
                       (3, place.folder), (7, entries(annotations)), (8, message((1, ""))))

    def run_pod(self, place, **annotations):
        return self.call("RunPodSandbox", (1, self.pod_config(place, **annotations)),
                         (2, "ferry"))[1].decode()

    def run(self, place, pod, name, *command, **annotations):
        config = message((1, message((1, name))), (2, message((1, host.IMAGE))), (3, list(command)),
                         (10, entries(annotations)), (11, name + ".log"))
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

    def remove_pod(self, pod):
        self.call("StopPodSandbox", (1, pod))
        assert not self.pod_is_ready(pod)
        self.call("RemovePodSandbox", (1, pod))

    def is_up(self):
        """Its containerd answers before it does."""
        try:
            self.call("Status")
        except grpc.RpcError:
            return False
        return True

    def pod_is_ready(self, pod):
        return fields_of(self.call("PodSandboxStatus", (1, pod))[1]).get(3, 0) == 0


GET = "printf 'GET /page HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 60 {} 8081 | tail -n 1"
FOREVER = ("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")


def prepare_paused(place):
    """The same, whose pods have a container of their own, as with containerd 1."""
    prepare(place, "podsandbox")
    place.command = list(FOREVER)
    if place.version() < 2:
        place.config = CONFIG_1.replace("{image}", host.IMAGE)


def prepare(place, sandboxer="shim"):
    """A host that was not entered yet."""
    place.config = CONFIG.replace("{image}", host.IMAGE).replace("{sandboxer}", sandboxer)
    place.namespace = "k8s.io"
    for folder in "cni", "net":
        os.mkdir(os.path.join(place.folder, folder))
    for name, text in ("hand", PLUGIN), ("loopback", LOOPBACK):
        os.chmod(place.write("cni/" + name, text), 0o755)
    place.write("net/1.conflist", '{"cniVersion": "0.4.0", "name": "hand", "plugins": '
                '[{"type": "hand"}]}')
