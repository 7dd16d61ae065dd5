# SPDX-License-Identifier: MIT
"""What a guest of bench/transfer has in its memory, and how it gets there.

The initramfs of `ferry image build` is followed by a second one, which puts a script in the place of
the guest's workload: it fills the memory, and then becomes the workload.
"""
import hashlib
import os
import stat

MEMORY_MB = 1024
HOT_MB = 64
FILES_MB, FILE_MB = 340, 16  # of real files for the typical guest, and the largest of them
FOLDERS = 40
TEXT_MB = 24
LEFT_FREE_MB = 80  # a Linux that has run for a while leaves little memory unused
FILE_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share")
TEXT_ENDINGS = (".py", ".h", ".c", ".txt", ".json", ".xml", ".html", ".md", ".pl", ".pm", ".sh")
WORKLOAD = "bin/ferry-workload"
REAL_WORKLOAD = "bin/bench-workload"
ARCHIVE_END = "TRAILER!!!"

HEAD = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /fill
$b mount -t tmpfs -o size=95% fill /fill
free_mb() { $b awk '/^MemFree:/ { print int($2 / 1024) }' /proc/meminfo; }
"""

# Random and zero: as much as the guest has.
WRITTEN = "$b dd if={device} of=/fill/all bs=1M count=$(($(free_mb) - {left})) 2>/dev/null\n"

# Typical: the page cache of real files, a process with a large heap, the stale heap of one that
# has ended, and copies of files until little is left.
TYPICAL = """
heap='{ line[NR] = $0; words[$1]++ }'
$b xargs $b cat </files/texts | $b awk "$heap END { print NR >\\"/fill/lines\\"; close(\\"/fill/lines\\");
        while (1) system(\\"$b sleep 100000\\") }" &
until [ -s /fill/lines ]; do $b sleep 0.2; done
$b xargs $b cat </files/texts | $b awk "NR %% 3 == 0 $heap"
for folder in /files/*/; do
        [ "$(free_mb)" -gt %d ] || break
        $b cp -r "$folder" /fill
done
""" % LEFT_FREE_MB

TAIL = f'exec /{REAL_WORKLOAD} "$@"\n'

SCRIPTS = {"random": WRITTEN.format(device="/dev/urandom", left=LEFT_FREE_MB),
           "typical": TYPICAL,
           "zero": WRITTEN.format(device="/dev/zero", left=LEFT_FREE_MB),
           "hot": ""}
LOADS = tuple(SCRIPTS)


def parameters(load):
    hot = HOT_MB if load == "hot" else 0
    return f"ferry.run=tick ferry.memory_mb={hot} ferry.memory_rate_mb=0"


def archive_member(name, mode, data=b""):
    """newc: a header of hexadecimal numbers, the name, the data, each padded to 4 bytes."""
    encoded = name.encode() + b"\0"
    header = "070701" + "".join(f"{number:08x}" for number in (
        0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)).upper()
    first = header.encode() + encoded
    return first + bytes(-len(first) % 4) + data + bytes(-len(data) % 4)


def real_files():
    """Of this machine, the same ones each time: [(path, size)], FILES_MB in all."""
    found = []
    for top in FILE_FOLDERS:
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    entry = os.lstat(path)
                except OSError:
                    continue
                if stat.S_ISREG(entry.st_mode) and 0 < entry.st_size <= FILE_MB << 20:
                    found.append((hashlib.sha256(path.encode(errors="replace")).digest(), path,
                                  entry.st_size))
    chosen, total = [], 0
    for _, path, size in sorted(found):
        if total >= FILES_MB << 20:
            break
        chosen.append((path, size))
        total += size
    return chosen


def write_files(out):
    """/files/FOLDER/N, and a list of those that are text."""
    texts, left = [], TEXT_MB << 20
    out.write(archive_member("files", 0o040755))
    for folder in range(FOLDERS):
        out.write(archive_member(f"files/{folder}", 0o040755))
    for number, (path, _) in enumerate(real_files()):
        try:
            with open(path, "rb") as source:
                data = source.read()
        except OSError:
            continue
        name = f"files/{number % FOLDERS}/{number}"
        out.write(archive_member(name, 0o100644, data))
        if path.endswith(TEXT_ENDINGS) and left > 0:
            texts.append(f"/{name}")
            left -= len(data)
    out.write(archive_member("files/texts", 0o100644, "".join(f"{t}\n" for t in texts).encode()))


def write_initrd(path, base, workload, load):
    """`base`, an initramfs, and what makes its guest one of that load."""
    with open(path, "wb") as out:
        with open(base, "rb") as image:
            first = image.read()
        out.write(first + bytes(-len(first) % 512))
        with open(workload, "rb") as program:
            out.write(archive_member(REAL_WORKLOAD, 0o100755, program.read()))
        script = HEAD + SCRIPTS[load] + TAIL
        out.write(archive_member(WORKLOAD, 0o100755, script.encode()))
        if load == "typical":
            write_files(out)
        out.write(archive_member(ARCHIVE_END, 0))
