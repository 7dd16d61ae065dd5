#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Containers whose VMs start from a template, and boot where it is no good.

usage: template.py FERRY SHIM
"""
import glob
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time

import host
from pair import FOREVER, Pair, ferry, move, wait_clean

FROM_TEMPLATE = "started from a template"


class Kept:
    """The templates of a host: where they are, and what its shims say of them."""

    def __init__(self, place, above=None):
        self.place = place
        self.above = above or os.path.join(place.folder, "templates")
        self.folder = os.path.join(self.above, place.namespace)
        self.file = os.path.join(self.folder, "template")
        place.configure(template=True, template_dir=self.above)

    def begin(self, name, *flags):
        """A container that runs on; not to its end."""
        return subprocess.Popen(
            self.place.argv("run", "-d", "--runtime", host.RUNTIME, *flags, host.IMAGE, name, "sh",
                            "-c", FOREVER),
            env=self.place.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def start(self, name, *flags):
        before = set(self.place.sandboxes())
        assert self.begin(name, *flags).wait(host.LIMIT) == 0
        sandbox, = set(self.place.sandboxes()) - before
        return Container(self.place, name, sandbox)

    def make(self):
        """By hand."""
        made = subprocess.run([self.place.shim, "template", "--namespace", self.place.namespace],
                              env=self.place.environment, text=True, stderr=subprocess.PIPE,
                              check=True)
        assert "made a template" in made.stderr, made.stderr
        self.check_made()

    def await_made(self, container):
        host.wait_for("a template", lambda: "made a template" in container.log())
        self.check_made()

    def check_made(self):
        assert os.listdir(self.folder) == ["template"], os.listdir(self.folder)
        assert os.stat(self.file).st_mode == 0o100600

    def forget(self):
        if self.identity():
            os.unlink(self.file)

    @classmethod
    def with_one(cls, place):
        kept = cls(place)
        if not kept.identity():
            kept.make()
        return kept

    def identity(self):
        try:
            found = os.stat(self.file)
            return found.st_ino, found.st_mtime_ns
        except FileNotFoundError:
            return None


class Container:
    def __init__(self, place, name, sandbox):
        self.place, self.name, self.sandbox = place, name, sandbox

    def log(self):
        with open(os.path.join(self.place.root, self.sandbox, "shim.log"), encoding="utf-8") as file:
            return file.read()

    def sh(self, script):
        return self.place.must("task", "exec", "--exec-id", str(time.monotonic_ns()), self.name,
                               "sh", "-c", script).out

    def guest(self, script):
        """In the guest, outside of the container."""
        return ferry(self.place, "--root", self.place.root, "exec", self.sandbox, "--", "busybox",
                     "sh", "-c", script).stdout

    def is_from_template(self):
        return FROM_TEMPLATE in self.log()

    def remove(self):
        host.remove(self.place, self.name)
        host.wait_for("its end", lambda: self.sandbox not in self.place.sandboxes())


def check_clock(one):
    """Whole seconds; a template's would be behind by its age."""
    begin = time.time()
    there = float(one.sh("busybox date +%s"))
    assert begin - 2 < there < time.time() + 1, (begin, there, time.time())


def sandbox_of(place, name):
    for sandbox in place.sandboxes():
        with open(os.path.join(place.root, sandbox, "shim.log"), encoding="utf-8") as file:
            if f" {name}: " in file.read():
                return sandbox
    raise AssertionError(f"no sandbox has {name}")


