// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	// readers have a connection each, and as many more share one.
	readers = 50
	// silentStreams are those of a caller that stops reading: enough for progress to fill its socket
	// and what the shim keeps for a connection. The shim takes 1024 subscribers of a session.
	silentStreams = 800
	// crowdRate lets the copy take some seconds and end.
	crowdRate = 2 * 1000 * 1000
)

// gatedConn reads nothing from its socket until it is opened: hcsshim's client behind it subscribes,
// and then is as good as hung.
type gatedConn struct {
	*net.UnixConn
	gate chan struct{}
	once sync.Once
}

func (c *gatedConn) Read(b []byte) (int, error) {
	<-c.gate
	return c.UnixConn.Read(b)
}

func (c *gatedConn) open() { c.once.Do(func() { close(c.gate) }) }

// unread is how much the peer has sent that nobody has read.
func (c *gatedConn) unread() (int, error) {
	var n int32
	var errno syscall.Errno

	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return int(n), err
}

// redial is the same side over a connection of its own.
func (s *shim) redial() *shim {
	c, err := net.Dial("unix", s.path)
	if err != nil {
		s.r.fail(s.name+": another connection", s.path, err.Error())
	}
	return s.over(c)
}

func (s *shim) redialGated() (*shim, *gatedConn) {
	c, err := net.Dial("unix", s.path)
	if err != nil {
		s.r.fail(s.name+": another connection", s.path, err.Error())
	}
	gated := &gatedConn{UnixConn: c.(*net.UnixConn), gate: make(chan struct{})}
	return s.over(gated), gated
}

// crowd is many subscribers of one side: half with a connection each, half over one.
func (s *shim) crowd(sid string) []*subscription {
	var all []*subscription

	shared := s.redial()
	for i := range readers {
		all = append(all, s.redial().watch(sid, fmt.Sprintf("reader %d", i)),
			shared.watch(sid, fmt.Sprintf("sharing reader %d", i)))
	}
	return all
}

func (n *subscription) countProgress() int {
	count := 0
	events, _, _, _ := n.snapshot()
	for _, e := range events {
		if e.phase() == inProgress {
			count++
		}
	}
	return count
}

// waitFull waits until a socket that nobody reads has taken all it can: no byte more while a reader
// is told of progress again and again.
func waitFull(r *report, c *gatedConn, reader *subscription) {
	before, told := -1, 0

	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		now, err := c.unread()
		if err != nil {
			r.fail("unread bytes of a socket", "a number", err.Error())
		}
		if now != before {
			before, told = now, reader.countProgress()
		} else if now > 0 && reader.countProgress() >= told+5 {
			r.ok("the socket that nobody reads is full: %d bytes", now)
			return
		}
		if events, _, _, _ := reader.snapshot(); len(events) > 0 && events[len(events)-1].phase() > inProgress {
			break
		}
	}
	r.fail("a socket that nobody reads is full before the copy ends", "no more bytes in it",
		fmt.Sprintf("%d bytes; %s", before, reader))
}

// checkAlike checks that each saw what the first one did, message by message, to the clean end.
func checkAlike(r *report, what string, all []*subscription) []event {
	first := all[0].waitEnd()

	for _, n := range all[1:] {
		got := n.drain()
		if len(got) != len(first) {
			r.fail(n.name+": sees what the others see", all[0].describe(first), n.describe(got))
		}
		for i, e := range got {
			if e.GetMessageID() != first[i].GetMessageID() || !e.is(first[i].phase(), first[i].state()) ||
				!e.GetUpdateTime().AsTime().Equal(first[i].GetUpdateTime().AsTime()) {
				r.fail(n.name+": sees what the others see", all[0].describe(first), n.describe(got))
			}
		}
	}
	r.ok("%s: %d subscribers saw the same %d messages", what, len(all), len(first))
	return first
}

// subscribers: a hundred on the source at once, one caller that never reads, one that leaves in the
// middle; nobody waits for those two.
func subscribers(t *run) {
	r := t.r
	sid := t.session + "-crowd"

	t.prepareBoth(sid, withMaxBandwidth(tcpOptions(), crowdRate))
	atSource, atDestination := t.source.crowd(sid), t.destination.crowd(sid)
	silent, gate := t.source.redialGated()
	var unheard []*subscription
	for i := range silentStreams {
		unheard = append(unheard, silent.watch(sid, fmt.Sprintf("silent %d", i)))
	}
	leaving := t.source.redial()
	left := []*subscription{leaving.watch(sid, "leaver"), leaving.watch(sid, "leaver, again")}
	t.giveSockets(sid)

	t.source.must(transfer(sid))
	t.destination.must(transfer(sid))
	left[0].wait("TRANSFER_IN_PROGRESS", func(e event) bool { return e.is(inProgress, success) })
	if err := leaving.conn.Close(); err != nil {
		r.fail("leaver: leaves", "no error", err.Error())
	}
	waitFull(r, gate, atSource[0])
	atSource[0].wait("DONE/SUCCESS before Finalize", isDone)
	atDestination[0].wait("DONE/SUCCESS before Finalize", isDone)
	t.finalizeBoth(sid)
	atSource[0].wait("BLACKOUT_EXITED", isBlackoutExited)
	atDestination[0].wait("BLACKOUT_EXITED", isBlackoutExited)
	t.cleanupBoth(sid)

	s := checkAlike(r, "source", atSource)
	d := checkAlike(r, "destination", atDestination)
	atSource[0].checkEvents(s, true)
	atSource[0].checkOrder(s, setupDone, inProgress, blackoutStarted, offlineDone, phaseDone, blackoutExited)
	atSource[0].checkFields(s)
	atDestination[0].checkEvents(d, true)
	atDestination[0].checkOrder(d, setupDone, phaseDone, blackoutExited)
	atDestination[0].checkFields(d)
	t.destination.mustRunAlone(t.source)

	for _, n := range unheard {
		if events, ended, _, _ := n.snapshot(); len(events) > 0 || ended {
			r.fail(n.name+": has read nothing", "nothing", n.String())
		}
	}
	gate.open()
	fewest := len(s)
	for _, n := range unheard {
		events := n.drain()
		n.compareReplay(s, events)
		fewest = min(fewest, len(events))
	}
	r.check(fewest < len(s), "source: some progress was not kept for who did not read", fmt.Sprintf("less than %d", len(s)),
		fewest)
	r.ok("source: %d streams that nobody read had every phase in the end", len(unheard))
}
