#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The throttle by cgroup v2, on a kernel that has it: a guest's.

usage: throttle.py FERRY PROGRAM
"""
import subprocess
import sys

import ferry

RUN = "cat >/tmp/program && chmod +x /tmp/program && exec /tmp/program"


def test_a_thread_of_the_guests(place, program):
    with open(program, "rb") as file:
        done = subprocess.run([place.program, "exec", "web", "--", "busybox", "sh", "-c", RUN],
                              stdin=file, env=place.environment(), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False,
                              timeout=5 * ferry.LIMIT)
    assert done.returncode == 0 and done.stdout.endswith("\nslowed down, and let go\n"), done


def main():
    ferry.need_qemu()
    with ferry.Place(sys.argv[1]) as place:
        ferry.start_guest(place, ferry.guest_image(place))
        ferry.tap([("a thread of the guest's",
                    lambda: test_a_thread_of_the_guests(place, sys.argv[2]))])


main()
