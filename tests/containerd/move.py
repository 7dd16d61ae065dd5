#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Containers move with their VM, from one real containerd to another in another network namespace.

usage: move.py FERRY SHIM [FETCH FOLDER SUITE]
"""
import hashlib
import json
import os
import signal
import sys

import host
import network
from pair import (COUNT, FOREVER, Pair, Watched, ferry, introduce, kill_shim, lines_of, move,
                  move_slowly, wait_clean)


def test_no_line_is_lost_or_repeated(here, there):
    before = Watched(here, "run", "--rm", "--runtime", host.RUNTIME, host.IMAGE, "c1", "sh", "-c",
                     COUNT)
    before.wait_for("line 20\n")
    report = move(here, there, "c1")
    assert report["outcome"] == "migrated", report["outcome"]
    print(f"# blackout {report['blackout_ms']:.1f} ms")
    assert before.end() == 255
    after = Watched(there, "task", "attach", "c1")
    last = lines_of(before.text)[-1]
    after.wait_for(f"line {last + 100}\n")
    seen = lines_of(before.text) + lines_of(after.text)
    assert seen == list(range(1, len(seen) + 1)), seen
    wait_clean(here)
    there.must("task", "kill", "-s", "KILL", "c1")
    assert after.end() == 137
    there.ctr("task", "delete", "c1")
    there.must("container", "delete", "c1")
    wait_clean(there)


def test_its_exit_status_is_told_there(here, there):
    host.start(here, "c2", "trap 'exit 7' TERM; " + FOREVER)
    move(here, there, "c2")
    assert host.state(there, "c2") == "RUNNING"
    result = there.must("task", "exec", "--exec-id", "e1", "c2", "echo", "new here")
    assert result.out == "new here\n", result
    there.must("task", "kill", "c2")
    host.wait_for("its end", lambda: host.state(there, "c2") == "STOPPED")
    result = there.ctr("task", "delete", "c2")
    assert "non-zero exit code 7" in result.err, result
    there.must("container", "delete", "c2")
    wait_clean(here)
    wait_clean(there)


def test_a_shell_that_was_typed_into(here, there):
    host.start(here, "c3", FOREVER)
    shell = ("task", "exec", "-t", "--exec-id", "shell", "c3", "sh")
    before = Watched(here, *shell, terminal=True)
    before.type("word=there; echo $word$word\n")
    before.wait_for("therethere")
    move(here, there, "c3")
    assert before.end() == 255
    after = Watched(there, *shell, terminal=True)
    after.type("echo still $word\n")
    after.wait_for("still there")
    after.type("exit 9\n")
    assert after.end() == 9
    host.remove(there, "c3")
    wait_clean(there)


def test_a_terminal_of_its_own(here, there):
    before = Watched(here, "run", "-t", "--runtime", host.RUNTIME, host.IMAGE, "c4", "sh",
                     terminal=True)
    before.type("word=mine; echo $word$word\n")
    before.wait_for("minemine")
    move(here, there, "c4")
    assert before.end() == 255
    after = Watched(there, "task", "attach", "c4", terminal=True)
    after.type("echo still $word\n")
    after.wait_for("still mine")
    after.type("exit 3\n")
    assert after.end() == 3
    there.ctr("task", "delete", "c4")
    there.must("container", "delete", "c4")
    wait_clean(there)


def test_a_hundred_megabytes_of_output(here, there):
    """They are on their way while it moves there, and back."""
    rounds = 180
    pieces = [Watched(here, "run", "--runtime", host.RUNTIME, host.IMAGE, "c9", "sh", "-c",
                      f"seq 1 100000 >/tmp/s; for i in $(seq {rounds}); do echo $i; cat /tmp/s; done")]
    pieces[0].wait_for("\n3\n1\n")
    for source, target in (here, there), (there, here):
        move(source, target, "c9")
        assert pieces[-1].end() == 255
        pieces.append(Watched(target, "task", "attach", "c9"))
        pieces[-1].wait_for("\n9999")
    assert pieces[-1].end() == 0
    block = b"".join(b"%d\n" % n for n in range(1, 100_001))
    expected = hashlib.sha256(b"".join(b"%d\n" % n + block for n in range(1, rounds + 1)))
    data = b"".join(piece.data for piece in pieces)
    print("# MiB in each place:", [len(piece.data) >> 20 for piece in pieces])
    assert len(data) > 100 << 20, len(data)
    assert hashlib.sha256(data).digest() == expected.digest()
    here.ctr("task", "delete", "c9")
    here.must("container", "delete", "c9")
    wait_clean(here)


def test_twenty_hops(here, there):
    seen = Watched(here, "run", "--runtime", host.RUNTIME, host.IMAGE, "d1", "sh", "-c", COUNT)
    seen.wait_for("line 5\n")
    lines, blackouts = [], []
    for number in range(20):
        source, target = (here, there) if number % 2 == 0 else (there, here)
        blackouts.append(move(source, target, "d1")["blackout_ms"])
        assert seen.end() == 255
        lines += lines_of(seen.text)
        wait_clean(source)
        seen = Watched(target, "task", "attach", "d1")
        seen.wait_for(f"line {lines[-1] + 5}\n")
    here.must("task", "kill", "-s", "KILL", "d1")
    assert seen.end() == 137
    lines += lines_of(seen.text)
    assert lines == list(range(1, len(lines) + 1)), lines
    print(f"# blackouts {min(blackouts):.1f} to {max(blackouts):.1f} ms")
    here.ctr("task", "delete", "d1")
    here.must("container", "delete", "d1")
    wait_clean(here)


def disks(place):
    for name in place.sandboxes():
        with open(os.path.join(place.root, name, "config.json"), encoding="utf-8") as file:
            yield from (disk["path"] for disk in json.load(file)["disks"])


def test_hosts_with_one_folder_of_roots(here, there):
    """Each has links of its own in it: what the one removes is not the other's."""
    own = there.roots
    there.configure(here.roots)
    introduce(there, "b", "10.9.0.2")
    for name in "e1", "e1-2":
        host.start(here, name, FOREVER)
    for source, target in ((here, there), (there, here)) * 2:
        move(source, target, "e1")
        left = 1 if source is here else 0
        host.wait_for("the source's end", lambda: len(source.sandboxes()) == left)
        for place in here, there:
            missing = [path for path in disks(place) if not os.path.exists(path)]
            assert not missing, missing
    for name in "e1", "e1-2":
        host.remove(here, name)
    wait_clean(here)
    there.configure(own)
    introduce(there, "b", "10.9.0.2")


