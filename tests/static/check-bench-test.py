#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench/transfer must not say that an aim is met which is not, or that something was measured which was not."""
import collections
import os
import subprocess
import sys
import tempfile

import tree

sys.path.insert(0, os.path.join(tree.ROOT, "bench"))
sys.dont_write_bytecode = True  # nothing is to be left in the tree
import cputime  # pylint: disable=wrong-import-position
import fills  # pylint: disable=wrong-import-position
import transfer_report as report  # pylint: disable=wrong-import-position

Link = collections.namedtuple("Link", "name rate")
LOOPBACK, GBIT = Link("loopback", None), Link("1gbit", 125 * 10**6)


def sample(seconds, cpu_s=1.0, blackout_ms=10.0, shims_cpu_s=0.01, more_ms=0):
    return {"converged": True, "transfer_ms": seconds * 1e3, "total_ms": seconds * 1e3 + more_ms,
            "blackout_ms": blackout_ms, "cpu_s": cpu_s, "shims_cpu_s": shims_cpu_s,
            "wire_bytes": 2**30, "page_bytes": 2**30, "passes": 3}


def verdicts(link, load, **samples):
    cases = [report.case(link, load, method.replace("_", "-"), some)
             for method, some in samples.items()]
    return {aim["name"].split(": ", 1)[1]: (aim["value"], aim["met"]) for aim in report.aims(cases)}


PLAIN_PATH = "plain, the shims' part of the CPU time (no byte goes through them)"
NOT_MOVED = {"converged": False, "total_ms": 300000.0}
AIMS = [
    ("checksums unshaped, met", verdicts(LOOPBACK, "random", plain=[sample(1)],
                                         checksums=[sample(1.6, 2.0)]),
     {PLAIN_PATH: (0.01, True), "checksums / plain, throughput": (0.625, True),
      "checksums / plain, CPU s/GiB": (2.0, True)}),
    ("checksums unshaped, missed", verdicts(LOOPBACK, "random", plain=[sample(1, shims_cpu_s=0.1)],
                                            checksums=[sample(2, 2.1)]),
     {PLAIN_PATH: (0.1, False), "checksums / plain, throughput": (0.5, False),
      "checksums / plain, CPU s/GiB": (2.1, False)}),
    ("a median of three", verdicts(GBIT, "typical", plain=[sample(10)] * 3,
                                   checksums=[sample(10), sample(11), sample(30)]),
     {PLAIN_PATH: (0.01, True), "checksums / plain, throughput": (0.909, False)}),
    ("TLS", verdicts(LOOPBACK, "typical", tls=[sample(2, 2.0)], qemu_tls=[sample(6, 4.0)]),
     {"tls / qemu-tls, throughput": (3.0, True), "tls / qemu-tls, CPU s/GiB": (0.5, False)}),
    ("compression counts the whole command",
     verdicts(GBIT, "typical", plain=[sample(9, more_ms=1000)],
              compression=[sample(4.4, more_ms=1000)]),
     {PLAIN_PATH: (0.01, True), "compression / plain, total": (0.54, False)}),
    ("compression of what cannot be", verdicts(GBIT, "random", plain=[sample(10)],
                                               compression=[sample(10.4)]),
     {PLAIN_PATH: (0.01, True), "compression / plain, total": (1.04, True)}),
    ("post-copy", verdicts(GBIT, "hot", postcopy=[sample(3, blackout_ms=40.0)],
                           forced=[sample(3, blackout_ms=100.0)]),
     {"postcopy's blackout, ms": (40.0, True), "postcopy / forced, blackout": (0.4, False)}),
    ("one that was not measured", verdicts(LOOPBACK, "random", checksums=[sample(1)],
                                           tls=[sample(1)]), {}),
    ("one that did not end", verdicts(GBIT, "hot", postcopy=[sample(3)], forced=[NOT_MOVED]),
     {"postcopy's blackout, ms": (10.0, True)}),
    ("other links", verdicts(Link("10gbit", 125 * 10**7), "zero", plain=[sample(1)],
                             checksums=[sample(9)], all=[sample(1, blackout_ms=14.0)]),
     {"all / plain, blackout": (1.4, False)}),
]


def complaints_about_counting():
    samples = [(10.0, 1.0, 0.5), (10.5, 2.0, 1.0), (11.0, 2.0, 1.0)]
    cases = [(10.0, [1.0, 0.5]), (10.25, [1.5, 0.75]), (10.5, [2.0, 1.0]), (10.7, [2.0, 1.0]),
             (9.0, [1.0, 0.5]), (12.0, [2.0, 1.0])]
    return [f"at {when}: {cputime.spent_at(samples, when)}" for when, expected in cases
            if cputime.spent_at(samples, when) != expected]


def complaints_about_archive():
    """busybox's cpio is not the kernel's, but reads the same format."""
    with tempfile.TemporaryDirectory(prefix="ferry-bench-") as folder:
        with open(os.path.join(folder, "archive"), "wb") as out:
            for name, mode, data in (("a", 0o040755, b""), ("a/bcd", 0o100755, b"12345"),
                                     ("a/e", 0o100644, b"6"), (fills.ARCHIVE_END, 0, b"")):
                out.write(fills.archive_member(name, mode, data))
        with open(os.path.join(folder, "archive"), "rb") as archive:
            done = subprocess.run(["busybox", "cpio", "-i"], cwd=folder, stdin=archive, check=False,
                                  capture_output=True, text=True)
        if done.returncode:
            return [done.stderr]
        found = []
        for name, mode, data in (("a/bcd", 0o755, b"12345"), ("a/e", 0o644, b"6")):
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                if file.read() != data or os.stat(path).st_mode & 0o777 != mode:
                    found.append(f"{name} is not what was packed")
        return found


tree.tap([*((f"aims: {name}", [] if got == expected else [f"{got}, expected {expected}"])
            for name, got, expected in AIMS),
          ("CPU time between two looks", complaints_about_counting()),
          ("the second initramfs", complaints_about_archive())])
