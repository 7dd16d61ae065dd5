#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Containers that write to disks move with them, whether the hosts share these or not.

usage: disks.py FERRY SHIM [FETCH FOLDER SUITE]
"""
import contextlib
import os
import signal
import subprocess
import sys
import time

import host
from pair import FOREVER, Pair, ferry, introduce, kill_shim, lines_of, move, move_slowly, wait_clean

WRITES = ("busybox dd if=/dev/urandom of=/data bs=1M count=24 2>&1; md5sum /data >/sum; "
          "i=0; while sleep 0.02; do i=$((i+1)); echo line $i >>/log; busybox sync; done")


def in_container(place, name, script):
    return place.must("task", "exec", "--exec-id", str(time.monotonic_ns()), name, "sh", "-c",
                      script).out


def use_disks(place, number, folder):
    """Containers that begin from now on write to disks there, and others that come may."""
    place.configure(disk_root=folder, layer_mb=512)
    introduce(place, "ab"[number], f"10.9.0.{number + 1}", "--disk-root", folder)


def use_memory(place, number):
    place.configure()
    introduce(place, "ab"[number], f"10.9.0.{number + 1}")


def check_writer(here, there, name, folders):
    """It writes all the time, there and back; what it has written is on its disk, all of it."""
    host.start(here, name, WRITES)
    host.wait_for("its data", lambda: "line 1\n" in in_container(here, name, "cat /log 2>&1; true"))
    for source, target in (here, there), (there, here):
        report = move(source, target, name)
        print(f"# blackout {report['blackout_ms']:.1f} ms, total {report['total_ms']:.0f} ms")
        wait_clean(source)
        seen = lines_of(in_container(target, name, "cat /log"))[-1]
        host.wait_for("it writes on",
                      lambda: lines_of(in_container(target, name, "cat /log"))[-1] > seen)
        sums = in_container(target, name, "busybox dd if=/data iflag=direct bs=1M 2>/dev/null | md5sum; "
                            "cat /sum").split()
        assert sums[0] == sums[2], sums
    lines = lines_of(in_container(here, name, "cat /log"))
    assert lines == list(range(1, len(lines) + 1)), lines
    host.remove(here, name)
    wait_clean(here)
    for folder in folders:
        assert not os.listdir(folder), os.listdir(folder)


def test_a_disk_of_both(here, there):
    folder = os.path.join(here.folder, "disks")
    use_disks(here, 0, folder)
    use_disks(there, 1, folder)
    check_writer(here, there, "e2", [folder])
    use_memory(here, 0)
    use_memory(there, 1)


@contextlib.contextmanager
def disks_of_each(here, there):
    """One host has a file system of its own: nothing can be shared."""
    folders = [os.path.join(place.folder, "own disks") for place in (here, there)]
    os.makedirs(folders[1], exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", folders[1]], check=True)
    try:
        for number, place in enumerate((here, there)):
            use_disks(place, number, folders[number])
        yield folders
    finally:
        subprocess.run(["umount", "--lazy", folders[1]], check=True)
        for number, place in enumerate((here, there)):
            use_memory(place, number)


def test_a_disk_and_a_host_without_place_for_it(here, there):
    use_disks(here, 0, os.path.join(here.folder, "disks"))
    host.start(here, "e4", FOREVER)
    done = ferry(here, "--root", here.root, "migrate", "e4", "--to", there.root, check=False)
    assert done.returncode == 5 and "disk root" in done.stderr, done
    wait_clean(there)
    host.remove(here, "e4")
    use_memory(here, 0)


def test_a_disk_of_each(here, there):
    """It is copied with the guest."""
    with disks_of_each(here, there) as folders:
        check_writer(here, there, "e3", folders)


def test_a_disk_whose_copy_is_given_up(here, there):
    """By the caller, or by the destination's end: it is whole here, and can be copied again."""
    with disks_of_each(here, there) as folders:
        host.start(here, "e5", WRITES)
        host.wait_for("its data",
                      lambda: "line 1\n" in in_container(here, "e5", "cat /log 2>&1; true"))
        mover = move_slowly(here, there, "e5")
        mover.send_signal(signal.SIGINT)
        _, errors = mover.communicate(timeout=host.LIMIT)
        assert mover.returncode == 130, errors
        wait_clean(there)
        mover = move_slowly(here, there, "e5")
        kill_shim(there)
        _, errors = mover.communicate(timeout=host.LIMIT)
        assert mover.returncode == 5, errors
        there.ctr("task", "delete", "-f", "e5")
        there.ctr("container", "delete", "e5")
        wait_clean(there)
        assert not os.listdir(folders[1]), os.listdir(folders[1])
        move(here, there, "e5")
        lines = lines_of(in_container(there, "e5", "cat /log"))
        assert lines == list(range(1, len(lines) + 1)), lines
        host.remove(there, "e5")
        wait_clean(there)


def main():
    binaries = host.fetch(*sys.argv[3:]) if len(sys.argv) > 3 else None
    with Pair(*sys.argv[1:3], binaries) as (here, there):
        failed = host.run_tests(globals(), here, there)
    sys.exit(failed)


main()