def test_a_pod_there_and_back(here, there):
    """One runs, one has ended, one is paused; one is added there."""
    def add(place, name, script):
        place.must("run", "-d", "--runtime", host.RUNTIME, "--label",
                   "io.kubernetes.cri.sandbox-id=pod1", host.IMAGE, name, "sh", "-c", script)

    def boot_id(place, name):
        return place.must("task", "exec", "--exec-id", "boot", name, "cat",
                          "/proc/sys/kernel/random/boot_id").out

    for name, script in ("pod1", FOREVER), ("app1", "exit 4"), ("app2", FOREVER):
        add(here, name, script)
    host.wait_for("its end", lambda: host.state(here, "app1") == "STOPPED")
    here.must("task", "pause", "app2")
    for source, target in (here, there), (there, here):
        move(source, target, "app2")
        wait_clean(source)
        assert len(target.sandboxes()) == 1
        assert host.state(target, "pod1") == "RUNNING"
        assert host.state(target, "app2") == "PAUSED"
        host.wait_for("its end", lambda place=target: host.state(place, "app1") == "STOPPED")
        if target is there:
            add(there, "app3", FOREVER)
            assert len(there.sandboxes()) == 1
            assert boot_id(there, "app3") == boot_id(there, "pod1")
            links = [name for name in os.listdir(there.root) if name.startswith(".pod-")]
            assert len(links) == 1, links
    links = [name for name in os.listdir(there.root) if name.startswith(".pod-")]
    assert not links, links
    assert boot_id(here, "app3") == boot_id(here, "pod1")
    here.must("task", "resume", "app2")
    result = here.must("task", "exec", "--exec-id", "e1", "app2", "echo", "home")
    assert result.out == "home\n", result
    result = here.ctr("task", "delete", "app1")
    assert "non-zero exit code 4" in result.err, result
    here.must("container", "delete", "app1")
    for name in "app3", "app2", "pod1":
        host.remove(here, name)
    wait_clean(here)


