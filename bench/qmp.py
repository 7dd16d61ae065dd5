# SPDX-License-Identifier: MIT
"""A QEMU for a bench: its process and its QMP socket, synchronous."""
import array
import json
import os
import socket
import subprocess
import time

DEADLINE = 60  # seconds; nothing here takes long, so this only ends what hangs


class QmpError(Exception):
    pass


class Qemu:
    """One QEMU, started by `command`, its files STEM.*. close() always ends it."""

    def __init__(self, stem, command):
        self.path, self.log = f"{stem}.qmp", f"{stem}.log"
        self.sock = None
        self.buffer, self.events = b"", []
        with open(self.log, "wb") as log:
            # Not the caller's process: what it opens must not be inherited, and Ctrl-C is ours.
            self.process = subprocess.Popen(
                [*command, "-qmp", f"unix:{self.path},server=on,wait=off"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            self.connect()
        except BaseException:
            self.close()
            raise

    def connect(self):
        deadline = time.monotonic() + DEADLINE
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(self.path)
                break
            except OSError:
                self.sock.close()
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise QmpError(f"QEMU does not answer: {self.tail()}")
            time.sleep(0.005)
        self.sock.settimeout(DEADLINE)
        self.read()
        self.call("qmp_capabilities")

    def tail(self):
        with open(self.log, "rb") as log:
            return log.read()[-400:].decode("utf-8", "replace").strip()

    def read(self):
        while b"\n" not in self.buffer:
            more = self.sock.recv(65536)
            if not more:
                raise QmpError(f"QEMU ended: {self.tail()}")
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def call(self, command, fd=None, **arguments):
        """The command's result. `fd` goes along (getfd)."""
        text = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        rights = []
        if fd is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.sock.sendmsg([text], rights)
        while True:
            reply = self.read()
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise QmpError(f"{command}: {reply['error']['desc']}")
            else:
                return reply["return"]

    def next_event(self, deadline):
        """The first that has not been taken since forget(); None when there is none in time."""
        while not self.events:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.sock.settimeout(left)
            try:
                reply = self.read()
            except TimeoutError:
                return None
            finally:
                self.sock.settimeout(DEADLINE)
            if "event" not in reply:
                raise QmpError(f"unexpected: {reply}")
            self.events.append(reply)
        return self.events.pop(0)

    def wait(self, name, status=None):
        """Takes events up to this one."""
        deadline = time.monotonic() + DEADLINE
        while True:
            event = self.next_event(deadline)
            if not event:
                raise QmpError(f"no {name} event: {self.tail()}")
            data = event.get("data", {})
            if event["event"] == "MIGRATION" and data["status"] == "failed":
                raise QmpError(f"migration failed: {self.tail()}")
            if event["event"] == name and status in (None, data.get("status")):
                return event

    def forget(self):
        self.events.clear()

    def close(self):
        if self.sock:
            self.sock.close()
        self.process.kill()
        self.process.wait()
