// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/Microsoft/hcsshim/pkg/migration"
)

const (
	setupDone       = migration.Phase_PHASE_SETUP_DONE
	inProgress      = migration.Phase_PHASE_TRANSFER_IN_PROGRESS
	blackoutStarted = migration.Phase_PHASE_BLACKOUT_STARTED
	offlineDone     = migration.Phase_PHASE_OFFLINE_DONE
	blackoutExited  = migration.Phase_PHASE_BLACKOUT_EXITED
	phaseDone       = migration.Phase_PHASE_DONE
	recoveryDone    = migration.Phase_PHASE_RECOVERY_DONE
	phaseFailed     = migration.Phase_PHASE_FAILED

	success       = migration.PhaseState_PHASE_STATE_SUCCESS
	cancelled     = migration.PhaseState_PHASE_STATE_CANCELLED
	sourceFailed  = migration.PhaseState_PHASE_STATE_SOURCE_FAILED
	targetFailed  = migration.PhaseState_PHASE_STATE_DESTINATION_FAILED
	recoveryFails = migration.PhaseState_PHASE_STATE_RECOVERY_FAILED
)

type event struct {
	*migration.NotificationsResponse
	received time.Time
}

func (e event) phase() migration.Phase      { return e.GetNotification().GetPhase() }
func (e event) state() migration.PhaseState { return e.GetNotification().GetState() }
func (e event) is(p migration.Phase, s migration.PhaseState) bool {
	return e.phase() == p && e.state() == s
}

func (e event) String() string {
	return fmt.Sprintf("%d:%s/%s", e.GetMessageID(),
		strings.TrimPrefix(e.phase().String(), "PHASE_"),
		strings.TrimPrefix(e.state().String(), "PHASE_STATE_"))
}

// subscription collects one side's notifications as they come, so that a slow check never slows the
// stream down.
type subscription struct {
	s    *shim
	name string
	quit context.CancelFunc

	mu      sync.Mutex
	changed chan struct{} // closed and made anew at each change
	events  []event
	ended   bool
	err     error
}

