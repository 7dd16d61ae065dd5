#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A booted Linux moves to another QEMU version and back; what is not the same machine does not.

The other QEMU is $FERRY_OTHER_QEMU, else Debian's backport, which tools/fetch-qemu gets once. A
machine that cannot have it skips this, with CI=true too: it is no package of ours.

usage: versions.py FERRY FETCH-QEMU BUILD-DIR
"""
import json
import os
import re
import socket
import subprocess
import sys
import time

import ferry

ROOM = {"memory_mb": 192, "vcpus": 1, "accelerator": "tcg"}


def other_qemu():
    given = os.environ.get("FERRY_OTHER_QEMU")
    if given:
        return given
    result = subprocess.run([sys.argv[2], os.path.join(sys.argv[3], "other-qemu")], text=True,
                            capture_output=True, check=False)
    if result.returncode != 0:
        print(f"1..0 # SKIP {result.stderr.strip()}")
        sys.exit(0)
    return result.stdout.strip()


def hosts(place, qemu):
    """Host a has the installed QEMU, host b the other one."""
    place.must("host", "set", "--name", "a")
    place.must("host", "set", "--name", "b", "--qemu", qemu, root=place.b)


def check_memory(place, root):
    """The guest checks all that it has written, and has written more since `passes`."""
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(ferry.LIMIT)
        console.connect(os.path.join(root, "web", "console.sock"))
        console.sendall(b"check\n")
        text = ""
        while True:
            text += console.recv(4096).decode(errors="replace")
            answer = re.search(r"memory passes=(\d+) errors=(\d+)", text)
            if answer:
                assert answer.group(2) == "0", text
                return int(answer.group(1))


def version(place, root):
    return place.status("web", root=root)["qemu_version"].split(" ")[0]


def test_linux_there_and_back(place, qemu):
    hosts(place, qemu)
    image = os.path.join(place.folder, "image")
    place.must("image", "build", "--output", image)
    with open(os.path.join(image, "vm.json"), encoding="utf-8") as text:
        config = {**json.load(text), **ROOM}
    config.pop("network", None)
    config["cmdline"] += " ferry.run=tick ferry.memory_mb=48 ferry.memory_rate_mb=10"
    place.must("run", "web", "--config", place.file("vm.json", config))
    log = os.path.join(place.a, "web", "console.log")

    def is_up():
        with open(log, encoding="utf-8", errors="replace") as console:
            return "tick 1" in console.read()

    ferry.wait_for("Linux", is_up)
    first = version(place, place.a)
    passes = check_memory(place, place.a)
    for source, target in (place.a, place.b), (place.b, place.a):
        place.must("migrate", "web", "--to", target, root=source)
        ferry.only_at(place, target, source)
        deadline = time.monotonic() + ferry.LIMIT
        while (now := check_memory(place, target)) <= passes:  # and it goes on writing
            assert time.monotonic() < deadline, (passes, now)
        passes = now
        if target == place.b:
            assert version(place, target) != first
    assert version(place, place.a) == first
    place.must("stop", "web")


def test_another_cpu_is_named(place, qemu):
    """Under TCG 10.0 gives a Haswell x2apic, 7.2 does not."""
    hosts(place, qemu)
    config = {**ferry.IDLE_VM, "cpu": "Haswell-v2"}
    for source, target, word in (place.b, place.a, "is at the source and not here"), \
            (place.a, place.b, "is here and not at the source"):
        place.must("run", "web", "--config", place.file("vm.json", config), root=source)
        result = place.ferry("migrate", "web", "--to", target, root=source)
        assert result.code == 5 and f"CPU feature x2apic {word}" in result.err, result
        ferry.only_at(place, source, target)
        place.must("stop", "web", root=source)


def test_an_unknown_machine_is_named(place, qemu):
    hosts(place, qemu)
    config = {**ferry.IDLE_VM, "machine": "pc-q35-10.0"}
    place.must("run", "web", "--config", place.file("vm.json", config), root=place.b)
    result = place.ferry("migrate", "web", "--to", place.a, root=place.b)
    assert result.code == 5 and "the machine type is pc-q35-10.0 at the source, which QEMU" in \
        result.err, result
    ferry.only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def main():
    ferry.need_qemu()
    qemu = other_qemu()
    tests = [
        ("Linux there and back", test_linux_there_and_back),
        ("another CPU is named", test_another_cpu_is_named),
        ("an unknown machine is named", test_an_unknown_machine_is_named),
    ]

    def in_a_place(test):
        with ferry.Place(sys.argv[1]) as place:
            test(place, qemu)

    ferry.tap([(name, lambda test=test: in_a_place(test)) for name, test in tests])


main()
