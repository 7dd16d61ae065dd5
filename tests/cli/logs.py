#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`ferry logs`: what is there, what comes, and where the sandbox has gone.

usage: logs.py FERRY
"""
import os
import pty
import subprocess
import sys
import threading

import ferry

IMAGE = []


class Follower:
    """A `ferry logs --follow`, and what it has printed."""

    def __init__(self, place, *options):
        self.process = place.start("logs", "web", "--follow", *options)
        self.text, self.errors = "", ""
        self.threads = [threading.Thread(target=self.read, args=names) for names in
                        (("stdout", "text"), ("stderr", "errors"))]
        for thread in self.threads:
            thread.start()

    def read(self, stream, name):
        for line in getattr(self.process, stream):
            setattr(self, name, getattr(self, name) + line)

    def wait_for(self, text):
        ferry.wait_for(text, lambda: text in self.text)

    def end(self):
        code = self.process.wait(ferry.LIMIT)
        for thread in self.threads:
            thread.join(ferry.LIMIT)
        return code


def say(place, text, root=None):
    """On the guest's console."""
    place.must("exec", "web", "--", "busybox", "sh", "-c", f"echo {text} >/dev/console", root=root)


def console(place, *options, root=None):
    return place.must("logs", "web", "--console", *options, root=root).out


def log_of(place, root, name):
    return os.path.join(root, "web", name)


def test_all_of_it(place):
    ferry.start_guest(place, IMAGE[0])
    # the shell on the console asks where the cursor is: then it is quiet
    ferry.wait_for("its prompt", lambda: "\x1b[6n" in console(place))
    say(place, "hello from inside")
    result = place.must("logs", "web")
    lines = result.out.splitlines()
    assert lines[0] == f"web in {place.a}: VM running", result
    titles = [line for line in lines if line.startswith("==>")]
    assert titles[0] == "==> shim <==" and titles[-1] == "==> console <==", result
    assert lines[-1].endswith("hello from inside") and len(lines) < 70, result
    text = console(place)
    assert text.endswith("hello from inside\n") and "SeaBIOS" in text and "==>" not in text, text
    with open(log_of(place, place.a, "shim.log"), encoding="utf-8") as file:
        assert place.must("logs", "web", "--shim").out == file.read()


def test_the_last_lines(place):
    for number in range(5):
        say(place, f"number {number}")
    assert console(place, "-n", "2").split() == ["number", "3", "number", "4"]
    assert console(place, "--lines=1").split() == ["number", "4"]
    assert console(place, "-n", "0") == ""
    assert len(console(place, "-n", "1000000")) == len(console(place))
    for options in ("-n", "x"), ("-n",), ("--lines", "-1"), ("-x",), ("--linse", "1"):
        assert place.ferry("logs", "web", *options).code == 2, options
    assert place.ferry("logs").code == 2 and place.ferry("logs", "nobody").code == 3
    assert place.ferry("logs", "..").code != 0


def test_a_terminal_is_safe(place):
    """What the guest writes does not get to it as it is."""
    say(place, "$'\\x1b[31mred\\x07'")
    ours, theirs = pty.openpty()
    done = subprocess.run([place.program, "logs", "web", "--console", "-n", "1"], stdout=theirs,
                          env=place.environment(), check=True, timeout=ferry.LIMIT)
    os.close(theirs)
    seen = os.read(ours, 4096)
    os.close(ours)
    assert done.returncode == 0 and b"^[[31mred^G" in seen and b"\x1b" not in seen, seen
    assert "\x1b[31mred\x07" in console(place, "-n", "1")


