# SPDX-License-Identifier: MIT
"""`virsh migrate --live` with its defaults, between two libvirtd of the bench's own.

Each libvirtd has its own /etc/libvirt, /run/libvirt and /var/*/libvirt, bound over this machine's
in a mount namespace of its own, and on a shaped link its own network namespace. What the machine
has of libvirt is neither read nor touched.
"""
import os
import shutil
import subprocess
import time
import uuid

from chain import MOVE_LIMIT, BenchError, Chain, read_console

DAEMON_LIMIT = 30  # seconds for libvirtd to answer, or to end
JOB_LIMIT = 60  # seconds for an aborted job to end
NAME = "bench"
PROGRAMS = ("libvirtd", "virsh", "unshare")

DAEMON_CONFIG = """\
unix_sock_group = "root"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
log_outputs = "4:stderr"
"""

QEMU_CONFIG = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""

# libvirtd's QEMU driver does not start without this user; libvirt-daemon-system would make it.
USERS = {"passwd": "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin\n",
         "group": "libvirt-qemu:x:64055:\n"}

START = """\
set -e
mount --make-rprivate /
for folder in /etc /run /var/lib /var/cache /var/log; do
        mkdir -p "$folder/libvirt" "$1$folder"
        mount --bind "$1$folder" "$folder/libvirt"
done
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
exec libvirtd -f "$1/libvirtd.conf" -p "$1/libvirtd.pid"
"""

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mb}</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{cmdline}</cmdline>
  </os>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>Nehalem</model></cpu>
  <features><acpi/></features>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""

# libvirt rounds memory to whole MiB, and a TCG guest needs 8 KiB less (peers.py says why).
ADAPT = """\
n=$#
while [ "$n" -gt 0 ]; do
        word=$1
        shift
        case $word in
        {mb} | size={kb}k) [ "$last" != -m ] || word=size={less_kb}k ;;
        *'"size":{bytes}'*) word=${{word%%{bytes}*}}{less_bytes}${{word#*{bytes}}} ;;
        esac
        last=$word
        set -- "$@" "$word"
        n=$((n - 1))
done"""


def missing():
    """Why virsh cannot be measured here; None if it can."""
    if os.geteuid():
        return "it needs root"
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"there is no {', '.join(absent)}" if absent else None


class Daemon:
    """One libvirtd."""

    def __init__(self, folder, side, link):
        self.folder = os.path.join(folder, f"libvirt-{side}")
        os.makedirs(os.path.join(self.folder, "etc", "qemu"))
        self.uri = f"qemu+unix:///system?socket={self.folder}/run/libvirt-sock"
        self.write("libvirtd.conf", DAEMON_CONFIG.format(uuid=uuid.uuid4()))
        self.write("etc/qemu.conf", QEMU_CONFIG)
        for name, line in USERS.items():
            with open(f"/etc/{name}", encoding="utf-8") as text:
                there = text.read()
            self.write(name, there if line.split(":")[0] in there else there + line)
        self.log = os.path.join(self.folder, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*link.inside(side), "unshare", "--mount", "sh", "-c", START, "sh", self.folder],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as out:
            out.write(text)

    def wait_ready(self):
        deadline = time.monotonic() + DAEMON_LIMIT
        while True:
            done = virsh(self.uri, "list")
            if done.returncode == 0:
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"libvirtd does not answer: {done.stderr.strip()} "
                                 f"{read_console(self.log)[-600:]}")
            time.sleep(0.1)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=DAEMON_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def virsh(uri, *arguments):
    return subprocess.run(["virsh", "-q", "-c", uri, *arguments], check=False, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True)


class Daemons:
    """Both, for all chains of one link."""

    def __init__(self, folder, link):
        self.sides = {}
        try:
            for side in "ab":
                self.sides[side] = Daemon(folder, side, link)
        except BaseException:
            self.close()
            raise

    def close(self):
        for daemon in self.sides.values():
            daemon.close()


class VirshChain(Chain):
    # libvirt's own choice of devices, less what the others' guests do not have either.
    MORE = ("-machine hpet=off,sata=off,smbus=off,vmport=off,i8042=off "
            "-chardev \"file,id=bench-console,path={folder}/{name}.watch/$$.console\" "
            "-device isa-serial,chardev=bench-console")

    def __init__(self, daemons, folder, name, guest, link):
        size = guest.memory_mb * 1024
        self.ADAPT = ADAPT.format(mb=guest.memory_mb, kb=size, less_kb=size - 8, bytes=size * 1024,
                                  less_bytes=(size - 8) * 1024)
        super().__init__(folder, name, guest, link)
        self.uris = {side: daemon.uri for side, daemon in daemons.sides.items()}

    def run(self, side, *arguments):
        done = virsh(self.uris[side], *arguments)
        if done.returncode:
            raise BenchError(f"virsh {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def start(self):
        path = os.path.join(self.folder, f"{self.name}.xml")
        with open(path, "w", encoding="utf-8") as xml:
            xml.write(DOMAIN.format(name=NAME, memory_mb=self.guest.memory_mb,
                                    kernel=self.guest.kernel, initrd=self.guest.initrd,
                                    cmdline=self.guest.cmdline, emulator=self.watch.program))
        self.run("a", "create", path)

    def output(self):
        return read_console(os.path.join(self.watch.folder, f"{self.watch.here.pid}.console"))

    def move(self):
        here, there = self.side(), self.side(1)
        # Where to: its host name would not lead to the link. All else is virsh's default.
        job = subprocess.Popen(
            ["virsh", "-q", "-c", self.uris[here], "migrate", "--live", NAME, self.uris[there],
             "--migrateuri", f"tcp://{self.link.address(there)}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True)
        try:
            said, aborted = job.communicate(timeout=MOVE_LIMIT)[0], False
        except subprocess.TimeoutExpired:
            virsh(self.uris[here], "domjobabort", NAME)
            said, aborted = job.communicate(timeout=JOB_LIMIT)[0], True
        finally:
            job.kill()
            job.wait()
        if job.returncode == 0:
            return self.figures(there)
        if aborted:
            return None
        raise BenchError(f"virsh migrate: {said.strip()}")

    def figures(self, there):
        told = dict(line.split(": ", 1) for line in
                    self.run(there, "domjobinfo", NAME, "--completed", "--rawstats").splitlines()
                    if ": " in line)
        return {"passes": int(told["memory_iteration"]) - 1,  # as QEMU counts: peers.py
                "bytes": int(told["memory_processed"])}

    def stop(self):
        for uri in self.uris.values():
            virsh(uri, "destroy", NAME)