def makers(place):
    """Processes that make a template for `place`, and their QEMUs."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                words = file.read().split("\0")
        except OSError:
            continue
        if any(word == "guest=.making" for word in words) or \
                ("template" in words and any(word.startswith(place.folder) for word in words)):
            found.append(int(path.split("/")[2]))
    return found


def wait_quiet(place):
    host.wait_for("no maker", lambda: not makers(place))


def test_the_first_boots_and_makes_one(here, _):
    kept = Kept(here)
    first = kept.start("t1")
    assert not first.is_from_template()
    assert first.sh("echo well") == "well\n"
    kept.await_made(first)
    first.remove()
    result = host.run(here, "t2", "echo", "out")
    assert (result.code, result.out) == (0, "out\n"), result
    second = kept.start("t3")
    assert second.is_from_template(), second.log()
    second.remove()
    wait_quiet(here)


def test_two_of_one_are_two(here, _):
    """What a guest has of its own, each has; they begin at the same moment of the same kernel."""
    kept = Kept.with_one(here)
    some = [kept.start(name) for name in ("u1", "u2")]
    assert all(one.is_from_template() for one in some)
    for script in ("cat /proc/sys/kernel/random/boot_id", "cat /proc/sys/kernel/random/uuid",
                   "head -c 32 /dev/urandom | md5sum"):
        seen = [one.sh(script) for one in some]
        assert seen[0] != seen[1] and all(seen), (script, seen)
    seen = [one.guest("cat /etc/machine-id") for one in some]
    assert seen[0] != seen[1], seen
    assert all(re.fullmatch("[0-9a-f]{32}\n", text) for text in seen), seen
    # and the numbers that the kernel itself takes: where it puts a program
    seen = [one.sh("cat /proc/self/maps | busybox grep stack") for one in some]
    assert seen[0] != seen[1], seen
    for one in some:
        check_clock(one)
        one.remove()


def test_each_has_the_address_that_cni_gave(here, _):
    kept = Kept.with_one(here)
    names = [f"ftp{os.getpid()}{i}" for i in range(2)]
    some = []
    try:
        for i, name in enumerate(names):
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "add", "eth0", "address", f"02:fe:00:00:01:{i:02}",
                            "type", "veth", "peer", "name", "out0"], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "eth0", "up"], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "out0", "up"], check=True)
            some.append(kept.start(f"m{i}", "--with-ns", f"network:/run/netns/{name}"))
        for i, one in enumerate(some):
            assert one.is_from_template(), one.log()
            assert one.sh("cat /sys/class/net/eth0/address") == f"02:fe:00:00:01:{i:02}\n"
        for one in some:
            one.remove()
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def check_refused(kept, name, why):
    """It boots, says why, and another template is made."""
    before = kept.identity()
    one = kept.start(name)
    assert not one.is_from_template() and re.search(why, one.log()), one.log()
    assert one.sh("echo well") == "well\n"
    kept.await_made(one)
    assert kept.identity() != before
    one.remove()
    one = kept.start(name)
    assert one.is_from_template(), one.log()
    one.remove()


def test_a_damaged_one_is_not_used(here, _):
    kept = Kept.with_one(here)
    size = os.path.getsize(kept.file)
    with open(kept.file, "r+b") as file:  # in the middle of the memory
        file.seek(size // 2)
        byte = file.read(1)
        file.seek(size // 2)
        file.write(bytes([byte[0] ^ 1]))
    check_refused(kept, "d1", "it boots instead: it is damaged")
    with open(kept.file, "r+b") as file:
        file.truncate(size - 4096)
    check_refused(kept, "d2", "it boots instead: it is damaged")


def forge_devices(path):
    """Nonsense under a right digest: what only QEMU itself can find out."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    head = 16 + 5 * 8 + 32
    n_key, n_devices = struct.unpack(">QQ", data[16:32])
    begin = head + n_key
    data[begin + 4096:begin + n_devices] = bytes(n_devices - 4096)
    data[head - 32:head] = hashlib.sha256(data[:head - 32] + data[head:]).digest()
    with open(path, "r+b") as file:
        file.write(data)


def test_one_that_qemu_refuses_is_not_used_twice(here, _):
    kept = Kept.with_one(here)
    forge_devices(kept.file)
    check_refused(kept, "q1", "it boots instead: QEMU")


def test_one_of_another_image_is_replaced(here, _):
    """As after an update of kernel, image, QEMU or ferry."""
    kept = Kept.with_one(here)
    with open(os.path.join(here.guest, "vm.json"), encoding="utf-8") as file:
        os.utime(json.load(file)["initrd"])
    check_refused(kept, "o1", "no template in .* fits: it is of another VM")


def test_what_others_could_write_is_not_used(here, _):
    kept = Kept.with_one(here)
    for path, bits in ((kept.file, 0o640), (kept.folder, 0o750), (kept.above, 0o701)):
        good = os.stat(path).st_mode & 0o777
        os.chmod(path, bits)
        one = kept.start("w1")
        assert not one.is_from_template() and "it boots instead" in one.log(), one.log()
        assert "making a template" not in one.log(), one.log()
        one.remove()
        os.chmod(path, good)
    one = kept.start("w2")
    assert one.is_from_template(), one.log()
    one.remove()


def test_two_starters_make_one(here, _):
    kept = Kept(here)
    kept.forget()
    assert not here.sandboxes()
    begun = [kept.begin(name) for name in ("s1", "s2")]
    assert all(one.wait(host.LIMIT) == 0 for one in begun)
    some = [Container(here, name, sandbox_of(here, name)) for name in ("s1", "s2")]
    host.wait_for("a template", lambda: kept.identity())
    wait_quiet(here)
    logs = [one.log() for one in some]
    assert sum("made a template" in log for log in logs) == 1, logs
    assert sum("another process makes" in log or "has a template that fits" in log
               for log in logs) == 1, logs
    assert os.listdir(kept.folder) == ["template"]
    for one in some:
        one.remove()