def test_it_survives_a_move(place):
    """Follower and log: nothing is lost or repeated; the source tells where it went."""
    follower = Follower(place, "--console", "-n", "0")
    both = Follower(place, "-n", "1")
    say(place, "before the move")
    follower.wait_for("before the move")
    place.must("migrate", "web", "--to", place.b)
    say(place, "after the move", root=place.b)
    follower.wait_for("after the move")
    both.wait_for("after the move")
    text = console(place, root=place.b)
    assert text.index("number 4") < text.index("before the move") < text.index("after the move")
    assert text.count("before the move") == 1, text
    result = place.must("logs", "web", root=place.b)
    assert f"it came from {place.a} at 2" in result.out, result
    gone = place.must("logs", "web", "--console")
    assert gone.out == text and f"web has moved from {place.a} to {place.b}" in gone.err, gone
    place.must("migrate", "web", "--to", place.a, root=place.b)
    say(place, "home")
    follower.wait_for("home")
    text = console(place)
    for word in "number 4", "before the move", "after the move", "home":
        assert text.count(word) == 1, (word, text)
    place.must("stop", "web")
    assert follower.end() == 0 and both.end() == 0
    assert follower.text.split() == "before the move after the move home".split(), follower.text
    assert "web has ended" in follower.errors and "has moved from" in follower.errors
    assert both.text.count("==> console <==") >= 2 and "==> shim <==" in both.text
    for root in place.a, place.b:
        assert "web" not in os.listdir(root), os.listdir(root)


def test_what_is_carried_is_bounded(place):
    ferry.run(place)
    with open(log_of(place, place.a, "console.log"), "a", encoding="utf-8") as file:
        for number in range(20000):
            file.write(f"line {number}\n")
    place.must("migrate", "web", "--to", place.b)
    with open(log_of(place, place.b, "console.before"), encoding="utf-8") as file:
        text = file.read()
    # its firmware writes, too
    numbers = [int(line.split()[1]) for line in text.splitlines() if line.startswith("line ")]
    assert numbers == list(range(numbers[0], 20000)) and 60000 < len(text) <= 65536, len(text)
    assert "line 19999\n" in console(place, root=place.b)
    place.must("stop", "web", root=place.b)


def test_a_shim_that_is_dead(place):
    ferry.run(place)
    status = place.status("web")
    ferry.kill(status["shim_pid"])
    result = place.must("logs", "web")
    assert "its shim does not; `ferry" in result.out and "recover web" in result.out, result
    assert "==> shim <==" in result.out, result
    follower = Follower(place, "--shim")
    place.must("recover", "web")
    ferry.wait_for("its new shim", lambda: f"pid {place.status('web')['shim_pid']}" in follower.text)
    status = place.status("web")
    ferry.kill(status["shim_pid"], status["qemu_pid"])
    assert follower.end() == 0 and "has ended" in follower.errors, follower.errors
    assert follower.text == place.must("logs", "web", "--shim").out
    assert "has ended: neither shim nor VM is left" in place.must("logs", "web").out
    place.must("stop", "web")


def test_a_log_that_is_begun_anew(place):
    """As QEMU's are when they grow large: what was written since is read, and no more than that."""
    ferry.run(place)
    follower = Follower(place, "--qemu")
    path = log_of(place, place.a, "qemu.log")
    with open(path, "a", encoding="utf-8") as file:
        file.write("much " * 1000 + "\nmark 1\n")
    follower.wait_for("mark 1\n")
    os.truncate(path, 0)
    with open(path, "a", encoding="utf-8") as file:
        file.write("mark 2\n")
    follower.wait_for("mark 2\n")
    os.rename(path, path + ".old")
    with open(path, "x", encoding="utf-8") as file:
        file.write("mark 3\n")
    follower.wait_for("mark 3\n")
    place.must("stop", "web")
    assert follower.end() == 0
    assert [follower.text.count(f"mark {number}") for number in (1, 2, 3)] == [1, 1, 1], follower.text


def test_links_are_not_followed(place):
    ferry.run(place)
    os.unlink(log_of(place, place.a, "console.log"))
    os.symlink("/etc/passwd", log_of(place, place.a, "console.log"))
    assert console(place) == ""
    place.must("stop", "web")


def main():
    ferry.need_qemu()
    wanted = os.environ.get("ONLY", "")
    with ferry.Place(sys.argv[1]) as place:
        IMAGE.append(ferry.guest_image(place))
        ferry.tap([(name[len("test_"):].replace("_", " "), lambda test=test: test(place))
                   for name, test in globals().items()
                   if name.startswith("test_") and wanted in name])


main()
