#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The tiny guest on real QEMU: boots, beats, checks itself, notices a broken page, is migrated.

usage: test-tiny.py tiny.elf
"""
import array
import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time

QEMU = "qemu-system-x86_64"
PATIENCE = 60  # seconds; only a hang takes this long


class Vm:
    """One QEMU with its QMP and console sockets."""

    def __init__(self, folder, name, elf, *more):
        console, qmp = os.path.join(folder, name + ".con"), os.path.join(folder, name + ".qmp")
        self.process = subprocess.Popen([
            QEMU, "-machine", "pc-q35-7.2,accel=tcg,usb=off,sata=off,smbus=off", "-cpu", "Nehalem-v1",
            "-m", "65528k",  # not 64 MiB: see README.md
            "-nodefaults", "-no-user-config", "-display", "none", "-kernel", elf,
            "-append", "rate=5000 wss=4096 hb=20",
            "-chardev", f"socket,id=console,path={console},server=on,wait=off",
            "-serial", "chardev:console", "-qmp", f"unix:{qmp},server=on,wait=off", *more])
        self.buffers = {}
        self.events = []
        self.paths = console, qmp

    def open(self):
        self.console, self.qmp = (self.connect(path) for path in self.paths)
        self.line(self.qmp)
        self.call("qmp_capabilities")

    def connect(self, path):
        deadline = time.monotonic() + PATIENCE
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(path)
                self.buffers[connection] = b""
                return connection
            except OSError:
                connection.close()
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.005)

    def line(self, connection):
        while b"\n" not in self.buffers[connection]:
            if not select.select([connection], [], [], PATIENCE)[0]:
                raise TimeoutError("the guest or QEMU is silent")
            more = connection.recv(65536)
            if not more:
                raise EOFError("QEMU hung up")
            self.buffers[connection] += more
        line, self.buffers[connection] = self.buffers[connection].split(b"\n", 1)
        return line.decode("utf-8", "replace").strip()

    def call(self, command, fd=None, **arguments):
        text = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        rights = [] if fd is None else [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.qmp.sendmsg([text], rights)
        while True:
            reply = json.loads(self.line(self.qmp))
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")
            self.events.append(reply)

    def wait(self, name, status=None):
        while not any(event["event"] == name and status in (None, event["data"].get("status"))
                      for event in self.events):
            message = json.loads(self.line(self.qmp))
            if "event" in message:
                self.events.append(message)

    def expect(self, start):
        """The next line that starts so, as {name: value}; a page error on the way is ours."""
        while True:
            line = self.line(self.console)
            if line.startswith("E "):
                raise AssertionError(line)
            if line.startswith(start):
                return dict(word.split("=") for word in line.split() if "=" in word), line

    def send(self, text):
        self.console.sendall(text.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        for connection in self.buffers:
            connection.close()


def migrate(source, target):
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    for vm in (source, target):
        vm.call("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": True}
            for name in ("events", "return-path", "late-block-activate")])
    target.call("getfd", fd=far.fileno(), fdname="move")
    target.call("migrate-incoming", uri="fd:move")
    source.call("getfd", fd=near.fileno(), fdname="move")
    source.call("migrate", uri="fd:move")
    source.wait("MIGRATION", "completed")
    target.wait("MIGRATION", "completed")
    for end in (listener, near, far):
        end.close()
    target.call("cont")


def cases(elf, folder, vms):
    def start(*arguments):
        vm = Vm(folder, str(len(vms)), elf, *arguments)
        vms.append(vm)
        vm.open()
        return vm

    vm = None

    def boots():
        nonlocal vm
        vm = start()
        banner()

    def banner():
        started, _ = vm.expect("TINY")
        assert started["base"] == "0x00200000" and started["wss"] == "4096", started

    def beats():
        first, _ = vm.expect("H ")
        while True:
            later, _ = vm.expect("H ")
            assert later["errors"] == "0", later
            if int(later["pages"]) > int(first["pages"]) and int(later["gen"]) >= 3:
                return

    def checks():
        vm.send("c")
        _, line = vm.expect("C ")
        assert line.startswith("C ok"), line

    def pauses():
        vm.send("0")
        vm.send("ss")
        vm.expect("H ")
        seen = None
        while True:  # beats that were on their way may still count
            beat, _ = vm.expect("H ")
            if beat["pages"] == seen:
                break
            seen = beat["pages"]
        vm.send("3")

    def is_migrated():
        nonlocal vm
        before, _ = vm.expect("H ")
        target = start("-S", "-incoming", "defer")
        migrate(vm, target)
        vm.close()
        vm = target
        after, _ = vm.expect("H ")
        assert int(after["pages"]) >= int(before["pages"]), (before, after)
        checks()

    def is_migrated_flat_out():
        vm.send("9")
        is_migrated()
        vm.send("3")

    def notices_a_broken_page():
        vm.send("bc")
        found, line = vm.expect("C ")
        assert line.startswith("C BAD") and found["page"] == "2048", line

    def resets():
        vm.send("r")
        vm.wait("RESET")
        banner()
        checks()

    def powers_off():
        vm.send("p")
        vm.wait("SHUTDOWN")
        assert vm.process.wait(PATIENCE) == 0

    return [boots, beats, checks, pauses, is_migrated, is_migrated_flat_out,
            notices_a_broken_page, resets, powers_off]


def main():
    if not shutil.which(QEMU):
        if os.environ.get("CI") == "true":
            sys.exit(f"no {QEMU}: ./dev setup installs it")
        print(f"1..0 # SKIP no {QEMU}")
        return 0
    vms = []
    failed = False
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(lambda: [vm.close() for vm in vms])
        for number, case in enumerate(cases(sys.argv[1], folder, vms), 1):
            try:
                case()
                print(f"ok {number} - {case.__name__}", flush=True)
            except Exception as error:  # whatever it is, it is this case's failure
                print(f"not ok {number} - {case.__name__}", flush=True)
                print(f"{case.__name__}: {error!r}", file=sys.stderr)
                failed = True
                break
        print("1..9")
    return 1 if failed else 0


sys.exit(main())
