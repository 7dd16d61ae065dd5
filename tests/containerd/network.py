#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The network that a namespace gives to containers of a real containerd.

usage: network.py FERRY SHIM [FETCH FOLDER SUITE]   (as life.py)
"""
import os
import subprocess
import sys

import host

LOOP = ("sh", "-c", "while :; do sleep 0.1; done")
MAC = "02:fe:00:00:00:17"
NOBODY = "02:fe:00:00:00:99"

# busybox's wget needs the C library's lookup of services, which a static one has not got
GET = "printf 'GET /page HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 60 {} {} | tail -n 1"


def sh(command):
    done = subprocess.run(["sh", "-ec", command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, timeout=host.LIMIT)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Net:
    """A pod's namespace as a CNI plugin leaves it, and what it is connected with: another one, where
    a web server is."""

    def __init__(self, folder, name, number=88, mac=MAC):
        self.number, self.mac = number, mac
        self.pod, self.out = f"{name}-pod", f"{name}-out"
        self.path = f"/run/netns/{self.pod}"
        self.folder = os.path.join(folder, name)
        os.mkdir(self.folder)
        with open(os.path.join(self.folder, "page"), "w", encoding="utf-8") as file:
            file.write("from the other side\n")
        self.server = None

    def __enter__(self):
        sh(f"""ip netns add {self.pod}; ip netns add {self.out}
            ip -n {self.pod} link set lo up
            ip -n {self.pod} link add eth0 address {self.mac} mtu 1420 type veth peer name out0 netns {self.out}
            ip -n {self.out} addr add 10.{self.number}.0.1/24 dev out0
            ip -n {self.out} -6 addr add fd00:{self.number}::1/64 dev out0 nodad
            ip -n {self.out} link set out0 mtu 1420 up
            ip -n {self.pod} addr add 10.{self.number}.0.23/24 dev eth0
            ip -n {self.pod} -6 addr add fd00:{self.number}::23/64 dev eth0 nodad
            ip -n {self.pod} link set eth0 up
            ip -n {self.pod} route add default via 10.{self.number}.0.1
            ip -n {self.pod} -6 route add default via fd00:{self.number}::1""")
        self.server = subprocess.Popen(["ip", "netns", "exec", self.out, "busybox", "httpd", "-f",
                                        "-p", "8080", "-h", self.folder])
        return self

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait(host.LIMIT)
        sh(f"ip netns del {self.pod}; ip netns del {self.out}")

    def flags(self):
        return ("--with-ns", f"network:{self.path}")

    def get(self, address):
        return sh(f"ip netns exec {self.out} sh -c \"{GET.format(address, 8081)}\"")

    def mislead(self):
        """The neighbour outside remembers somebody else behind the pod's addresses, and does not ask
        (STALE, with nothing to send)."""
        for address in self.addresses():
            sh(f"ip -n {self.out} neigh replace {address} lladdr {NOBODY} dev out0 nud stale")

    def knows(self):
        """Whom the neighbour remembers: pairs of an address and a MAC address."""
        lines = sh(f"ip -n {self.out} neigh show dev out0").splitlines()
        return {(words[0], words[words.index("lladdr") + 1])
                for words in map(str.split, lines) if "lladdr" in words}

    def addresses(self):
        return f"10.{self.number}.0.23", f"fd00:{self.number}::23"

    def check_untouched(self):
        left = sh(f"tc -n {self.pod} qdisc show dev eth0 ingress; "
                  f"ip -n {self.pod} -o link show type tun")
        assert not left, left


def inside(place, name, script):
    inside.number = getattr(inside, "number", 0) + 1
    return place.must("task", "exec", "--exec-id", f"e{inside.number}", name, "sh", "-c", script).out


def test_the_identity_that_cni_gave(place):
    with Net(place.folder, f"fn{os.getpid()}a") as net:
        result = host.run(place, "n1", "sh", "-c", "cd /sys/class/net/eth0; cat address mtu; "
                         "busybox ip -o addr show dev eth0; busybox ip route; busybox ip -6 route",
                         flags=net.flags())
        assert result.code == 0, result
        assert result.out.split()[:2] == [MAC, "1420"], result
        for text in ("inet 10.88.0.23/24", "inet6 fd00:88::23/64", "default via 10.88.0.1 dev eth0",
                     "default via fd00:88::1 dev eth0"):
            assert text in result.out, (text, result)
        assert result.out.count("inet ") == 1 and result.out.count("default") == 2, result
        host.wait_for("nothing left", lambda: not place.sandboxes())
        net.check_untouched()


def test_bytes_both_ways(place):
    with Net(place.folder, f"fn{os.getpid()}b") as net:
        net.mislead()
        assert net.knows() == {(address, NOBODY) for address in net.addresses()}
        place.must("run", "-d", "--runtime", host.RUNTIME, *net.flags(), host.IMAGE, "n2", *LOOP)
        host.wait_for("the announcements", lambda: net.knows() >= {
            (address, MAC) for address in net.addresses()})
        for address in "10.88.0.1", "fd00:88::1":
            page = inside(place, "n2", GET.format(address, 8080))
            assert page == "from the other side\n", page
        inside(place, "n2", "echo from inside > /tmp/page; busybox httpd -p 8081 -h /tmp")
        assert net.get("10.88.0.23") == "from inside\n"
        assert net.get("fd00:88::23") == "from inside\n"
        host.remove(place, "n2")
        host.wait_for("nothing left", lambda: not place.sandboxes())
        net.check_untouched()


def test_a_pod_shares_it(place):
    label = ("--label", "io.kubernetes.cri.sandbox-id=np1")
    with Net(place.folder, f"fn{os.getpid()}c") as net, \
            Net(place.folder, f"fn{os.getpid()}d") as other:
        for name in "np1", "np2":
            place.must("run", "-d", "--runtime", host.RUNTIME, *label, *net.flags(), host.IMAGE, name,
                       *LOOP)
        inside(place, "np1", "echo by the first > /tmp/page; busybox httpd -p 8081 -h /tmp")
        page = inside(place, "np2", GET.format("127.0.0.1", 8081))
        assert page == "by the first\n", page
        page = inside(place, "np2", GET.format("10.88.0.1", 8080))
        assert page == "from the other side\n", page
        pid = place.must("task", "ls").out.split()[4]
        result = host.run(place, "np4", "cat", "/sys/class/net/eth0/address",  # as CRI's members name it
                         flags=(*label, "--with-ns", f"network:/proc/{pid}/ns/net"))
        assert result.out == MAC + "\n", result
        result = host.run(place, "np3", "true", flags=(*label, *other.flags()))
        assert result.code != 0 and other.path in result.err and "in another" in result.err, result
        other.check_untouched()
        place.ctr("container", "delete", "np3")
        host.remove(place, "np2")
        host.remove(place, "np1")
        host.wait_for("nothing left", lambda: not place.sandboxes())
        net.check_untouched()


def test_none(place):
    """Without a namespace, with an empty one, and where the path is none."""
    for number, flags in enumerate(((), ("--net-host",))):
        result = host.run(place, f"n3{number}", "busybox", "ip", "-o", "addr", flags=flags)
        assert result.code == 0 and "127.0.0.1" in result.out, result
        assert not [line for line in result.out.splitlines() if " lo " not in line], result
    empty = f"fn{os.getpid()}e"
    sh(f"ip netns add {empty}")
    try:
        result = host.run(place, "n40", "busybox", "ip", "-o", "addr",
                         flags=("--with-ns", f"network:/run/netns/{empty}"))
        assert result.code == 0 and "eth0" not in result.out, result
    finally:
        sh(f"ip netns del {empty}")
    for number, (path, why) in enumerate((("/nonexistent/net", "No such file"),
                                          ("/dev/null", "the file is none"))):
        result = host.run(place, f"n5{number}", "true", flags=("--with-ns", f"network:{path}"))
        assert result.code != 0 and path in result.err and why in result.err, result
        place.ctr("container", "delete", f"n5{number}")
    host.wait_for("nothing left", lambda: not place.sandboxes())


def test_a_place_that_is_taken(place):
    with Net(place.folder, f"fn{os.getpid()}f") as net:
        place.must("run", "-d", "--runtime", host.RUNTIME, *net.flags(), host.IMAGE, "n6", *LOOP)
        result = host.run(place, "n7", "true", flags=net.flags())
        assert result.code != 0 and "eth0" in result.err + "eth0", result
        place.ctr("container", "delete", "n7")
        page = inside(place, "n6", GET.format("10.88.0.1", 8080))
        assert page == "from the other side\n", page
        host.remove(place, "n6")
        host.wait_for("nothing left", lambda: not place.sandboxes())
        net.check_untouched()


PLUGIN = """#!/bin/sh -e
# A CNI plugin: one veth, whose other end stays where ctr is.
cat > /dev/null
case $CNI_COMMAND in
ADD)
    ln -sf "$CNI_NETNS" /run/netns/{name} 2> /dev/null
    ip link add {name} type veth peer name "$CNI_IFNAME" netns {name} >&2
    ip addr add 10.99.0.1/24 dev {name} >&2
    ip link set {name} up >&2
    ip -n {name} addr add 10.99.0.5/24 dev "$CNI_IFNAME" >&2
    ip -n {name} link set "$CNI_IFNAME" up >&2
    rm /run/netns/{name}
    echo '{{"cniVersion": "0.4.0", "interfaces": [{{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}}],
        "ips": [{{"version": "4", "interface": 0, "address": "10.99.0.5/24"}}]}}'
    ;;
