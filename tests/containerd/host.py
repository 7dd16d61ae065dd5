# SPDX-License-Identifier: MIT
"""A containerd of its own in a folder of its own, with ferry's shim, and an image made by hand."""
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback

LIMIT = 120
RUNTIME = "io.containerd.ferry.v2"
IMAGE = "test.local/busybox:1"

CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{socket}"
"""


def wait_for(what, condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT} s"
        time.sleep(0.02)


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def blob(data, kind):
    return {"mediaType": kind, "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
            "size": len(data)}


def layer(more):
    """busybox, by all the names that the tests use, and a file with `more` in it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp":
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        busybox = tarfile.TarInfo("bin/busybox")
        with open("/bin/busybox", "rb") as program:
            data = program.read()
        busybox.size, busybox.mode = len(data), 0o755
        tar.addfile(busybox, io.BytesIO(data))
        for name in ("sh", "cat", "echo", "sleep", "seq", "md5sum", "stty", "hostname", "id", "ps",
                     "test", "true", "ls", "touch", "tail", "head"):
            link = tarfile.TarInfo("bin/" + name)
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        entry = tarfile.TarInfo("more")
        entry.size = len(more)
        tar.addfile(entry, io.BytesIO(more))
        for name, text in ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), \
                ("etc/group", "root:x:0:\n"):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def write_image(path, command, image=IMAGE, more=b""):
    """An OCI layout, as a registry would give it."""
    root = layer(more)
    config = json.dumps({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(root).hexdigest()]},
    }).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(root, "application/vnd.oci.image.layer.v1.tar")],
    }).encode()
    index = json.dumps({
        "schemaVersion": 2,
        "manifests": [{**blob(manifest, "application/vnd.oci.image.manifest.v1+json"),
                       "annotations": {"io.containerd.image.name": image,
                                       "org.opencontainers.image.ref.name": "1"}}],
    }).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in [("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
                           ("index.json", index)] + [
                ("blobs/sha256/" + hashlib.sha256(data).hexdigest(), data)
                for data in (root, config, manifest)]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


class Result:
    def __init__(self, process):
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr

    def __str__(self):
        return f"exit {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}"


class Host:
    """ferry: the CLI; shim: the shim's program; binaries: containerd's folder, or None; guest: an image
    that is there already; netns: a network namespace that it runs in."""

    def __init__(self, ferry, shim, binaries=None, guest=None, netns=None):
        self.ferry = os.path.abspath(ferry)
        self.shim = os.path.abspath(shim)
        self.folder = tempfile.mkdtemp(prefix="ferry-cd-", dir="/tmp")
        os.chmod(self.folder, 0o755)  # QEMU runs as somebody else
        self.socket = os.path.join(self.folder, "s.sock")
        self.root = os.path.join(self.folder, "f")
        self.binaries = binaries
        self.guest = guest or os.path.join(self.folder, "guest")
        self.has_guest = guest is not None
        self.netns = netns
        self.roots = os.path.join(self.folder, "roots")
        self.config, self.namespace = CONFIG, "default"  # containerd's
        self.command = ["sh"]  # of the image
        self.process = None
        self.environment = {
            **os.environ,
            "FERRY_CONTAINERD_CONFIG": os.path.join(self.folder, "ferry.json"),
            "PATH": ":".join([*([binaries] if binaries else []), os.path.dirname(self.shim),
                              os.environ["PATH"]]),
        }

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def configure(self, roots=None, **more):
        """The shims that begin from now on pack into `roots`; more: other fields of the configuration."""
        self.roots = roots or self.roots
        self.write("ferry.json", json.dumps({"image": self.guest, "root": self.root,
                                             "cache_dir": self.roots, "accelerator": "tcg", **more}))

    def build_guest(self):
        built = subprocess.run([self.ferry, "image", "build", "--containers", "--output", self.guest],
                               text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               check=False)
        if built.returncode != 0 and os.environ.get("CI") != "true":
            print(f"1..0 # SKIP {built.stderr.splitlines()[0]}")
            sys.exit(0)
        assert built.returncode == 0, built.stderr

    def version(self):
        done = subprocess.run(["containerd", "--version"], env=self.environment, text=True,
                              stdout=subprocess.PIPE, check=True)
        return int(done.stdout.split()[2].lstrip("v").split(".")[0])

    def enter(self):
        """Its network namespace only: namespaces that it mounts are seen by those outside too."""
        return ("nsenter", "--net=/run/netns/" + self.netns) if self.netns else ()

    def start(self):
        self.process = subprocess.Popen(
            [*self.enter(), "containerd", "-c", os.path.join(self.folder, "config.toml"), "-l", "debug"],
            env=self.environment, stdout=open(os.path.join(self.folder, "log"), "ab"),
            stderr=subprocess.STDOUT)
        wait_for("containerd", lambda: os.path.exists(self.socket) and
                 self.ctr("version").code == 0)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(LIMIT)

    def kill(self):
        """As a crash ends it: nothing is said to anybody."""
        self.process.kill()
        self.process.wait(LIMIT)

    def __enter__(self):
        if not self.has_guest:
            self.build_guest()
        self.write("config.toml", self.config.format(folder=self.folder, socket=self.socket))
        self.configure()
        self.start()
        image = os.path.join(self.folder, "image.tar")
        write_image(image, self.command)
        self.must("image", "import", image)
        return self

    def __exit__(self, *_):
        for task in self.ctr("task", "ls", "-q").out.split():
            self.ctr("task", "kill", "-s", "KILL", task)
            self.ctr("task", "delete", "-f", task)
        for sandbox in self.sandboxes():
            subprocess.run([self.ferry, "--root", self.root, "stop", "--force", sandbox],
                           check=False, stderr=subprocess.DEVNULL)
        self.stop()
        if os.environ.get("FERRY_KEEP"):
            print("# kept", self.folder)
        else:
            self.unmount()
            shutil.rmtree(self.folder)

    def unmount(self):
        """What a test that failed has left."""
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            paths = [line.split()[1] for line in mounts]
        for path in reversed(paths):
            if path.startswith(self.folder + "/"):
                subprocess.run(["umount", path], check=False)

    def argv(self, *arguments):
        return ["ctr", "--address", self.socket, "-n", self.namespace, *arguments]

    def ctr(self, *arguments, stdin=subprocess.DEVNULL, **more):
        return Result(subprocess.run(self.argv(*arguments), env=self.environment, text=True,
                                     stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                     timeout=LIMIT, check=False, **more))

    def must(self, *arguments, **more):
        result = self.ctr(*arguments, **more)
        assert result.code == 0, f"ctr {' '.join(arguments)}: {result}"
        return result

    def sandboxes(self):
        return [entry.name for entry in os.scandir(self.root)
                if entry.is_dir() and not entry.name.startswith(".")] \
            if os.path.isdir(self.root) else []


def tap(cases):
    print(f"1..{len(cases)}")
    failed = False
    for number, (name, function) in enumerate(cases, 1):
        start = time.monotonic()
        try:
            function()
            print(f"ok {number} - {name}")
        except Exception as error:  # pylint: disable=broad-exception-caught
            failed = True
            print(f"not ok {number} - {name}")
            traceback.print_exception(error)
        print(f"# {time.monotonic() - start:.1f} s", flush=True)
    return failed


def run_tests(names, *places):
    """Those among `names`; with $ONLY, of which that is a part of the name."""
    wanted = os.environ.get("ONLY", "")
    return tap([(name[len("test_"):].replace("_", " "), lambda test=test: test(*places))
                for name, test in names.items()
                if name.startswith("test_") and wanted in name])


def run(place, name, *arguments, flags=(), **more):
    return place.ctr("run", "--rm", "--runtime", RUNTIME, *flags, IMAGE, name, *arguments,
                     **more)


def start(place, name, script):
    place.must("run", "-d", "--runtime", RUNTIME, IMAGE, name, "sh", "-c", script)


def state(place, name):
    """What `ctr task ls` says of it; None: nothing."""
    for line in place.must("task", "ls").out.splitlines()[1:]:
        if line.split()[0] == name:
            return line.split()[2]
    return None


def remove(place, name):
    place.ctr("task", "kill", "-s", "KILL", name)
    wait_for("its end", lambda: state(place, name) == "STOPPED")
    place.must("task", "delete", name)
    place.must("container", "delete", name)


def fetch(tool, folder, suite):
    """Of suites that go on changing: what cannot be had is skipped."""
    done = subprocess.run([tool, os.path.join(folder, suite), suite, "usr/bin/containerd",
                           "containerd"], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        print(f"1..0 # SKIP {done.stderr.strip()}")
        sys.exit(0)
    return os.path.dirname(done.stdout.strip())


def main(names):
    """The tests among `names`, on a host of their own."""
    ferry, shim = sys.argv[1:3]
    with Host(ferry, shim, fetch(*sys.argv[3:]) if len(sys.argv) > 3 else None) as place:
        failed = run_tests(names, place)
    sys.exit(failed)