def test_what_a_pod_shares(here, there):
    """An emptyDir is in the VM: a container that is added there has it, by another pod's path."""
    def add(place, name, script):
        folder = os.path.join(place.folder, f"{name}/volumes/kubernetes.io~empty-dir/cache")
        os.makedirs(folder)
        place.must("run", "-d", "--runtime", host.RUNTIME, "--label", "io.kubernetes.cri.sandbox-id=pod2",
                   "--mount", f"type=bind,src={folder},dst=/cache,options=rbind:rw", host.IMAGE, name, "sh", "-c",
                   script)

    add(here, "pod2", "echo from there >/cache/file; " + FOREVER)
    host.wait_for("the file", lambda: here.ctr("task", "exec", "--exec-id", "e1", "pod2", "test", "-s",
                                               "/cache/file").code == 0)
    move(here, there, "pod2")
    wait_clean(here)
    add(there, "app4", FOREVER)
    result = there.must("task", "exec", "--exec-id", "e2", "app4", "cat", "/cache/file")
    assert result.out == "from there\n", result
    for name in "app4", "pod2":
        host.remove(there, name)
    wait_clean(there)


def test_another_network_there(here, there):
    """A server in it is found at the address that it has there."""
    mac = "02:fe:00:00:00:42"
    with network.Net(here.folder, f"fm{os.getpid()}a") as old, \
            network.Net(there.folder, f"fm{os.getpid()}b", 89, mac) as new:
        here.must("run", "-d", "--runtime", host.RUNTIME, *old.flags(), host.IMAGE, "d2", "sh", "-c",
                  "echo it moved >/tmp/page; busybox httpd -f -p 8081 -h /tmp")
        host.wait_for("the server", lambda: old.get("10.88.0.23") == "it moved\n")
        done = ferry(here, "--root", here.root, "migrate", "d2", "--to", there.root, "--network",
                     "/nonexistent", check=False)
        assert done.returncode != 0 and "/nonexistent" in done.stderr, done
        assert old.get("10.88.0.23") == "it moved\n"
        wait_clean(there)
        new.mislead()
        assert new.knows() == {(address, network.NOBODY) for address in new.addresses()}
        move(here, there, "d2", "--network", new.path)
        old.check_untouched()
        host.wait_for("the announcements", lambda: new.knows() >= {
            (address, mac) for address in new.addresses()})
        host.wait_for("the server there", lambda: new.get("10.89.0.23") == "it moved\n")
        assert new.get("fd00:89::23") == "it moved\n"
        result = there.must("task", "exec", "--exec-id", "e1", "d2", "sh", "-c",
                            "cat /sys/class/net/eth0/address; busybox ip -o addr show dev eth0")
        assert result.out.startswith(mac) and "10.88." not in result.out, result
        host.remove(there, "d2")
        wait_clean(there)
        new.check_untouched()


def test_the_old_network_there(here, there):
    """The fabric is said to lead there: the guest is found by the addresses that it had, not by the new place's."""
    mac = "02:fe:00:00:00:43"
    options = ("--root", here.root, "migrate", "d3", "--to", there.root, "--keep-address", "--network")
    with network.Net(here.folder, f"fm{os.getpid()}c") as old, \
            network.Net(there.folder, f"fm{os.getpid()}d", 89, mac) as new:
        here.must("run", "-d", "--runtime", host.RUNTIME, *old.flags(), host.IMAGE, "d3", "sh", "-c",
                  "echo it moved >/tmp/page; busybox httpd -f -p 8081 -h /tmp")
        host.wait_for("the server", lambda: old.get("10.88.0.23") == "it moved\n")
        done = ferry(here, *options, "none", check=False)
        assert done.returncode == 2 and "contradict" in done.stderr, done
        empty = f"fm{os.getpid()}e"
        network.sh(f"ip netns add {empty}")
        done = ferry(here, *options, f"/run/netns/{empty}", check=False)
        network.sh(f"ip netns del {empty}")
        assert done.returncode == 5 and "its address is to be kept" in done.stderr, done
        assert old.get("10.88.0.23") == "it moved\n"
        wait_clean(there)
        network.sh(f"ip -n {new.out} addr add 10.88.0.1/24 dev out0")
        network.sh(f"ip -n {new.out} neigh replace 10.88.0.23 lladdr {network.NOBODY} dev out0 nud stale")
        ferry(here, *options, new.path)
        host.wait_for("the announcement", lambda: ("10.88.0.23", network.MAC) in new.knows())
        host.wait_for("the server there", lambda: new.get("10.88.0.23") == "it moved\n")
        result = there.must("task", "exec", "--exec-id", "e1", "d3", "sh", "-c",
                            "cat /sys/class/net/eth0/address; busybox ip -o addr show dev eth0")
        assert result.out.startswith(network.MAC) and "10.88.0.23" in result.out, result
        assert "10.89." not in result.out, result
        host.remove(there, "d3")
        wait_clean(there)
        new.check_untouched()
        old.check_untouched()


