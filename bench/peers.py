# SPDX-License-Identifier: MIT
"""What ferry is measured next to: three ways to move the same guest with plain QMP.

Plain      what a simple script does, with QEMU's defaults: `migrate tcp:`, a look at query-migrate
           each 50 ms, then `cont` at the destination.
Floor      no manager at all: the destination runs on by itself when it has loaded (no -S), and
           nobody says who owns the guest. Nothing that waits for an answer can be faster.
OneSocket  the bare minimum that ferry's design allows: events instead of polls, one TCP socket
           for QEMU's stream and a handover of three words, return-path. No journal, no
           authentication, no confinement.

Floor and OneSocket have no limit of bandwidth and a downtime limit of 1 ms, so that they stop the
guest at the least that it leaves; after FORCE_PASS passes they stop it all the same.
"""
import os
import socket
import time

from chain import Chain, read_console
from qmp import DEADLINE, Qemu, QmpError

POLL = 0.05  # Plain's manager looks this often
LEAST_LIMIT = 1  # ms, QEMU's downtime-limit
NO_LIMIT = 2000000  # ms, the highest that it takes
BANDWIDTH = 10**11
FORCE_PASS = 10


class ScriptChain(Chain):
    """By a script: subclasses copy(), which returns once the guest runs there; False: it failed to
    within the time."""

    INCOMING = ("-S", "-incoming", "defer")

    def __init__(self, *rest):
        super().__init__(*rest)
        self.source = None

    def start(self):
        self.source = self.qemu(self.hops)

    def qemu(self, number, incoming=()):
        g = self.guest
        # 8 KiB less, as ferry gives a TCG guest: docs/vm-config.md says which writes of such guests
        # QEMU 7.2 loses otherwise. Here, a guest hung within a hundred moves.
        size = f"{g.memory_mb * 1024 - 8}k"
        return Qemu(
            os.path.join(self.folder, f"{self.name}-{number}"),
            [*self.link.inside("ab"[number % 2]), self.watch.program, "-name", "guest=bench",
             "-machine", "pc-q35-7.2,accel=tcg,hpet=off,usb=off,sata=off,smbus=off,vmport=off,"
             "i8042=off,memory-backend=ram",
             "-cpu", "Nehalem-v1", "-m", f"size={size}", "-smp", "1",
             "-object", f"memory-backend-memfd,id=ram,size={size},share=on",
             "-nodefaults", "-no-user-config", "-display", "none",
             "-kernel", g.kernel, "-initrd", g.initrd, "-append", g.cmdline,
             "-object", "rng-random,id=rng,filename=/dev/urandom",
             "-device", "virtio-rng-pci,rng=rng,addr=0x2",
             "-chardev", f"file,id=console,path={self.console(number)}",
             "-device", "isa-serial,chardev=console", *incoming])

    def console(self, number):
        return os.path.join(self.folder, f"{self.name}-{number}.console")

    def output(self):
        return read_console(self.console(self.hops))

    def move(self):
        destination = None
        try:
            uri = f"tcp:{self.link.address(self.side(1))}:{self.link.free_port(self.side(1))}"
            destination = self.qemu(self.hops + 1, [uri if word == "URI" else word
                                                    for word in self.INCOMING])
            self.source.forget()
            if not self.copy(self.source, destination, uri):
                self.give_up(self.source)
                destination.close()
                return None
            ram = self.source.call("query-migrate")["ram"]
        except BaseException:
            if destination:
                destination.close()
            raise
        self.source.close()
        self.source = destination
        # QEMU counts the last look, while the guest stands, as one more pass.
        return {"passes": ram["dirty-sync-count"] - 1, "bytes": ram["transferred"],
                "page_bytes": ram["normal-bytes"],
                "blackout_bytes": ram["downtime-bytes"]}

    @staticmethod
    def give_up(source):
        source.call("migrate_cancel")
        deadline = time.monotonic() + DEADLINE
        while source.call("query-migrate")["status"] != "cancelled":
            if time.monotonic() > deadline:
                raise QmpError("cannot cancel the migration")
            time.sleep(POLL)

    def stop(self):
        if self.source:
            self.source.close()


class Plain(ScriptChain):
    def __init__(self, force_pass, *rest):
        super().__init__(*rest)
        self.force_pass = force_pass  # None: QEMU's downtime limit to the end

    def copy(self, source, destination, uri):
        destination.call("migrate-incoming", uri=uri)
        source.call("migrate", uri=uri)
        deadline, forced = time.monotonic() + self.move_limit, False
        while time.monotonic() < deadline:
            info = source.call("query-migrate")
            if info["status"] == "completed":
                destination.call("cont")
                return True
            if info["status"] == "failed":
                raise QmpError(f"migration failed: {source.tail()} {destination.tail()}")
            if self.force_pass and not forced and \
                    info.get("ram", {}).get("dirty-sync-count", 0) > self.force_pass:
                source.call("migrate-set-parameters", **{"downtime-limit": NO_LIMIT})
                forced = True
            time.sleep(POLL)
        return False


def copy_by_events(source, deadline):
    """Until the source has sent it all; forced after FORCE_PASS. False: not within the time."""
    while True:
        event = source.next_event(deadline)
        if not event:
            return False
        data = event.get("data", {})
        if event["event"] == "MIGRATION_PASS" and data["pass"] == FORCE_PASS + 1:
            source.call("migrate-set-parameters", **{"downtime-limit": NO_LIMIT})
        elif event["event"] == "MIGRATION" and data["status"] == "failed":
            raise QmpError(f"migration failed: {source.tail()}")
        elif event["event"] == "MIGRATION" and data["status"] == "completed":
            return True


def set_up(side, *capabilities):
    side.call("migrate-set-capabilities", capabilities=[
        {"capability": name, "state": True} for name in ("events", *capabilities)])
    side.call("migrate-set-parameters", **{"max-bandwidth": BANDWIDTH,
                                           "downtime-limit": LEAST_LIMIT})


class Floor(ScriptChain):
    INCOMING = ("-incoming", "URI")

    def copy(self, source, destination, uri):
        set_up(source)
        source.call("migrate", uri=uri)
        return copy_by_events(source, time.monotonic() + self.move_limit) and \
            bool(destination.wait("RESUME"))


def say(sender, receiver, word):
    sender.sendall(word)
    got = b""
    while len(got) < len(word):
        more = receiver.recv(len(word) - len(got))
        if not more:
            raise QmpError("the migration socket was closed")
        got += more


class OneSocket(ScriptChain):
    def copy(self, source, destination, uri):
        near, far = self.link.connected(self.side(), self.side(1))
        with near, far:
            say(near, far, b"hello")
            say(far, near, b"hello")
            for side in (source, destination):
                set_up(side, "late-block-activate", "return-path")
            destination.call("getfd", fd=far.fileno(), fdname="migration")
            destination.call("migrate-incoming", uri="fd:migration")
            source.call("getfd", fd=near.fileno(), fdname="migration")
            source.call("migrate", uri="fd:migration")
            if not copy_by_events(source, time.monotonic() + self.move_limit):
                return False
            for end in (near, far):  # QEMU left the description non-blocking
                end.settimeout(DEADLINE)
            say(near, far, b"offer")
            destination.wait("MIGRATION", "completed")
            say(far, near, b"ready")
            say(near, far, b"go")
            destination.call("cont")
        return True
