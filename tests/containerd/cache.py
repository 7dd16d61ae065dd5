#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The cache of packed roots: what is thrown away when it grows, and when the disk is full.

usage: cache.py FERRY SHIM
"""
import fcntl
import os
import re
import struct
import subprocess
import sys

import host
from pair import FOREVER

F_OFD_GETLK, F_UNLCK, F_WRLCK = 36, 2, 1
LOCK = "hhqqi4x"  # struct flock
IMAGES = ["test.local/a:1", "test.local/b:1", "test.local/c:1"]


def images(place):
    return {name for name in os.listdir(place.roots) if re.fullmatch("[0-9a-f]{64}[.]erofs", name)}


def import_images(place):
    """Each of 3 MB more that nothing makes smaller."""
    for image in IMAGES:
        path = os.path.join(place.folder, "more.tar")
        host.write_image(path, ["sh"], image, os.urandom(3 << 20))
        place.must("image", "import", path)


def start(place, image, name):
    place.must("run", "-d", "--runtime", host.RUNTIME, image, name, "sh", "-c", FOREVER)


def remove(place, name):
    host.remove(place, name)
    host.wait_for("the shim's end", lambda: not place.sandboxes())


def run(place, image, name):
    """The image that it has added, or None."""
    before = images(place)
    result = place.ctr("run", "--rm", "--runtime", host.RUNTIME, image, name, "echo", "well")
    assert (result.code, result.out) == (0, "well\n"), result
    added = images(place) - before
    assert len(added) <= 1, added
    return added.pop() if added else None


def is_locked_by_qemu(path):
    """On another byte than ferry's own lock."""
    with open(path, "rb") as file:
        answer = fcntl.fcntl(file, F_OFD_GETLK, struct.pack(LOCK, F_WRLCK, os.SEEK_SET, 1, 0, 0))
    return struct.unpack(LOCK, answer)[0] != F_UNLCK


def test_the_longest_unused_goes_and_none_in_use(place):
    place.configure(cache_max_mb=1)
    start(place, IMAGES[0], "c1")
    first, = images(place)
    assert is_locked_by_qemu(os.path.join(place.roots, first))
    second = run(place, IMAGES[1], "c2")
    assert images(place) == {first, second}
    third = run(place, IMAGES[2], "c3")
    assert images(place) == {first, third}
    remove(place, "c1")
    assert not is_locked_by_qemu(os.path.join(place.roots, first))
    assert run(place, IMAGES[0], "c4") is None  # it was found
    again = run(place, IMAGES[1], "c5")
    assert images(place) == {again}
    place.configure()


def test_the_disk_is_full(place):
    place.configure(roots=os.path.join(place.folder, "small"))
    os.makedirs(place.roots, 0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=11m,mode=700", "small", place.roots], check=True)
    start(place, IMAGES[0], "c6")
    start(place, IMAGES[1], "c7")
    held = images(place)
    result = place.ctr("run", "--rm", "--runtime", host.RUNTIME, IMAGES[2], "c8", "true")
    assert result.code != 0, result
    assert re.search(r"has room for \d+ bytes, and 0 of images that nobody uses: the image needs about \d+", result.err), result
    assert images(place) == held
    assert host.state(place, "c6") == host.state(place, "c7") == "RUNNING"
    host.remove(place, "c6")
    host.wait_for("its shim's end", lambda: len(place.sandboxes()) == 1)
    run(place, IMAGES[2], "c9")
    assert len(images(place)) == 2 and len(images(place) & held) == 1, images(place)
    remove(place, "c7")
    subprocess.run(["umount", place.roots], check=True)
    place.configure(roots=os.path.join(place.folder, "roots"))


def main():
    with host.Host(*sys.argv[1:3]) as place:
        import_images(place)
        failed = host.run_tests(globals(), place)
    sys.exit(failed)


main()
