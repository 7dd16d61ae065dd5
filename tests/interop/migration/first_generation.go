// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/Microsoft/hcsshim/pkg/migration"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
)

// firstStream is TransferSandbox as the service's first callers opened it: a server stream that
// carries the events.
type firstStream struct {
	s      *shim
	stream ttrpc.ClientStream
	quit   context.CancelFunc
}

func (s *shim) openTransfer(sid string) *firstStream {
	ctx, quit := context.WithTimeout(context.Background(), waitTimeout)
	stream, err := s.conn.NewStream(ctx, &ttrpc.StreamDesc{StreamingServer: true}, "Migration",
		"TransferSandbox", &migration.TransferSandboxRequest{SessionID: sid})
	if err != nil {
		s.r.fail(s.name+": TransferSandbox as a stream", "a stream", err.Error())
	}
	return &firstStream{s, stream, quit}
}

// drain reads to the end. The end comes with the transfer's: a caller of that generation finalizes
// only after it.
func (f *firstStream) drain() []transferEvent {
	var events []transferEvent

	defer f.quit()
	for {
		var m migration.TransferSandboxResponse
		if err := f.stream.RecvMsg(&m); err != nil {
			f.s.r.check(errors.Is(err, io.EOF), f.s.name+": the stream ends after the transfer", io.EOF,
				fmt.Sprintf("%v after %v", err, events))
			return events
		}
		e, err := parseTransferEvent(m.ProtoReflect().GetUnknown())
		if err != nil {
			f.s.r.fail(f.s.name+": TransferSandboxResponse", "a message", err.Error())
		}
		events = append(events, e)
	}
}

func (f *firstStream) check(events []transferEvent, due ...string) {
	r, name := f.s.r, f.s.name
	order := []string{"SETUP_DONE", "TRANSFER_IN_PROGRESS", "BLACKOUT_STARTED", "OFFLINE_DONE", "DONE"}
	last := 0
	seen := map[string]bool{}

	r.note("%s: %v", name, events)
	for i, e := range events {
		phase := strings.TrimPrefix(e.event, "MIGRATION_EVENT_")
		at := -1
		for j, p := range order {
			if p == phase {
				at = j
			}
		}
		if at < last || phase == e.event || e.err != "" {
			r.fail(name+": events of a success, in order", fmt.Sprint(order), fmt.Sprintf("%+v", events))
		}
		if e.id != uint64(i+1) || !e.hasStart || !e.hasUpdate {
			r.fail(name+": ids from 1, times set", fmt.Sprint(i+1), fmt.Sprintf("%+v", e))
		}
		last = at
		seen[phase] = true
	}
	for _, p := range due {
		r.check(seen[p], name+": MIGRATION_EVENT_"+p, "it came", fmt.Sprintf("%+v", events))
	}
}

// firstGeneration: the service as it was first merged: the state in Import's field 2, TransferSandbox
// as a stream, no Notifications, and Finalize as the last call.
func firstGeneration(t *run) {
	r, sid := t.r, t.session+"-first"

	config := t.exportState(sid, tcpOptions())
	req, err := firstGenerationImport(sid, config)
	if err != nil {
		r.fail("the import request", "bytes", err.Error())
	}
	t.destination.must(importing(req))
	t.destination.must(prepare(sid, tcpOptions()))
	t.giveSockets(sid)

	source, destination := t.source.openTransfer(sid), t.destination.openTransfer(sid)
	events := make(chan []transferEvent)
	go func() { events <- destination.drain() }()
	s := source.drain()
	d := <-events
	source.check(s, "SETUP_DONE", "BLACKOUT_STARTED", "OFFLINE_DONE", "DONE")
	destination.check(d, "DONE")

	time.Sleep(callerPause)
	t.finalizeBoth(sid)
	for _, x := range []*shim{t.source, t.destination} {
		x.waitStatus("Finalize ends a session of the first generation", func(st shimStatus) bool {
			return st.session == ""
		})
		x.expect("after the session's end", subscribe(sid), codes.InvalidArgument)
	}
	t.destination.mustRunAlone(t.source)
}
