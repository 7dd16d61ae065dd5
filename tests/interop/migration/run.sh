#!/bin/bash
# SPDX-License-Identifier: MIT
#
# run.sh SHIM KERNEL: drives two real shims with a caller made of hcsshim's module (main.go), one
# scenario after the other. KERNEL is the tiny guest. Exit 77 = something needed is not here; with
# CI=true that is a failure.
#
# Each scenario has a PID namespace of its own, so that whatever it leaves, a QEMU that outlived its
# shim too, ends with it; and there the QEMU processes can simply be counted.
set -u

here=$(cd "$(dirname "$0")" && pwd)

missing() {
        echo "# $1"
        [ "${CI:-}" = true ] && exit 1
        exit 77
}

# ---- inside the namespace: one scenario ----

start_shim() { # NAME [ARG...]
        local name=$1 dir=$work/$1 word='' pid
        shift

        mkdir "$dir"
        mkfifo "$dir.ready"
        "$shim" serve --state-dir "$dir" --id sandbox --ready-fd 3 "$@" \
                3>"$dir.ready" >"$dir.out" 2>&1 </dev/null &
        pid=$!
        read -r -t 60 word <"$dir.ready"
        if [ "$word" != ready ]; then
                echo "not ok - the $name shim (pid $pid) did not say that it is ready"
                return 1
        fi
}

# So that the heartbeats before and after can be told apart.
guest_has_booted() {
        for _ in $(seq 300); do
                grep -q '^H 1 ' "$work/source/console.log" 2>/dev/null && return 0
                sleep 0.1
        done
        echo 'not ok - the guest did not boot in 30 s'
        return 1
}

n_qemu() {
        cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^qemu-system'
}

# A process that was killed is there until its parent has looked; give it a moment.
one_qemu_is_left() {
        for _ in $(seq 100); do
                [ "$(n_qemu)" = 1 ] && return 0
                sleep 0.1
        done
        echo "not ok - $(n_qemu) QEMU processes at the end, expected 1"
        return 1
}

# The guest counts its heartbeats, and the pages that it found broken: at the destination it goes on
# where it was, does not boot again, and misses nothing.
guest_came_over_whole() {
        local from=$work/source/console.log to=$work/destination/console.log last next
        local beat='^H [0-9]+ pages=[0-9]+ gen=[0-9]+ errors=[0-9]+.?$'

        last=$(grep -E "$beat" "$from" | tail -n 1 | cut -d ' ' -f 2)
        for _ in $(seq 100); do
                next=$(grep -E "$beat" "$to" 2>/dev/null | tail -n 1 | cut -d ' ' -f 2)
                [ "${next:-0}" -gt $((${last:-0} + 2)) ] && break
                sleep 0.1
        done
        if [ -z "$last" ] || [ "${next:-0}" -le "$last" ]; then
                echo "not ok - heartbeats: ${last:-none} at the source, then ${next:-none}"
                return 1
        fi
        if grep -q TINY "$to" || grep -E "$beat" "$from" "$to" | grep -Evq 'errors=0.?$'; then
                echo "not ok - the guest booted again, or its memory is broken"
                return 1
        fi
        echo "ok - the guest went on: heartbeat $last at the source, $next at the destination, no page broken"
}

show_logs() {
        for log in "$work"/*.out "$work"/*/*.log; do
                [ -s "$log" ] || continue
                echo "# ---- ${log#"$work/"}"
                tail -n 40 "$log" | tr -cd '[:print:]\n\t' | sed 's/^/#   /'
        done
}

inside() { # CLIENT SHIM KERNEL WORK ARG...
        client=$1 shim=$2 kernel=$3 work=$4
        shift 4

        printf '{"memory_mb":128,"kernel":"%s","cmdline":"%s"}\n' "$kernel" "$guest_cmdline" \
                >"$work/vm.json"
        if start_shim source --config "$work/vm.json" && start_shim destination &&
                guest_has_booted &&
                timeout 300 "$client" --sandbox-id sandbox \
                        --source "$work/source/shim.sock" \
                        --source-fd-socket "$work/source/fd.sock" \
                        --destination "$work/destination/shim.sock" \
                        --destination-fd-socket "$work/destination/fd.sock" "$@" &&
                one_qemu_is_left && guest_came_over_whole; then
                exit 0
        fi
        show_logs
        exit 1
}

# ---- outside ----

run_scenario() { # ARG...
        local work=$scratch/run result

        mkdir "$work"
        echo "# ==== $*"
        setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount-proc \
                bash "$here/run.sh" --inside "$client" "$shim" "$kernel" "$work" "$@" &
        namespace=$!
        wait "$namespace"
        result=$?
        namespace=''
        rm -rf "$work"
        if [ "$result" != 0 ]; then
                echo "# FAILED: $*"
                failed=$((failed + 1))
        else
                passed=$((passed + 1))
        fi
}

clean_up() {
        [ -n "$namespace" ] && kill -KILL "$namespace" && wait "$namespace"
        rm -rf "$scratch"
}

# 4 MiB that are rewritten all the time, 200 pages a second.
guest_cmdline='rate=200 wss=1024 hb=50'

if [ "${1:-}" = --inside ]; then
        shift
        inside "$@"
fi

[ $# -ge 2 ] || missing 'usage: run.sh SHIM KERNEL [SCENARIO ARGUMENTS]'
shim=$(realpath "$1") kernel=$(realpath "$2")
shift 2

command -v go >/dev/null || missing 'no Go'
command -v qemu-system-x86_64 >/dev/null || missing 'no qemu-system-x86_64'
[ -x "$shim" ] || missing "no shim: $shim"
[ -r "$kernel" ] || missing "no guest: $kernel"
unshare --pid --fork --kill-child --mount-proc true || missing 'no right to make a PID namespace'

# Short, whatever TMPDIR is: a socket's path has 107 bytes.
scratch=$(mktemp -d /tmp/ferry-interop-XXXXXX) || exit 1
namespace='' passed=0 failed=0
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

client=$scratch/client
if [ -z "${HOME:-}" ]; then
        export GOPATH=$scratch/go GOCACHE=$scratch/go-build
fi
export GOTOOLCHAIN=local GOFLAGS='-mod=readonly -modcacherw -buildvcs=false'
cd "$here" || exit 1
go mod download || missing 'the Go modules cannot be had'
go build -trimpath -o "$client" . || exit 1

if [ $# -gt 0 ]; then
        run_scenario "$@"
else
        run_scenario --scenario full --finalize source-first --fd-way process
        run_scenario --scenario full --finalize destination-first --fd-way process
        run_scenario --scenario full --finalize source-first --fd-way token
        run_scenario --scenario full --finalize destination-first --fd-way token
        run_scenario --scenario cancel
        run_scenario --scenario abort-after-transfer
        run_scenario --scenario matrix-light --fd-way process
        run_scenario --scenario matrix-light --fd-way token
        run_scenario --scenario first-generation
        run_scenario --scenario notifications-first
        run_scenario --scenario subscribers
fi
echo "migration-go: $passed passed, $failed failed"
[ "$failed" = 0 ]
