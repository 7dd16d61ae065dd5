# SPDX-License-Identifier: MIT
"""A virtio-serial port with nothing above it: what a program in the guest writes there is read from
its socket on the host, no frames, no checksums, no credit.

Each QEMU is started through watch.py's script, which gives it the port besides its own two.
"""
import os
import socket

import watch

NAME = "bench.bare"
BLOCK = 32 << 10  # what Linux's driver takes with one write


class BarePort:
    def __init__(self, folder):
        self.sockets = os.path.join(folder, "bare")
        os.mkdir(self.sockets)
        os.chmod(self.sockets, 0o1777)  # ferry's QEMUs have a user each
        self.script = watch.Watch(
            folder, "qemu", more=f'-chardev "socket,id=bare,path={self.sockets}/$$,server=on,'
            f'wait=off" -device virtserialport,bus=ports.0,nr=3,chardev=bare,name={NAME}')

    @property
    def path(self):
        """To go first in PATH of who starts the VM."""
        return self.script.path

    def connect(self):
        """To the port of the one VM that runs."""
        name, = os.listdir(self.sockets)
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(os.path.join(self.sockets, name))
        return sock


def writer(megabytes):
    """What writes so many MB of zeros to the port, in the guest."""
    return ["busybox", "sh", "-c",
            f"cd /sys/class/virtio-ports && for p in *; do busybox grep -qx {NAME} $p/name && "
            f"exec busybox dd if=/dev/zero of=/dev/$p bs={BLOCK} count={(megabytes << 20) // BLOCK}"
            " status=none; done"]
