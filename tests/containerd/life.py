#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Containers of a real containerd, each in a VM of its own.

usage: life.py FERRY SHIM [FETCH FOLDER SUITE]

FETCH (tools/fetch-debian) gets another Debian suite's containerd into FOLDER; without it the
installed one is driven.
"""
import hashlib
import json
import os
import pty
import signal
import subprocess
import termios

import host


def has_ended(pid):
    """Or waits to be reaped, by whoever that falls to."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_output_and_exit_status(place):
    result = host.run(place, "c1", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.code, result.out, result.err) == (7, "out\n", "err\n"), result
    host.wait_for("nothing left", lambda: not place.sandboxes())


def test_input_to_its_end(place):
    data = os.urandom(3_000_000)
    done = subprocess.run(
        place.argv("run", "--rm", "--runtime", host.RUNTIME, host.IMAGE, "c2", "md5sum"),
        env=place.environment, input=data, stdout=subprocess.PIPE, check=True, timeout=host.LIMIT)
    assert done.stdout.split()[0].decode() == hashlib.md5(data).hexdigest(), done


def test_much_output_is_whole(place):
    result = host.run(place, "c3", "seq", "1", "300000")
    assert result.code == 0
    assert result.out == "".join(f"{i}\n" for i in range(1, 300001))