func (s *shim) watch(sid, name string) *subscription {
	ctx, quit := context.WithCancel(context.Background())
	stream, err := s.Notifications(ctx, &migration.NotificationsRequest{SessionID: sid})
	if err != nil {
		s.r.fail(s.name+": Notifications", "a stream", err.Error())
	}

	n := &subscription{s: s, name: s.name + " " + name, quit: quit, changed: make(chan struct{})}
	go func() {
		for {
			m, err := stream.Recv()

			n.mu.Lock()
			if err != nil {
				n.ended, n.err = true, err
			} else {
				n.events = append(n.events, event{m, time.Now()})
			}
			close(n.changed)
			n.changed = make(chan struct{})
			n.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return n
}

func (n *subscription) snapshot() (events []event, ended bool, err error, changed chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()

	return append([]event(nil), n.events...), n.ended, n.err, n.changed
}

func (n *subscription) String() string {
	events, ended, err, _ := n.snapshot()
	if ended {
		return fmt.Sprintf("%v, then %v", events, err)
	}
	return fmt.Sprint(events)
}

// wait returns the first event that is `wanted`. It gives up at once on a FAILED, a *_FAILED or the
// stream's end before that, and at the deadline.
func (n *subscription) wait(what string, wanted func(event) bool) event {
	deadline := time.After(waitTimeout)

	for {
		events, ended, _, changed := n.snapshot()
		for _, e := range events {
			if wanted(e) {
				n.s.r.ok("%s: %s (message %d)", n.name, what, e.GetMessageID())
				return e
			}
			if e.phase() == phaseFailed || e.state() > success {
				n.s.r.fail(n.name+": "+what, what, n.describe(events))
			}
		}
		if ended {
			n.s.r.fail(n.name+": "+what, what, n.String())
		}
		select {
		case <-changed:
		case <-deadline:
			n.s.r.fail(n.name+": "+what+" in time", what, n.describe(events))
		}
	}
}

// waitAny is wait for what comes after a cancel or a failure: no event ends it early.
func (n *subscription) waitAny(what string, wanted func(event) bool) event {
	deadline := time.After(callTimeout)

	for {
		events, ended, _, changed := n.snapshot()
		for _, e := range events {
			if wanted(e) {
				n.s.r.ok("%s: %s (message %d, %v)", n.name, what, e.GetMessageID(), e)
				return e
			}
		}
		if ended {
			n.s.r.fail(n.name+": "+what, what, n.String())
		}
		select {
		case <-changed:
		case <-deadline:
			n.s.r.fail(n.name+": "+what+" in time", what, n.describe(events))
		}
	}
}

// waitEnd waits for the clean end that Cleanup brings and returns all that came.
func (n *subscription) waitEnd() []event {
	events := n.drain()
	n.s.r.ok("%s: Cleanup ends the stream", n.name)
	return events
}

// drain is waitEnd without a word, for many.
func (n *subscription) drain() []event {
	deadline := time.After(callTimeout)

	for {
		events, ended, err, changed := n.snapshot()
		if ended {
			if !errors.Is(err, io.EOF) {
				n.s.r.fail(n.name+": Cleanup ends the stream", io.EOF.Error(), fmt.Sprint(err))
			}
			n.quit()
			return events
		}
		select {
		case <-changed:
		case <-deadline:
			n.s.r.fail(n.name+": Cleanup ends the stream", io.EOF.Error(), "still open: "+n.describe(events))
		}
	}
}

// describe lists the events, with the reasons that ferry adds for a person.
func (n *subscription) describe(events []event) string {
	var b strings.Builder

	for _, e := range events {
		fmt.Fprintf(&b, "%v ", e)
		if f, err := e.fields(); err == nil && f.reason != "" {
			fmt.Fprintf(&b, "(%s) ", f.reason)
		}
	}
	return strings.TrimSpace(b.String())
}

// checkEvents holds for every session, whatever became of it: who sent it, in which order, when.
// `transferred` is false for a session that ended before TransferSandbox: it has no start.
func (n *subscription) checkEvents(events []event, transferred bool) {
	r := n.s.r
	r.note("%s: %s", n.name, n.describe(events))

	for i, e := range events {
		if e.GetMessageID() != uint32(i+1) {
			r.fail(n.name+": message ids count from 1 with no gap", fmt.Sprint(i+1), e.String())
		}
		if e.GetNotification().GetOrigin() != n.s.origin {
			r.fail(n.name+": origin", n.s.origin.String(), fmt.Sprintf("%v in %v",
				e.GetNotification().GetOrigin(), e))
		}
		if e.phase() < setupDone || e.phase() > phaseFailed {
			r.fail(n.name+": a phase of the contract", "1 to 8", e.String())
		}
		if e.phase() <= blackoutExited && e.state() != success {
			r.fail(n.name+": phases 1 to 5 carry SUCCESS", "SUCCESS", e.String())
		}
		if e.GetUpdateTime() == nil {
			r.fail(n.name+": update_time is set", "a time", e.String())
		}
		if i > 0 && e.GetUpdateTime().AsTime().Before(events[i-1].GetUpdateTime().AsTime()) {
			r.fail(n.name+": update_time never goes back", "rising times", e.String())
		}
		if transferred && e.GetStartTime() == nil {
			r.fail(n.name+": start_time is set", "a time", e.String())
		}
		if transferred && !e.GetStartTime().AsTime().Equal(events[0].GetStartTime().AsTime()) {
			r.fail(n.name+": start_time is the same in all", events[0].GetStartTime().String(),
				e.GetStartTime().String())
		}
		if transferred && e.GetUpdateTime().AsTime().Before(e.GetStartTime().AsTime()) {
			r.fail(n.name+": nothing came before the start", e.GetStartTime().String(),
				e.GetUpdateTime().String())
		}
		if (e.GetNotification().GetBlackoutExited() != nil) != (e.phase() == blackoutExited) {
			r.fail(n.name+": BLACKOUT_EXITED, and only it, has details", "", e.String())
		}
	}
	r.ok("%s: %d messages: ids, origin, phases, states and times", n.name, len(events))
}

// checkOrder holds for a session that succeeded with HANDOVER_CALLER: DONE comes before the caller
// finalizes, BLACKOUT_EXITED after.
func (n *subscription) checkOrder(events []event, due ...migration.Phase) {
	order := []migration.Phase{setupDone, inProgress, blackoutStarted, offlineDone, phaseDone, blackoutExited}
	rank := map[migration.Phase]int{}
	for i, p := range order {
		rank[p] = i
	}

	seen := map[migration.Phase]int{}
	last := 0
	for _, e := range events {
		at, expected := rank[e.phase()]
		if !expected || e.state() != success {
			n.s.r.fail(n.name+": only phases of a success", fmt.Sprint(order), n.describe(events))
		}
		if at < last {
			n.s.r.fail(n.name+": phases in order", fmt.Sprint(order), n.describe(events))
		}
		last = at
		seen[e.phase()]++
		if e.phase() != inProgress && seen[e.phase()] > 1 {
			n.s.r.fail(n.name+": a phase comes once", "one "+e.phase().String(), n.describe(events))
		}
	}
	for _, p := range due {
		if seen[p] == 0 {
			n.s.r.fail(n.name+": "+p.String()+" came", fmt.Sprint(due), n.describe(events))
		}
	}
	n.s.r.ok("%s: the phases of a success, in order", n.name)
}

// checkReplay checks that a later subscriber gets the same messages under the same ids; only
// progress may be missing.
func (n *subscription) checkReplay(all, first []event) {
	n.compareReplay(all, first)
	n.s.r.ok("%s: a late subscriber got the whole history", n.name)
}

func (n *subscription) compareReplay(all, first []event) {
	byID := map[uint32]event{}
	for _, e := range all {
		byID[e.GetMessageID()] = e
	}
	have := map[uint32]bool{}
	last := uint32(0)
	for _, e := range first {
		o, known := byID[e.GetMessageID()]
		if !known || !o.is(e.phase(), e.state()) || e.GetMessageID() <= last {
			n.s.r.fail(n.name+": the history has the same messages", n.describe(all), n.describe(first))
		}
		last = e.GetMessageID()
		have[last] = true
	}
	for _, e := range all {
		if e.phase() != inProgress && !have[e.GetMessageID()] {
			n.s.r.fail(n.name+": the history keeps every phase", n.describe(all), n.describe(first))
		}
	}
}
