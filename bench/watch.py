# SPDX-License-Identifier: MIT
"""The blackout as seen from outside, the same way whoever moves the guest.

Each QEMU is started through a small script that gives it one QMP monitor more. On it the STOP event
of the source and the RESUME event of the destination are heard, each with the time that its QEMU
gave it; both run on this machine, so by one clock. Nothing is read there while the guest stands.
"""
import json
import os
import shutil
import socket
import threading
import time

PROGRAM = "qemu-system-x86_64"
POLL = 0.003  # how often a new QEMU is looked for; it is there long before the guest stands
LIMIT = 10  # seconds for a QEMU to answer on the extra monitor

# Only a VM gets the monitor, not a QEMU that is asked what it can do. exec keeps the process id, so
# the socket's name says whose it is.
SCRIPT = """#!/bin/sh
case " $* " in
*" -name guest="*) ;;
*) exec {real} "$@" ;;
esac
{adapt}
exec {real} "$@" {more} \\
        -chardev "socket,id=watch,path={folder}/$$,server=on,wait=off" \\
        -mon chardev=watch,mode=control
"""


class WatchError(Exception):
    pass


class Monitor:
    """The extra monitor of one QEMU."""

    def __init__(self, path):
        self.pid = int(os.path.basename(path))
        self.buffer, self.lines, self.ended = b"", [], False
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT)
        try:
            self.sock.connect(path)
            self.read_line()  # the greeting
            self.sock.sendall(b'{"execute": "qmp_capabilities"}\n')
            self.read_line()
        except BaseException:
            self.sock.close()
            raise

    def fill(self):
        more = self.sock.recv(65536)
        self.ended = self.ended or not more
        self.buffer += more

    def read_line(self):
        while b"\n" not in self.buffer:
            if self.ended:
                raise WatchError(f"QEMU {self.pid} closed its monitor")
            self.fill()
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def times(self, name, wait=False):
        """When `name` came, in seconds, since the last forget(); `wait`: until it has come."""
        deadline = time.monotonic() + LIMIT
        while True:
            self.take_what_is_there()
            found = [line["timestamp"]["seconds"] + line["timestamp"]["microseconds"] / 1e6
                     for line in self.lines if line.get("event") == name]
            if found or not wait or self.ended or time.monotonic() > deadline:
                return found
            time.sleep(POLL)

    def take_what_is_there(self):
        self.sock.setblocking(False)
        try:
            while not self.ended:
                self.fill()
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True
        self.sock.settimeout(LIMIT)
        while b"\n" in self.buffer:
            self.lines.append(self.read_line())

    def forget(self):
        self.take_what_is_there()
        self.lines.clear()

    def close(self):
        self.sock.close()


class Watch:
    """The QEMUs of one chain: the one that the guest is in, and the one that it goes to."""

    def __init__(self, folder, name, adapt="", more=""):
        self.folder = os.path.join(folder, f"{name}.watch")
        self.path = os.path.join(folder, f"{name}.bin")  # to go first in PATH
        self.program = os.path.join(self.path, PROGRAM)
        self.here = None
        self.on_qemu = None  # called with the process id of each
        self.began = self.ended = None  # wall clock: of the last move, as QEMU tells with its `events`
        self.seen = set()
        os.mkdir(self.folder)
        os.mkdir(self.path)
        os.chmod(self.folder, 0o1777)  # ferry's QEMUs have a user each
        with open(self.program, "w", encoding="utf-8") as script:
            script.write(SCRIPT.format(adapt=adapt, more=more, folder=self.folder,
                                       real=shutil.which(PROGRAM)))
        os.chmod(self.program, 0o755)

    def next_monitor(self, until):
        """Of a QEMU that was not there before; None when `until` says so first."""
        while not until():
            for name in os.listdir(self.folder):
                if name in self.seen or not name.isdigit():
                    continue
                try:
                    monitor = Monitor(os.path.join(self.folder, name))
                except (ConnectionRefusedError, FileNotFoundError):
                    continue  # bound and not listening yet
                self.seen.add(name)
                if self.on_qemu:
                    self.on_qemu(monitor.pid)
                return monitor
            time.sleep(POLL)
        return None

    def begin(self):
        """After the first QEMU was started."""
        deadline = time.monotonic() + LIMIT
        self.here = self.next_monitor(lambda: time.monotonic() > deadline)
        if not self.here:
            raise WatchError("the first QEMU has no monitor for the bench")

    def move(self, mover):
        """mover() moves the guest; ms from STOP here to RESUME there, or None: it still runs here."""
        there, failed, over = [], [], threading.Event()

        def follow():
            try:
                monitor = self.next_monitor(over.is_set)
            except (WatchError, OSError) as error:
                failed.append(error)  # it died at once, and mover() has more to say
                return
            if monitor:
                there.append(monitor)

        self.here.forget()
        follower = threading.Thread(target=follow)
        follower.start()
        try:
            moved = mover()
        finally:
            over.set()
            follower.join()
        if not moved:
            for monitor in there:
                monitor.close()
            return None
        if not there:
            raise WatchError(f"the destination's QEMU was not seen: {failed or 'no monitor'}")
        stops, resumes = self.here.times("STOP"), there[0].times("RESUME", wait=True)
        if not stops or not resumes:
            raise WatchError(f"{len(stops)} STOP at the source, {len(resumes)} RESUME at the "
                             "destination")
        self.began = min(self.here.times("MIGRATION"), default=None)
        self.ended = max([resumes[0], *there[0].times("MIGRATION")])
        self.here.close()
        self.here = there[0]
        return (resumes[0] - stops[-1]) * 1e3

    def close(self):
        if self.here:
            self.here.close()