def test_a_terminal(place):
    """ctr sizes it, passes what is typed, and sees its end."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    program = subprocess.Popen(
        place.argv("run", "--rm", "-t", "--runtime", host.RUNTIME, host.IMAGE, "c4", "sh", "-c",
                   "read line; echo got $line; test -t 0 && stty size; exit 4"),
        env=place.environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.write(ours, b"this\n")
    seen = b""
    try:
        while True:
            seen += os.read(ours, 4096)
    except OSError:
        pass  # the other side is closed
    os.close(ours)
    assert program.wait(host.LIMIT) == 4, seen
    assert b"got this\r" in seen and b"30 100" in seen, seen


def test_execs(place):
    host.start(place, "c5", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
    result = place.ctr("task", "exec", "--exec-id", "e1", "c5", "sh", "-c", "echo in; echo x >&2; exit 9")
    assert (result.code, result.out, result.err) == (9, "in\n", "x\n"), result
    result = place.ctr("task", "exec", "--exec-id", "e2", "c5", "no-such-program")
    assert result.code != 0 and "no-such-program" in result.err, result
    assert host.state(place, "c5") == "RUNNING"
    assert len(place.must("task", "ps", "c5").out.splitlines()) == 2
    metrics = place.must("task", "metrics", "c5").out
    assert "memory.usage" in metrics and "cpu.usage_usec" in metrics, metrics
    place.must("task", "kill", "-s", "TERM", "c5")
    host.wait_for("its end", lambda: host.state(place, "c5") == "STOPPED")
    result = place.ctr("task", "delete", "c5")
    assert "exit code 5" in result.err, result
    place.must("container", "delete", "c5")
    host.wait_for("nothing left", lambda: not place.sandboxes())


def test_pause_and_resume(place):
    host.start(place, "c6", "while :; do sleep 0.1; done")
    place.must("task", "pause", "c6")
    assert host.state(place, "c6") == "PAUSED"
    assert place.ctr("task", "pause", "c6").code != 0
    place.must("task", "resume", "c6")
    assert host.state(place, "c6") == "RUNNING"
    host.remove(place, "c6")


def test_what_cannot_be(place):
    result = host.run(place, "c7", "no-such-program")
    assert result.code != 0 and "no-such-program" in result.err, result
    result = host.run(place, "c8", "true", flags=("--mount", "type=bind,src=/usr,dst=/mnt,options=rbind:ro"))
    assert result.code != 0 and "bind mount of /usr: more than 16384 files" in result.err, result
    host.start(place, "c9", "while :; do sleep 0.1; done")
    assert place.ctr("task", "delete", "c9").code != 0
    assert place.ctr("task", "start", "c9").code != 0
    host.remove(place, "c9")
    host.wait_for("nothing left", lambda: not place.sandboxes())


def test_a_file_is_brought_in(place):
    path = place.write("motd", "good morning\n")
    result = host.run(place, "d1", "cat", "/etc/motd",
                 flags=("--mount", f"type=bind,src={path},dst=/etc/motd,options=rbind:ro"))
    assert (result.code, result.out) == (0, "good morning\n"), result


def make_volume(place, name):
    """As the kubelet writes a volume; the names of what is to be seen in it."""
    folder = os.path.join(place.folder, name)
    os.makedirs(os.path.join(folder, "..1/deep"))
    for path, text, mode in ("..1/token", "secret\n", 0o440), ("..1/deep/program", "#!/bin/sh\necho ran\n", 0o755):
        with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(file.name, mode)
        os.chown(file.name, 1000, 1001)
    for link, target in ("..data", "..1"), ("token", "..data/token"), ("out", "/etc/passwd"):
        os.symlink(target, os.path.join(folder, link))
    os.mkfifo(os.path.join(folder, "pipe"))
    return folder


def test_a_folder_is_brought_in(place):
    folder = make_volume(place, "volume")
    look = """cd /mnt; cat token; ..data/deep/program; busybox stat -c '%n %a %u:%g' ..1/token ..1/deep/program
        for link in ..data token out; do busybox readlink $link; done; busybox wc -l <out; ls"""
    result = host.run(place, "d1f", "sh", "-c", look + "; echo x >..1/deep/new",
                      flags=("--mount", f"type=bind,src={folder},dst=/mnt,options=rbind:ro"))
    expected = ("secret\nran\n..1/token 440 1000:1001\n..1/deep/program 755 1000:1001\n"
                "..1\n..data/token\n/etc/passwd\n1\nout\ntoken\n")  # its own passwd, of one line
    assert result.out == expected, result
    assert result.code != 0 and "Read-only file system" in result.err, result
    result = host.run(place, "d1g", "sh", "-c", look + "; echo x >..1/deep/new; rm token; cat ..1/deep/new",
                      flags=("--mount", f"type=bind,src={folder},dst=/mnt,options=rbind:rw"))
    assert (result.code, result.out) == (0, expected + "x\n"), result
    assert os.path.exists(f"{folder}/token") and not os.path.exists(f"{folder}/..1/deep/new")


def test_a_pod_shares_an_empty_dir(place):
    folder = os.path.join(place.folder, "pod/volumes/kubernetes.io~empty-dir/cache")
    os.makedirs(folder)
    os.chmod(folder, 0o1777)
    pod = ("--label", "io.kubernetes.cri.sandbox-id=pe1")
    write, read = (("--mount", f"type=bind,src={folder},dst=/cache,options=rbind:{mode}") for mode in ("rw", "ro"))
    place.must("run", "-d", "--runtime", host.RUNTIME, *pod, *write, host.IMAGE, "pe1", "sh", "-c",
               "echo shared >/cache/file; while :; do sleep 0.1; done")
    place.must("task", "exec", "--exec-id", "e1", "pe1", "sh", "-c", "while ! test -s /cache/file; do sleep 0.1; done")
    result = host.run(place, "pe2", "sh", "-c", "busybox stat -c %a /cache; cat /cache/file; echo x >/cache/file",
                      flags=(*pod, *read))
    assert result.out == "1777\nshared\n" and "Read-only file system" in result.err, result
    result = host.run(place, "pe3", "sh", "-c", "echo more >>/cache/file", flags=(*pod, *write))
    assert result.code == 0, result
    seen = place.must("task", "exec", "--exec-id", "e2", "pe1", "cat", "/cache/file").out
    assert seen == "shared\nmore\n" and not os.listdir(folder), seen
    host.remove(place, "pe1")
    host.wait_for("nothing left", lambda: not place.sandboxes())


def test_a_copy_is_told_of(place):
    folder = make_volume(place, "told")
    place.must("run", "-d", "--runtime", host.RUNTIME, "--mount",
               f"type=bind,src={folder},dst=/mnt,options=rbind:rw", host.IMAGE, "d1h", "sh", "-c",
               "while :; do sleep 0.1; done")
    log = subprocess.run([place.ferry, "--root", place.root, "logs", "d1h", "--shim"], check=True, text=True,
                         stdout=subprocess.PIPE, timeout=host.LIMIT).stdout
    assert f"d1h: bind mount of {folder}: copied into the VM (8 of files, folders and links" in log, log
    assert f"d1h: bind mount of {folder}: left out: 0/pipe: neither" in log, log
    host.remove(place, "d1h")


def test_a_memory_limit(place):
    start_flags = ("--memory-limit", "16777216")
    result = host.run(place, "d2", "tail", "/dev/zero", flags=start_flags)
    assert result.code == 137, result


def test_what_is_asked_for_is_had(place):
    user = ("--user", "1000:1000") if place.binaries else ()  # 1.6's ctr has no such flag
    result = host.run(place, "d8", "sh", "-c", "id -u; busybox pwd; echo [$A][${E-unset}]; "
                 "busybox grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; touch /x",
                 flags=("--seccomp", "--read-only", "--cwd", "/tmp", "--env", "A=b",
                        "--env", "E=", *user))
    assert result.out.split() == ["1000" if user else "0", "/tmp", "[b][]", "NoNewPrivs:", "1",
                                  "Seccomp:", "2"], result
    assert result.code == 1 and "Read-only" in result.err, result


def test_a_privileged_one_with_the_hosts_names(place):
    """It may do what it likes, to the guest."""
    result = host.run(place, "d9", "sh", "-c", "busybox mount -t tmpfs x /tmp && cat /etc/hosts",
                 flags=("--privileged", "--net-host"))
    with open("/etc/hosts", encoding="utf-8") as file:
        assert (result.code, result.out) == (0, file.read()), result


def test_containerd_comes_and_goes(place):
    host.start(place, "d3", "while :; do sleep 0.1; done")
    place.stop()
    place.start()
    assert host.state(place, "d3") == "RUNNING"
    result = place.must("task", "exec", "--exec-id", "e1", "d3", "echo", "still here")
    assert result.out == "still here\n", result
    host.remove(place, "d3")


def test_a_shim_that_is_killed_takes_its_vm_along(place):
    host.start(place, "d4", "while :; do sleep 0.1; done")
    sandbox, = place.sandboxes()
    folder = os.path.join(place.root, sandbox)
    with open(os.path.join(folder, "qemu.json"), encoding="utf-8") as file:
        qemu = json.load(file)["pid"]
    with open(os.path.join(folder, "shim.lock"), encoding="utf-8") as file:
        os.kill(int(file.read()), signal.SIGKILL)
    host.wait_for("its end", lambda: host.state(place, "d4") in ("STOPPED", None))
    host.wait_for("nothing left", lambda: not place.sandboxes())
    assert has_ended(qemu), "QEMU lives"
    place.ctr("task", "delete", "-f", "d4")
    place.must("container", "delete", "d4")


def test_a_pod(place):
    """Grouped as the CRI plugin groups them: one VM, whose disks come and go while it runs."""
    label = ("--label", "io.kubernetes.cri.sandbox-id=pod1")
    loop = ("sh", "-c", "while :; do sleep 0.1; done")
    for name in "pod1", "app1", "app2":
        place.must("run", "-d", "--runtime", host.RUNTIME, *label, host.IMAGE, name, *loop)
    assert len(place.sandboxes()) == 1
    result = place.must("task", "exec", "--exec-id", "e1", "app2", "echo", "in app2")
    assert result.out == "in app2\n", result
    host.remove(place, "app1")
    place.must("run", "-d", "--runtime", host.RUNTIME, *label, host.IMAGE, "app3", *loop)
    for name in "app2", "app3", "pod1":
        assert host.state(place, name) == "RUNNING"
        host.remove(place, name)
    host.wait_for("nothing left", lambda: not place.sandboxes())
    result = place.ctr("run", "--rm", "--runtime", host.RUNTIME, *label, host.IMAGE, "app4", "true")
    assert result.code != 0 and "pod1" in result.err, result
    place.ctr("container", "delete", "app4")


def test_two_at_once(place):
    host.start(place, "d5", "while :; do sleep 0.1; done")
    host.start(place, "d6", "while :; do sleep 0.1; done")
    assert len(place.sandboxes()) == 2
    host.remove(place, "d5")
    assert host.state(place, "d6") == "RUNNING"
    host.remove(place, "d6")
    host.wait_for("nothing left", lambda: not place.sandboxes())
    roots = os.listdir(os.path.join(place.folder, "roots"))
    assert len([name for name in roots if name.endswith(".erofs")]) == 1, roots


if __name__ == "__main__":
    host.main(globals())
