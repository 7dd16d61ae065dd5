#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Programs in a real Linux guest, by the command line.

usage: exec.py FERRY
"""
import hashlib
import os
import pty
import signal
import subprocess
import sys
import termios
import threading

import ferry


def digest(place, name):
    with open(os.path.join(place.folder, name), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def count(last):
    return "".join(f"{i}\n" for i in range(1, last + 1))


def test_output_and_exit_status(place):
    result = place.ferry("exec", "web", "--", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.code, result.out, result.err) == (7, "out\n", "err\n"), result
    result = place.ferry("exec", "web", "--", "busybox", "sh", "-c", "kill -9 $$")
    assert result.code == 128 + 9, result
    result = place.ferry("exec", "web", "--env", "A=b c", "--cwd", "/tmp", "--uid", "12", "--",
                         "busybox", "sh", "-c", "echo $A; pwd; busybox id -u")
    assert result.out == "b c\n/tmp\n12\n", result
    assert place.must("ps", "web", "--json").json() == {"programs": []}, "not forgotten"


def test_input_to_its_end(place):
    data = os.urandom(2_000_000)
    done = subprocess.run([place.program, "exec", "web", "--", "busybox", "md5sum"], input=data,
                          env=place.environment(), stdout=subprocess.PIPE, check=True,
                          timeout=ferry.LIMIT)
    assert done.stdout.split()[0].decode() == hashlib.md5(data).hexdigest(), done


def test_a_shim_that_is_killed_loses_nothing(place):
    script = "busybox seq 1 100000; read x; busybox seq 100001 200000; exit 5"
    with open(os.path.join(place.folder, "out"), "w+b") as out:
        program = subprocess.Popen(
            [place.program, "exec", "web", "--", "busybox", "sh", "-c", script],
            env=place.environment(), stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE)
        ferry.wait_for("some output", lambda: out.seek(0, os.SEEK_END) > 100000)
        for _ in range(2):
            os.kill(place.status("web")["shim_pid"], signal.SIGKILL)
            ferry.wait_for("its end", lambda: place.ferry("status", "web").code != 0)
            place.must("recover", "web")
        _, err = program.communicate(b"go on\n", timeout=ferry.LIMIT)
        assert program.returncode == 5, (program.returncode, err)
        out.seek(0)
        assert out.read().decode() == count(200000)


def test_a_terminal(place):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    program = subprocess.Popen(
        [place.program, "exec", "web", "--", "busybox", "sh", "-c",
         "read line; echo got $line; test -t 0 && test -t 1 && busybox stty size; exit 4"],
        env=place.environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.write(ours, b"this\n")
    seen = b""
    try:
        while True:
            seen += os.read(ours, 4096)
    except OSError:
        pass  # the other side is closed
    os.close(ours)
    assert program.wait(ferry.LIMIT) == 4, seen
    assert b"got this\r\n" in seen and b"\r\n30 100\r\n" in seen, seen


def test_signals_are_passed_on(place):
    program = place.start("exec", "web", "--", "busybox", "sh", "-c",
                          "trap 'echo got it; exit 3' TERM; echo ready; while :; do "
                          "busybox sleep 0.1; done")
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate(timeout=ferry.LIMIT)
    assert (program.returncode, out) == (3, "got it\n"), (program.returncode, out, err)


def test_programs_move(place):
    """Two programs whose bytes flow all the time, there and back; the shell between is typed into."""
    flood = subprocess.Popen([place.program, "exec", "web", "--", "busybox", "seq", "1", "4000000"],
                             env=place.environment(), stdin=subprocess.DEVNULL,
                             stdout=open(os.path.join(place.folder, "flood"), "wb"))
    echo = subprocess.Popen([place.program, "exec", "web", "--", "busybox", "cat"],
                            env=place.environment(), stdin=subprocess.PIPE,
                            stdout=open(os.path.join(place.folder, "echo"), "wb"))
    quiet = subprocess.Popen([place.program, "exec", "web", "--", "busybox", "sh", "-c",
                              "read x; read y; echo $x $y >&2; exit 9"],
                             env=place.environment(), stdin=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    ferry.wait_for("the programs", lambda: place.must("ps", "web").out.count("running") == 3)
    written = [os.urandom(1 << 20) for _ in range(6)]
    writer = threading.Thread(target=lambda: [echo.stdin.write(b) for b in written]
                              and echo.stdin.close())
    quiet.stdin.write("before\n")
    quiet.stdin.flush()
    writer.start()
    place.must("migrate", "web", "--to", place.b)
    assert "running" in place.must("ps", "web", root=place.b).out
    place.must("migrate", "web", "--to", place.a, root=place.b)
    _, err = quiet.communicate("after\n", timeout=ferry.LIMIT)
    assert (quiet.returncode, err) == (9, "before after\n"), (quiet.returncode, err)
    assert flood.wait(ferry.LIMIT) == 0
    writer.join(ferry.LIMIT)
    assert echo.wait(ferry.LIMIT) == 0
    assert digest(place, "flood") == hashlib.sha256(count(4000000).encode()).hexdigest()
    assert digest(place, "echo") == hashlib.sha256(b"".join(written)).hexdigest()
    assert place.must("ps", "web", "--json").json() == {"programs": []}


def test_programs_stay_when_the_move_comes_to_nothing(place):
    """The destination's shim is held while the guest stands and all was offered to it."""
    program = subprocess.Popen([place.program, "exec", "web", "--", "busybox", "cat"],
                               env=place.environment(), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    ferry.wait_for("the program", lambda: "running" in place.must("ps", "web").out)
    move = place.start("migrate", "web", "--to", place.b, "--bandwidth", "16M", "--encryption", "none")
    ferry.wait_for("the copy", lambda: place.status("web").get("session", {}).get("detail") == "S_COPYING")
    shim = place.status("web", root=place.b)["shim_pid"]
    os.kill(shim, signal.SIGSTOP)
    try:
        ferry.wait_for("the offer", lambda: place.status("web").get("session", {}).get("detail") == "S_OFFERED")
        program.stdin.write("said while it stood\n")
        program.stdin.flush()
        ferry.wait_for("the rollback", lambda: place.status("web")["vm_state"] == "running")
    finally:
        os.kill(shim, signal.SIGCONT)
    assert move.wait(ferry.LIMIT) == 5, move.communicate()
    out, _ = program.communicate("still here\n", timeout=ferry.LIMIT)
    assert (program.returncode, out) == (0, "said while it stood\nstill here\n"), out


def test_what_cannot_be(place):
    result = place.ferry("exec", "web", "--", "no-such-program")
    assert result.code == 3 and "no-such-program" in result.err, result
    assert place.ferry("exec", "web").code == 2
    assert place.ferry("exec", "web", "--env", "=x", "--", "busybox").code == 2
    assert place.ferry("exec", "nobody", "--", "busybox").code == 3
    place.must("run", "plain", "--config", place.file("vm.json", ferry.IDLE_VM))
    result = place.ferry("exec", "plain", "--", "busybox")
    assert result.code == 4 and '"agent": true' in result.err, result
    place.must("stop", "plain")


def test_stop_ends_programs_too(place):
    program = place.start("exec", "web", "--", "busybox", "sleep", "1000")
    ferry.wait_for("the program", lambda: "running" in place.must("ps", "web").out)
    place.must("stop", "web")
    _, err = program.communicate(timeout=ferry.LIMIT)
    assert program.returncode not in (0, None) and "ferry:" in err, err
    assert "web" not in os.listdir(place.a), os.listdir(place.a)


def main():
    ferry.need_qemu()
    with ferry.Place(sys.argv[1]) as place:
        ferry.start_guest(place, ferry.guest_image(place))
        ferry.tap([(name[len("test_"):].replace("_", " "), lambda test=test: test(place))
                   for name, test in globals().items() if name.startswith("test_")])


main()
