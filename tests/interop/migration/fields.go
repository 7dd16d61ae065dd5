// SPDX-License-Identifier: MIT

package main

import "fmt"

// notificationFields is what ferry adds to hcsshim's Notification (100, 101, 102).
type notificationFields struct {
	progress *progress
	reason   string
	code     uint64
}

type progress struct {
	total, sent, remaining, pass, dirtyRate, rate, throttle, limit, expected uint64
}

func (e event) fields() (notificationFields, error) {
	var n notificationFields

	fields, err := parseFields(e.GetNotification().ProtoReflect().GetUnknown())
	if err != nil {
		return n, err
	}
	for _, f := range fields {
		switch f.number {
		case 100:
			inner, err := parseFields(f.bytes)
			if err != nil {
				return n, err
			}
			p := &progress{}
			into := []*uint64{nil, &p.total, &p.sent, &p.remaining, &p.pass, &p.dirtyRate, &p.rate,
				&p.throttle, &p.limit, &p.expected}
			for _, f := range inner {
				if int(f.number) >= len(into) {
					return n, fmt.Errorf("field %d of progress", f.number)
				}
				*into[f.number] = f.varint
			}
			n.progress = p
		case 101:
			n.reason = string(f.bytes)
		case 102:
			n.code = f.varint
		}
	}
	return n, nil
}

// checkFields holds for a session that succeeded: TRANSFER_IN_PROGRESS, and only it, has figures that
// can be, and nothing has the code of a failure.
func (n *subscription) checkFields(events []event) {
	r := n.s.r
	var last *progress

	for _, e := range events {
		f, err := e.fields()
		if err != nil {
			r.fail(n.name+": ferry's fields", "decodable", err.Error())
		}
		if f.code != 0 || (f.reason != "" && e.phase() != setupDone) { // which may have a notice
			r.fail(n.name+": no reason and no code in a success", "none", n.describe(events))
		}
		if (f.progress != nil) != (e.phase() == inProgress) {
			r.fail(n.name+": progress is in TRANSFER_IN_PROGRESS, and only there", "", e.String())
		}
		p := f.progress
		if p == nil {
			continue
		}
		/* 128 MiB, and what else of the machine is memory */
		if p.total < 128*1000*1000 || p.total > 256*1000*1000 || p.remaining > p.total || p.pass < 1 ||
			p.throttle > 99 || p.limit < 1 {
			r.fail(n.name+": figures that can be", "", fmt.Sprintf("%+v", *p))
		}
		if last != nil && (p.sent < last.sent || p.pass < last.pass) {
			r.fail(n.name+": sent bytes and passes only grow", fmt.Sprintf("%+v", *last), fmt.Sprintf("%+v", *p))
		}
		last = p
	}
	if last == nil {
		r.ok("%s: no reason, no code", n.name)
		return
	}
	r.check(last.sent > 0 && last.rate > 0, n.name+": the progress has figures", "bytes, and bytes a second", fmt.Sprintf("%+v", *last))
}

// checkEnd: what ended a session has a code, and words for a person.
func (n *subscription) checkEnd(e event, code uint64, reason string) {
	f, err := e.fields()
	n.s.r.check(err == nil && f.code == code && f.reason == reason, fmt.Sprintf("%s: reason and code of %v", n.name, e),
		fmt.Sprintf("%d: %s", code, reason), fmt.Sprintf("%d: %s", f.code, f.reason))
}