def test_a_name_that_is_taken(here, there):
    host.start(here, "c5", FOREVER)
    host.start(there, "c5", FOREVER)
    done = ferry(here, "--root", here.root, "migrate", "c5", "--to", there.root, check=False)
    assert done.returncode == 4 and "already exists" in done.stderr, done
    for place in here, there:
        result = place.must("task", "exec", "--exec-id", "e1", "c5", "echo", "well")
        assert result.out == "well\n", result
        host.remove(place, "c5")
        wait_clean(place)


def test_cancelled_it_goes_on_here(here, there):
    host.start(here, "c6", FOREVER)
    mover = move_slowly(here, there, "c6")
    mover.send_signal(signal.SIGINT)
    _, errors = mover.communicate(timeout=host.LIMIT)
    assert mover.returncode == 130, errors
    assert host.state(here, "c6") == "RUNNING"
    wait_clean(there)
    result = here.must("task", "exec", "--exec-id", "e1", "c6", "echo", "still here")
    assert result.out == "still here\n", result
    host.remove(here, "c6")
    wait_clean(here)


def test_a_shim_there_that_is_killed(here, there):
    host.start(here, "c7", FOREVER)
    mover = move_slowly(here, there, "c7")
    kill_shim(there)
    _, errors = mover.communicate(timeout=host.LIMIT)
    assert mover.returncode == 5, errors
    result = here.must("task", "exec", "--exec-id", "e1", "c7", "echo", "still here")
    assert result.out == "still here\n", result
    host.remove(here, "c7")
    wait_clean(here)
    there.ctr("task", "delete", "-f", "c7")
    there.ctr("container", "delete", "c7")
    wait_clean(there)


def test_a_host_without_containerd(here, there):
    host.start(here, "c8", FOREVER)
    other = os.path.join(there.folder, "plain")
    done = ferry(here, "--root", here.root, "migrate", "c8", "--to", other, check=False)
    assert done.returncode == 4 and "host set --containerd" in done.stderr, done
    assert host.state(here, "c8") == "RUNNING"
    host.remove(here, "c8")


def test_its_network(here, there):
    """The same specification there, so the same namespace here, on one kernel: its place is free once the
    source has left it, and until then nobody answers."""
    with network.Net(here.folder, f"fn{os.getpid()}m") as net:
        here.must("run", "-d", "--runtime", host.RUNTIME, *net.flags(), host.IMAGE, "n1", "sh", "-c",
                  FOREVER)
        network.inside(here, "n1", "echo from inside > /tmp/page; busybox httpd -p 8081 -h /tmp")
        assert net.get("10.88.0.23") == "from inside\n"
        move(here, there, "n1")
        for address in "10.88.0.1", "fd00:88::1":
            host.wait_for("its network", lambda to=address: network.inside(
                there, "n1", network.GET.format(to, 8080)) == "from the other side\n")
        assert net.get("10.88.0.23") == "from inside\n"
        mac = network.inside(there, "n1", "cat /sys/class/net/eth0/address")
        assert mac == network.MAC + "\n", mac
        host.remove(there, "n1")
        wait_clean(here)
        wait_clean(there)
        net.check_untouched()


def main():
    binaries = host.fetch(*sys.argv[3:]) if len(sys.argv) > 3 else None
    with Pair(*sys.argv[1:3], binaries) as (here, there):
        failed = host.run_tests(globals(), here, there)
    sys.exit(failed)


main()
