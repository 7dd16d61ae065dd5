# SPDX-License-Identifier: MIT
"""What the moves go over: this machine's loopback, or two namespaces and 1 Gbit/s between them."""
import ctypes
import os
import socket
import subprocess
import threading
import time

RATE, RATE_BYTES = "1gbit", 125 * 10**6
# A short queue, as a switch has. tbf cuts what TCP offloads into packets of the link's size.
SHAPE = ["tbf", "rate", RATE, "burst", "64kb", "latency", "10ms"]
PROBE_BYTES = 32 << 20
CLONE_NEWNET = 0x40000000
SIDES = ("a", "b")


class LinkError(Exception):
    pass


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise LinkError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Link:
    """Loopback, and what a link has to say: where its sides are, and sockets over it."""

    name = "loopback"
    rate = measured = None  # bytes a second where they are limited: the link's, and what TCP got

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


class Shaped(Link):
    """Two namespaces, a veth pair, a token bucket at each end."""

    name, rate = "1gbit", RATE_BYTES

    def __enter__(self):
        try:
            for side in SIDES:
                ip("netns", "add", self.netns(side))
            ip("link", "add", "lan", "netns", self.netns("a"), "type", "veth",
               "peer", "name", "lan", "netns", self.netns("b"))
            for side in SIDES:
                ip("-n", self.netns(side), "addr", "add", f"{self.address(side)}/24", "dev", "lan")
                for device in ("lo", "lan"):
                    ip("-n", self.netns(side), "link", "set", device, "up")
                shape = [*self.inside(side), "tc", "qdisc", "add", "dev", "lan", "root", *SHAPE]
                done = subprocess.run(shape, check=False, capture_output=True, text=True)
                if done.returncode:
                    raise LinkError(f"tc: {done.stderr.strip()}")
            self.measured = int(self.probe())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for side in SIDES:
            subprocess.run(["ip", "netns", "del", self.netns(side)], check=False,
                           stderr=subprocess.DEVNULL)

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


LINKS = {link.name: link for link in (Link, Shaped)}