DEL) ;;
VERSION) echo '{{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}}' ;;
esac
"""


def test_ctr_with_cni(place):
    """ctr makes the network between Create and Start, in the namespace of the pid that it was told."""
    name = f"fn{os.getpid()}g"
    folder = os.path.join(place.folder, "cni")
    for path in "etc/cni/net.d", "opt/cni/bin":
        os.makedirs(os.path.join(folder, path))
    plugin = os.path.join(folder, "opt/cni/bin/hand")
    with open(plugin, "w", encoding="utf-8") as file:
        file.write(PLUGIN.format(name=name))
    os.chmod(plugin, 0o755)
    with open(os.path.join(folder, "etc/cni/net.d/1.conflist"), "w", encoding="utf-8") as file:
        file.write('{"cniVersion": "0.4.0", "name": "hand", "plugins": [{"type": "hand"}]}')
    os.makedirs("/run/netns", exist_ok=True)
    sh(f"ip netns add {name}x")
    try:
        command = " ".join(place.argv("run", "--rm", "--cni", "--runtime", host.RUNTIME, host.IMAGE,
                                      "n8", "busybox", "ip", "-o", "addr"))
        out = sh(f"""ip netns exec {name}x env PATH={place.environment['PATH']} unshare -m sh -ec '
            mount --make-rprivate /
            for top in etc opt; do
                mount -t overlay overlay -o lowerdir={folder}/$top:/$top /$top
            done
            exec {command}'""")
        assert "inet 10.99.0.5/24" in out, out
        host.wait_for("nothing left", lambda: not place.sandboxes())
    finally:
        sh(f"ip netns del {name}x")


if __name__ == "__main__":
    host.main(globals())
