#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Containers whose snapshot is a file with a file system of its own: it is the VM's disk as it is.

usage: blockfile.py FERRY SHIM FETCH FOLDER SUITE
"""
import hashlib
import json
import os
import subprocess
import sys
import tempfile

import host
from pair import COUNT, FOREVER, Pair, Watched, introduce, lines_of, move, wait_clean

PLUGIN = """
[plugins."io.containerd.snapshotter.v1.blockfile"]
  root_path = "{folder}/blockfiles"
  scratch_file = "{folder}/scratch"
  fs_type = "ext4"
  mount_options = []
"""
RUN = ("--runtime", host.RUNTIME, "--snapshotter", "blockfile")


def prepare(place):
    place.config = host.CONFIG + PLUGIN
    os.mkdir(place.roots, 0o700)
    scratch = os.path.join(place.folder, "scratch")
    with open(scratch, "wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", scratch], check=True)


def root_disk(place):
    sandbox, = place.sandboxes()
    with open(os.path.join(place.root, sandbox, "config.json"), encoding="utf-8") as file:
        disk, = (one for one in json.load(file)["disks"] if one.get("serial", "").startswith("root-"))
    return disk


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_is_the_snapshot(place):
    """Nothing was packed, and the guest cannot write to it."""
    disk = root_disk(place)
    assert disk["path"].startswith(f"{place.folder}/blockfiles/"), disk
    assert disk["readonly"], disk
    assert not os.path.isdir(place.roots) or not [n for n in os.listdir(place.roots) if n.endswith(".erofs")]
    return disk["path"]


def test_it_is_attached_as_it_is(here, _):
    here.must("run", "-d", *RUN, host.IMAGE, "b1", "sh", "-c", FOREVER)
    path = check_is_the_snapshot(here)
    before = sha256(path)
    result = here.must("task", "exec", "--exec-id", "e1", "b1", "sh", "-c",
                       "busybox id -u; echo new >/etc/new; cat /etc/new; busybox rm /etc/passwd; ls /etc")
    assert result.out == "0\nnew\ngroup\nnew\n", result
    assert sha256(path) == before
    host.remove(here, "b1")
    wait_clean(here)


def there_and_back(here, there, name):
    seen = Watched(here, "run", *RUN, host.IMAGE, name, "sh", "-c", COUNT)
    seen.wait_for("line 5\n")
    before = sha256(check_is_the_snapshot(here))
    lines = []
    for source, target in (here, there), (there, here):
        move(source, target, name)
        assert seen.end() == 255
        lines += lines_of(seen.text)
        wait_clean(source)
        source.ctr("snapshot", "--snapshotter", "blockfile", "rm", name)
        disk = root_disk(target)
        assert disk["path"].startswith(target.roots) and sha256(disk["path"]) == before, disk
        seen = Watched(target, "task", "attach", name)
        seen.wait_for(f"line {lines[-1] + 5}\n")
        result = target.must("task", "exec", "--exec-id", "e1", name, "cat", "/etc/passwd")
        assert result.out.startswith("root:"), result
    here.must("task", "kill", "-s", "KILL", name)
    assert seen.end() == 137
    lines += lines_of(seen.text)
    assert lines == list(range(1, len(lines) + 1)), lines
    here.ctr("task", "delete", name)
    here.must("container", "delete", name)
    wait_clean(here)


def test_it_moves_there_and_back(here, there):
    """The destination has the same bytes, by a name of its own; the source's snapshot may go."""
    there_and_back(here, there, "b2")


def test_it_moves_to_another_file_system(here, there):
    """Where it is copied: the holes too, that is, as holes."""
    before = there.roots
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ferry-cd-") as folder:
        there.configure(folder)
        introduce(there, "b", "10.9.0.2")
        assert os.stat(folder).st_dev != os.stat(here.folder).st_dev
        there_and_back(here, there, "b3")
        there.configure(before)
        introduce(there, "b", "10.9.0.2")


def main():
    with Pair(*sys.argv[1:3], host.fetch(*sys.argv[3:]), prepare) as (here, there):
        failed = host.run_tests(globals(), here, there)
    sys.exit(failed)


main()
