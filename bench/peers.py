# SPDX-License-Identifier: MIT
"""What ferry is measured next to: two ways to move the same guest with plain QMP.

Both are chains: one guest, moved from QEMU to QEMU, each hop() a live migration.

Plain      what a simple script does, with QEMU's defaults: `migrate tcp:`, a look at query-migrate
           each 50 ms, then `cont` at the destination.
OneSocket  the bare minimum that ferry's design allows: events instead of polls, one TCP socket
           for QEMU's stream and a handover of three words, return-path, a small downtime limit.
           No journal, no authentication, no confinement: a floor, not a competitor.
"""
import os
import signal
import socket
import time

from qmp import DEADLINE, Qemu, QmpError

POLL = 0.05  # Plain's manager looks this often
ONE_SOCKET_LIMIT = 1  # ms, QEMU's downtime-limit
ONE_SOCKET_BANDWIDTH = 10**11


class Chain:
    """One guest and the QEMU it is in now."""

    def __init__(self, folder, guest):
        self.folder, self.guest, self.hops = folder, guest, 0
        self.source = Qemu(folder, self.name(), self.arguments())

    def name(self):
        return f"{type(self).__name__.lower()}-{self.guest.load}-{self.hops}"

    def arguments(self, *more):
        g = self.guest
        # 8 KiB less, as ferry gives a TCG guest: docs/vm-config.md says which writes of such guests
        # QEMU 7.2 loses otherwise. Here, a guest hung within a hundred moves.
        size = f"{g.memory_mb * 1024 - 8}k"
        return ["-machine", "pc-q35-7.2,accel=tcg,usb=off,sata=off,smbus=off,memory-backend=ram",
                "-cpu", "Nehalem-v1", "-m", f"size={size}", "-smp", "1",
                "-object", f"memory-backend-memfd,id=ram,size={size},share=on",
                "-nodefaults", "-no-user-config", "-display", "none",
                "-kernel", g.kernel, "-initrd", g.initrd, "-append", g.cmdline,
                "-chardev", f"file,id=console,path={self.console()}",
                "-device", "isa-serial,chardev=console", *more]

    def console(self):
        return os.path.join(self.folder, f"{self.name()}.console")

    def output(self):
        """What the guest has printed since it is in this QEMU."""
        try:
            with open(self.console(), "rb") as console:
                return console.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def hop(self):
        """Moves the guest; {blackout_ms, total_ms, passes, bytes}."""
        self.hops += 1
        destination = None
        try:
            destination = Qemu(self.folder, self.name(), self.arguments("-S", "-incoming", "defer"))
            self.source.forget()
            begin = time.time()
            stop, resume = self.move(self.source, destination)
            info = self.source.call("query-migrate")
        except BaseException:
            if destination:
                destination.close()
            raise
        self.source.close()
        self.source = destination
        return {"blackout_ms": (resume - stop) * 1e3, "total_ms": (resume - begin) * 1e3,
                # QEMU counts the last look, while the guest stands, as one more.
                "passes": info["ram"]["dirty-sync-count"] - 1,
                "bytes": info["ram"]["transferred"]}

    def freeze(self):
        """Takes no CPU time while another chain is measured."""
        self.source.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.source.process.send_signal(signal.SIGCONT)

    def close(self):
        self.source.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Plain(Chain):
    def move(self, source, destination):
        uri = f"tcp:127.0.0.1:{free_port()}"
        destination.call("migrate-incoming", uri=uri)
        source.call("migrate", uri=uri)
        deadline = time.monotonic() + DEADLINE
        while True:
            status = source.call("query-migrate")["status"]
            if status == "completed":
                break
            if status == "failed" or time.monotonic() > deadline:
                raise QmpError(f"plain migration: {status}")
            time.sleep(POLL)
        destination.call("cont")
        return source.wait("STOP"), destination.wait("RESUME")


def connected_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def say(sender, receiver, word):
    sender.sendall(word)
    got = b""
    while len(got) < len(word):
        more = receiver.recv(len(word) - len(got))
        if not more:
            raise QmpError("the migration socket was closed")
        got += more


class OneSocket(Chain):
    def move(self, source, destination):
        near, far = connected_pair()
        with near, far:
            say(near, far, b"hello")
            say(far, near, b"hello")
            for side in (source, destination):
                side.call("migrate-set-capabilities", capabilities=[
                    {"capability": name, "state": True}
                    for name in ("events", "late-block-activate", "return-path")])
            source.call("migrate-set-parameters", **{"max-bandwidth": ONE_SOCKET_BANDWIDTH,
                                                     "downtime-limit": ONE_SOCKET_LIMIT})
            destination.call("getfd", fd=far.fileno(), fdname="migration")
            destination.call("migrate-incoming", uri="fd:migration")
            source.call("getfd", fd=near.fileno(), fdname="migration")
            source.call("migrate", uri="fd:migration")
            source.wait("MIGRATION", "completed")
            for end in (near, far):  # QEMU left the description non-blocking
                end.settimeout(DEADLINE)
            say(near, far, b"offer")
            destination.wait("MIGRATION", "completed")
            say(far, near, b"ready")
            say(near, far, b"go")
            destination.call("cont")
        return source.wait("STOP"), destination.wait("RESUME")