def test_a_killed_maker_leaves_nothing_that_counts(here, _):
    kept = Kept(here)
    kept.forget()
    begun = kept.begin("k1")
    host.wait_for("a QEMU of the maker's", lambda: len(makers(here)) == 2)
    one = Container(here, "k1", here.sandboxes()[0])
    maker = int(re.search(r"making a template, process (\d+)", one.log()).group(1))
    os.kill(maker, signal.SIGKILL)
    wait_quiet(here)  # its QEMU ends with it
    assert kept.identity() is None
    assert begun.wait(host.LIMIT) == 0 and one.sh("echo well") == "well\n"
    one.remove()
    kept.make()


def test_a_full_disk_is_no_container_s_affair(here, _):
    above = os.path.join(here.folder, "small")
    os.mkdir(above, 0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=0700", "small", above], check=True)
    try:
        kept = Kept(here, above)
        one = kept.start("f1")
        host.wait_for("a word", lambda: "no template was made" in one.log())
        assert "no room" in one.log(), one.log()
        assert one.sh("echo well") == "well\n"
        assert os.listdir(kept.folder) == []
        one.remove()
        wait_quiet(here)
    finally:
        subprocess.run(["umount", above], check=True)


def test_a_tenant_has_its_own(here, _):
    """By containerd's namespace; made by hand here."""
    kept = Kept.with_one(here)
    made = subprocess.run([here.shim, "template", "--namespace", "other"], env=here.environment,
                          text=True, stderr=subprocess.PIPE, check=True)
    assert "made a template" in made.stderr, made.stderr
    again = subprocess.run([here.shim, "template", "--namespace", "other"], env=here.environment,
                           text=True, stderr=subprocess.PIPE, check=True)
    assert "has a template that fits" in again.stderr, again.stderr
    assert sorted(os.listdir(kept.above)) == ["default", "other"]
    bad = subprocess.run([here.shim, "template"], env=here.environment, text=True,
                         stderr=subprocess.PIPE, check=False)
    assert bad.returncode == 2 and "--namespace" in bad.stderr, bad


def serve(place, name, *more):
    """A shim without a containerd."""
    folder = os.path.join(place.folder, "bare", name)
    os.makedirs(folder, 0o700, exist_ok=True)
    log = open(os.path.join(folder, "shim.log"), "ab")  # pylint: disable=consider-using-with
    return folder, subprocess.Popen([place.shim, "serve", "--state-dir", folder, "--id", name, *more],
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def test_a_shim_killed_in_between_leaves_no_guest(here, _):
    """One that runs and has the template's random numbers still, say: the next shim ends it."""
    with open(os.path.join(here.guest, "vm.json"), encoding="utf-8") as file:
        config = here.write("bare.json", json.dumps({**json.load(file), "accelerator": "tcg"}))
    above = os.path.join(here.folder, "templates-bare")
    more = ("--config", config, "--template-dir", os.path.join(above, "t"))
    subprocess.run([here.shim, "template", *more], check=True, stderr=subprocess.DEVNULL)
    folder, shim = serve(here, "b1", *more)
    host.wait_for("its QEMU", lambda: all(os.path.exists(os.path.join(folder, name))
                                          for name in ("restoring", "qemu.json")))
    pid = json.loads(read(folder, "qemu.json"))["pid"]
    shim.kill()
    shim.wait()
    assert host.runs(pid) and FROM_TEMPLATE not in read(folder, "shim.log")
    _, shim = serve(here, "b1", *more)
    host.wait_for("another", lambda: FROM_TEMPLATE in read(folder, "shim.log"))
    assert "not renewed yet" in read(folder, "shim.log") and not host.runs(pid)
    assert not os.path.exists(os.path.join(folder, "restoring"))
    ferry(here, "--root", os.path.dirname(folder), "stop", "b1")
    assert shim.wait(host.LIMIT) == 0


def test_it_moves_as_any_other(here, there):
    """There and back, with what it had."""
    kept = Kept.with_one(here)
    one = kept.start("v1")
    assert one.is_from_template(), one.log()
    boot_id = one.sh("cat /proc/sys/kernel/random/boot_id")
    for source, target in (here, there), (there, here):
        report = move(source, target, "v1")
        print(f"# blackout {report['blackout_ms']:.1f} ms, total {report['total_ms']:.0f} ms")
        wait_clean(source)
        moved = Container(target, "v1", one.sandbox)
        assert moved.sh("cat /proc/sys/kernel/random/boot_id") == boot_id
        check_clock(moved)
    host.remove(here, "v1")
    wait_clean(here)


def main():
    with Pair(*sys.argv[1:3]) as hosts:
        failed = host.run_tests(globals(), *hosts)
    sys.exit(failed)


main()
