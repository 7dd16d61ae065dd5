#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every verb with bad input: the exit code, the message, and that nothing has changed.

usage: bad-input.py FERRY
"""
import sys

import ferry

USAGE, NOT_FOUND, REFUSED, FAILED = 2, 3, 4, 1


def cases(place):
    good = place.file("good.json", ferry.IDLE_VM)
    no_json = place.file("no.json", "{ memory")
    unknown = place.file("unknown.json", {**ferry.IDLE_VM, "memory": 1})
    range_ = place.file("range.json", {**ferry.IDLE_VM, "memory_mb": 1})
    no_kernel = place.file("no-kernel.json", {**ferry.IDLE_VM, "kernel": "/nowhere/vmlinuz"})
    no_qemu = place.file("no-qemu.json", {**ferry.IDLE_VM, "qemu": "/nowhere/qemu"})
    to = ("--to", place.b)
    yield (), USAGE, "a verb is missing"
    yield ("frobnicate",), USAGE, "there is no verb 'frobnicate'"
    yield ("migrat",), USAGE, "did you mean 'migrate'?"
    yield ("--bogus", "ls"), USAGE, "unknown option --bogus before the verb"
    yield ("--root",), USAGE, "--root needs a value"
    yield ("help", "nothing"), USAGE, "there is no verb 'nothing'"
    yield ("version", "--short"), USAGE, "version takes no '--short'"

    yield ("run",), USAGE, "NAME is missing"
    yield ("run", "web"), USAGE, "--config (or --kernel, --disk, ...) is missing"
    yield ("run", "web", "extra", "--config", good), USAGE, "'extra' is one word too many"
    yield ("run", "web", "--confg", good), USAGE, "did you mean --config?"
    yield ("run", "web", "--config"), USAGE, "--config needs a value (FILE)"
    yield ("run", "web", "--config", good, "--memory", "64"), USAGE, "--config has it all"
    yield ("run", "Web", "--config", good), USAGE, "'Web' is no name for a sandbox"
    yield ("run", "../web", "--config", good), USAGE, "is no name for a sandbox"
    yield ("run", "w" * 42, "--config", good), USAGE, "is no name for a sandbox"
    yield ("run", "web", "--config", "/nowhere.json"), NOT_FOUND, "/nowhere.json"
    yield ("run", "web", "--config", no_json), USAGE, "line 1"
    yield ("run", "web", "--config", unknown), USAGE, "memory"
    yield ("run", "web", "--config", range_), USAGE, "memory_mb"
    yield ("run", "web", "--config", no_kernel), NOT_FOUND, "/nowhere/vmlinuz"
    yield ("run", "web", "--config", no_qemu), None, "/nowhere/qemu"
    yield ("run", "web", "--config", place.folder), USAGE, "is no file"
    yield ("run", "web", "--config", place.fifo("fifo")), USAGE, "is no file"
    yield ("run", "web", "--config", place.file("big.json", " " * 300000)), USAGE, "at most"
    yield ("run", "web", "--kernel", place.folder), USAGE, "is a directory"
    yield ("run", "web", "--memory", "lots"), USAGE, "--memory lots: must be a whole number"
    yield ("run", "web", "--memory", "1"), USAGE, "memory_mb"
    yield ("run", "web", "--kernel", "/nowhere"), NOT_FOUND, "--kernel /nowhere"
    yield ("run", "web", "--disk", "/nowhere"), NOT_FOUND, "--disk /nowhere"
    yield ("run", "here", "--config", good), REFUSED, "there is a sandbox here in"
    yield ("run", "x", "--config", good, "--root", "relative"), USAGE, "must be an absolute path"
    yield ("run", "x", "--config", good, "--root", good), FAILED, good
    yield ("run", "x", "--config", good, "--root", "/dev/null/x"), FAILED, "cannot make"
    yield ("run", "x", "--config", good, "--root", "/tmp/" + "r" * 100), USAGE, "is too long"

    yield ("ls", "--bogus"), USAGE, "unknown option --bogus"
    yield ("ls", "word"), USAGE, "'word' is one word too many"
    yield ("ls", "--root", good), FAILED, "good.json"

    for verb in "status", "console", "stop", "events", "recover":
        yield (verb,), USAGE, "the sandbox's NAME is missing"
        yield (verb, "nobody"), NOT_FOUND, "no sandbox nobody in"
        yield (verb, "No/Body"), USAGE, "is no name for a sandbox"
        yield (verb, "here", "--bogus"), USAGE, "unknown option --bogus"
        yield (verb, "here", "there"), USAGE, "'there' is one word too many"
    yield ("console", "here", "--json"), USAGE, "unknown option --json"
    yield ("--json", "console", "here"), USAGE, "`ferry console` has no --json"
    yield ("events", "here"), REFUSED, "here has no migration session"
    yield ("status", "dead"), REFUSED, "has ended"
    yield ("recover", "dead"), REFUSED, "no VM of dead is left"
    yield ("migrate", "dead", *to), REFUSED, None

    yield ("migrate", *to), USAGE, "the sandbox's NAME is missing"
    yield ("migrate", "here"), USAGE, "--to is missing"
    yield ("migrate", "nobody", *to), NOT_FOUND, "no sandbox nobody in"
    yield ("migrate", "here", "--to", "otherhost"), USAGE, "other machines need"
    yield ("migrate", "here", "--to", "/nowhere/b"), NOT_FOUND, "--to /nowhere/b: /nowhere"
    yield ("migrate", "here", "--to", good), USAGE, "is no folder"
    yield ("migrate", "here", "--to", "/dev/null/b"), USAGE, "is no folder"
    yield ("migrate", "here", "--to", place.a), REFUSED, "is the root that here is in"
    yield ("migrate", "here", *to, "--handover", "maybe"), USAGE, "must be one of caller, direct"
    yield ("migrate", "here", *to, "--bandwidth", "fast"), USAGE, "must be a number of bytes"
    yield ("migrate", "here", *to, "--bandwidth", "0"), USAGE, "must be at least 1"
    yield ("migrate", "here", *to, "--max-passes", "4294967296"), USAGE, "must be from 0 to"
    yield ("migrate", "here", *to, "--throttling-scale", "x"), USAGE, "must be a number"
    yield ("migrate", "here", *to, "--timeout", "0"), USAGE, "must be from 1"
    yield ("migrate", "here", *to, "--compatibility-data", "/nowhere"), NOT_FOUND, "/nowhere"
    for option in "--report", "--trace":
        yield ("migrate", "here", *to, option), USAGE, f"{option} needs a value"
        yield ("migrate", "here", *to, option, "/nowhere/r"), NOT_FOUND, "/nowhere/r"
        yield ("migrate", "here", *to, option, "/dev/null/r"), FAILED, "/dev/null/r"
        yield ("migrate", "here", *to, option, place.folder), USAGE, "is no regular file"
        yield ("migrate", "here", *to, option, "/dev/full"), USAGE, "is no regular file"
        yield ("migrate", "here", *to, option, place.folder + "/"), USAGE, "names no file"
        yield ("migrate", "here", *to, option, "r" * 256), None, "cannot be written"
    # what the shims refuse, before anything has begun
    yield ("migrate", "here", *to, "--max-passes", "0"), USAGE, "maximum_number_of_brownout"
    yield ("migrate", "here", *to, "--minimum-throttle", "100"), USAGE, "minimum_throttle"
    yield ("migrate", "here", *to, "--throttling-scale", "0"), USAGE, "throttling_scale"
    yield ("migrate", "here", *to, "--compress-workers", "0"), USAGE, "throttle_worker_count"

    yield (("migrate", "here", *to, "--postcopy", "always", "--verify-memory"), USAGE,
           "not with postcopy")

    yield ("recover", "here", "--to", "otherhost"), USAGE, "other machines need"
    yield ("recover", "here", "--to", place.a), USAGE, "--to is this host"
    yield ("recover", "here", "--force"), USAGE, "--force needs --fenced and --reason"
    yield ("recover", "here", "--reason", "x"), USAGE, "go with --force"
    yield (("recover", "here", "--force", "--fenced", "x", "--reason", "x"), REFUSED,
           "there is nothing to force")
    yield ("recover", "here", *to), NOT_FOUND, "has a migration session of here that is open"

    yield ("host",), USAGE, "'set' or 'show' is missing"
    yield ("host", "get"), USAGE, "must be 'set' or 'show'"
    yield ("host", "set"), USAGE, "--name is missing"
    yield ("host", "show", "--name", "x"), USAGE, "takes no values"
    yield ("host", "set", "--name", "a/b"), USAGE, "--name: must be"
    yield ("host", "set", "--name", "a", "--netns", "../x"), USAGE, "--netns: must be"
    yield ("host", "set", "--name", "a", "--address", "localhost"), USAGE, "--address: must be"
    yield ("host", "set", "--name", "a", "--bridge", "b" * 16), USAGE, "--bridge: must be"
    yield ("host", "set", "--name", "a", "--root", "/dev/null/x"), FAILED, "cannot make"

    yield ("image",), USAGE, "'build' is missing"
    yield ("image", "burn"), USAGE, "must be 'build'"
    yield ("image", "build", "--output", "/dev/null/x"), None, "/dev/null/x"


def check(place, arguments, code, message):
    before = place.snapshot()
    result = place.ferry(*arguments)
    if code is None:
        assert result.code in (1, 2, 3, 4), f"ferry {arguments}: {result}"
    else:
        assert result.code == code, f"ferry {arguments}: expected {code}: {result}"
    assert result.err.startswith("ferry: "), f"ferry {arguments}: {result}"
    assert not result.out, f"ferry {arguments}: {result}"
    if message:
        assert message in result.err, f"ferry {arguments}: no '{message}': {result}"
    after = place.snapshot()
    assert before == after, f"ferry {arguments}: changed {set(before.items()) ^ set(after.items())}"


def check_all(place, verb):
    for arguments, code, message in cases(place):
        if (arguments[0] if arguments else "") == verb:
            check(place, arguments, code, message)


def main():
    ferry.need_qemu()
    with ferry.Place(sys.argv[1]) as place:
        place.must("run", "here", "--config", place.file("vm.json", ferry.IDLE_VM))
        place.file("a/.keep", "")
        place.must("run", "dead", "--config", place.file("vm.json", ferry.IDLE_VM))
        leave_only_files(place, "dead")
        for _ in cases(place):
            pass  # writes the configurations before the first snapshot
        verbs = sorted({arguments[0] if arguments else "" for arguments, _, _ in cases(place)})
        ferry.tap([(f"bad input: {verb or '(none)'}",
                    lambda verb=verb: check_all(place, verb)) for verb in verbs])


def leave_only_files(place, name):
    """A sandbox of which neither shim nor VM is left, as after the host was restarted."""
    import os
    import signal
    status = place.status(name)
    for pid in status["shim_pid"], status["qemu_pid"]:
        os.kill(pid, signal.SIGKILL)
    ferry.wait_for("the end of both", lambda: not any(
        os.path.exists(f"/proc/{pid}/exe") for pid in (status["shim_pid"], status["qemu_pid"])))


main()
