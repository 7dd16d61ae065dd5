// SPDX-License-Identifier: MIT

// A caller of the Migration service, made from what hcsshim publishes: its client and its messages,
// unchanged. It drives two ferry shims and checks what they answer and what they notify.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/Microsoft/hcsshim/pkg/migration"
)

var scenarios = map[string]func(*run){
	"full":                 full,
	"cancel":               cancelScenario,
	"abort-after-transfer": abortAfterTransfer,
	"matrix-light":         matrixLight,
	"first-generation":     firstGeneration,
	"notifications-first":  notificationsFirst,
	"subscribers":          subscribers,
}

func main() {
	source := flag.String("source", "", "the source shim's ttrpc `socket`")
	destination := flag.String("destination", "", "the destination shim's ttrpc `socket`")
	sourceFd := flag.String("source-fd-socket", "", "the source shim's fd `socket`")
	destinationFd := flag.String("destination-fd-socket", "", "the destination shim's fd `socket`")
	order := flag.String("finalize", "source-first", "source-first or destination-first")
	way := flag.String("fd-way", "process", "process or token")
	sandbox := flag.String("sandbox-id", "", "the sandbox's `id`")
	scenario := flag.String("scenario", "full", "full, cancel, abort-after-transfer, matrix-light, "+
		"first-generation, notifications-first or subscribers")
	flag.Parse()

	do, known := scenarios[*scenario]
	if !known || flag.NArg() > 0 || *source == "" || *destination == "" || *sandbox == "" ||
		(*order != "source-first" && *order != "destination-first") ||
		(*way != "process" && *way != "token") ||
		(*way == "token" && (*sourceFd == "" || *destinationFd == "")) {
		flag.Usage()
		os.Exit(2)
	}

	r := newReport(*scenario)
	r.fact("finalize", *order)
	r.fact("fd_way", *way)
	connect := func(name string, origin migration.Origin, path, fdSocket string) *shim {
		s, err := dialShim(r, name, origin, path, fdSocket)
		if err != nil {
			r.fail(name+": connect", path, err.Error())
		}
		return s
	}
	src, dst := migration.Origin_ORIGIN_SOURCE, migration.Origin_ORIGIN_DESTINATION
	t := &run{
		r:             r,
		source:        connect("source", src, *source, *sourceFd),
		destination:   connect("destination", dst, *destination, *destinationFd),
		sandboxID:     *sandbox,
		session:       fmt.Sprintf("interop-%d-%d", os.Getpid(), time.Now().UnixNano()),
		finalizeOrder: *order,
		fdWay:         *way,
	}

	t.source.waitStatus("a guest runs at the source", func(st shimStatus) bool { return st.vm == vmRunning })
	st := t.destination.status()
	r.check(st.vm == vmNone, "destination: it is empty", "NONE", st)

	sampler := sample(connect("source", src, *source, ""), connect("destination", dst, *destination, ""))
	do(t)
	sampler.finish(r)
	r.pass()
}
