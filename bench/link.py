# SPDX-License-Identifier: MIT
"""What the moves go over: this machine's loopback, or two namespaces and a limited link between them."""
import ctypes
import os
import select
import socket
import subprocess
import threading
import time

DEVICE = "lan"
PROBE_BYTES = 32 << 20
HELPER_LIMIT = 10  # seconds for the forwarder to have its devices
CLONE_NEWNET = 0x40000000
SIDES = ("a", "b")


class LinkError(Exception):
    pass


def run(*command):
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise LinkError(f"{' '.join(command)}: {done.stderr.strip()}")


def ip(*arguments):
    run("ip", *arguments)


def remove_namespace(name):
    subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def device_bytes(device):
    """What it has sent since it is there, in this thread's namespace."""
    with open("/proc/thread-self/net/dev", encoding="ascii") as table:
        for line in table:
            name, _, figures = line.partition(":")
            if name.strip() == device:
                return int(figures.split()[8])
    raise LinkError(f"there is no device {device}")


class Link:
    """Loopback, and what a link has to say: where its sides are, and sockets over it."""

    name = "loopback"
    rate = measured = None  # bytes a second where they are limited: the link's, and what TCP got

    def __init__(self, build):
        self.build = build  # the folder with the forwarder

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def netns(self, _side):
        return None

    def address(self, _side):
        return "127.0.0.1"

    def inside(self, side):
        """What goes before a command that is to run on that side."""
        return ["ip", "netns", "exec", self.netns(side)] if self.netns(side) else []

    def socket_in(self, side):
        return Namespace(self.netns(side))

    def free_port(self, side):
        with self.socket_in(side), socket.create_server((self.address(side), 0)) as listener:
            return listener.getsockname()[1]

    def connected(self, near_side, far_side):
        with self.socket_in(far_side):
            listener = socket.create_server((self.address(far_side), 0))
        with listener:
            with self.socket_in(near_side):
                near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return near, far


class Namespace:
    """This thread in a network namespace, for as long as the block lasts."""

    def __init__(self, name):
        self.name, self.ours = name, None

    def __enter__(self):
        if self.name:
            self.ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            theirs = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            self.enter(theirs)
            os.close(theirs)

    def __exit__(self, *_):
        if self.name:
            self.enter(self.ours)
            os.close(self.ours)

    @staticmethod
    def enter(fd):
        libc = ctypes.CDLL(None, use_errno=True)  # Python has os.setns from 3.12 on
        if libc.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


class Alone(Link):
    """Loopback of a namespace that nobody else is in: what is counted there is the move's."""

    def __enter__(self):
        ip("netns", "add", self.netns("a"))
        try:
            ip("-n", self.netns("a"), "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        remove_namespace(self.netns("a"))

    def netns(self, _side):
        return f"ferry-bench-{os.getpid()}"

    def wire_bytes(self):
        with self.socket_in("a"):
            return device_bytes("lo")


class Shaped(Link):
    """Two namespaces, a veth pair, a token bucket at each end."""

    name, rate = "1gbit", 125 * 10**6
    # A short queue, as a switch has. tbf cuts what TCP offloads into packets of the link's size.
    SHAPE = ("rate", "1gbit", "burst", "64kb", "latency", "10ms")

    def __enter__(self):
        try:
            for side in SIDES:
                ip("netns", "add", self.netns(side))
            self.join()
            for side in SIDES:
                ip("-n", self.netns(side), "addr", "add", f"{self.address(side)}/24", "dev", DEVICE)
                for device in ("lo", DEVICE):
                    ip("-n", self.netns(side), "link", "set", device, "up")
                run(*self.inside(side), "tc", "qdisc", "add", "dev", DEVICE, "root", "tbf",
                    *self.SHAPE)
            self.measured = int(self.probe())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for side in SIDES:
            remove_namespace(self.netns(side))

    def join(self):
        ip("link", "add", DEVICE, "netns", self.netns("a"), "type", "veth",
           "peer", "name", DEVICE, "netns", self.netns("b"))

    def wire_bytes(self):
        """What both sides have sent, headers included."""
        total = 0
        for side in SIDES:
            with self.socket_in(side):
                total += device_bytes(DEVICE)
        return total

    def netns(self, side):
        return f"ferry-bench-{os.getpid()}-{side}"

    def address(self, side):
        return f"10.254.7.{SIDES.index(side) + 1}"

    def probe(self):
        """Bytes a second that one TCP stream gets through."""
        near, far = self.connected("a", "b")
        with near, far:
            sender = threading.Thread(target=near.sendall, args=(bytes(PROBE_BYTES),))
            begin, got = time.monotonic(), 0
            sender.start()
            while got < PROBE_BYTES:
                got += len(far.recv(1 << 20))
            sender.join()
        return PROBE_BYTES / (time.monotonic() - begin)


class Fast(Shaped):
    name, rate = "10gbit", 1250 * 10**6
    SHAPE = ("rate", "10gbit", "burst", "8mb", "latency", "10ms")  # a burst: what a tick lets through


class Far(Shaped):
    """Two tun devices and between them a process that lets each packet wait: no netem needed."""

    name, rate = "100mbit-20ms", 12500 * 10**3
    DELAY_MS = 20  # each way
    SHAPE = ("rate", "100mbit", "burst", "32kb", "latency", "50ms")

    def __init__(self, build):
        super().__init__(build)
        self.forwarder = None

    def join(self):
        self.forwarder = subprocess.Popen(
            [os.path.join(self.build, "bench/ferry-bench-delay"),
             *(f"/run/netns/{self.netns(side)}" for side in SIDES), DEVICE, str(self.DELAY_MS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True)
        heard = b""
        if select.select([self.forwarder.stdout], [], [], HELPER_LIMIT)[0]:
            heard = self.forwarder.stdout.readline()
        if heard != b"ready\n":
            self.forwarder.kill()
            raise LinkError(self.forwarder.communicate()[1].decode("utf-8", "replace").strip()
                            or "the forwarder does not get ready")

    def __exit__(self, *_):
        if self.forwarder:
            self.forwarder.kill()
            self.forwarder.communicate()
        super().__exit__()


LINKS = {link.name: link for link in (Link, Shaped)}
