// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// splitBrainSampler looks at both sides all through a migration. A guest goes from the source to the
// destination and never back, so a destination seen running, and after that a source, is a guest that
// ran twice. The other order proves nothing: the two looks are not at one instant.
type splitBrainSampler struct {
	source, destination *shim
	quit                chan struct{}
	done                sync.WaitGroup
	looks               int
	violation           string
}

// sample needs connections of its own: a call on the caller's may wait behind others.
func sample(source, destination *shim) *splitBrainSampler {
	p := &splitBrainSampler{source: source, destination: destination, quit: make(chan struct{})}

	p.done.Add(1)
	go func() {
		defer p.done.Done()
		for {
			select {
			case <-p.quit:
				return
			case <-time.After(10 * time.Millisecond):
				p.look()
			}
		}
	}()
	return p
}

func (p *splitBrainSampler) look() {
	ctx, done := context.WithTimeout(context.Background(), callTimeout)
	defer done()

	d, err := p.destination.fetchStatus(ctx)
	if err != nil {
		return
	}
	s, err := p.source.fetchStatus(ctx)
	if err != nil {
		return
	}
	p.looks++
	if d.vm == vmRunning && s.vm == vmRunning {
		p.violation = fmt.Sprintf("destination: %v; then source: %v", d, s)
	}
}

func (p *splitBrainSampler) finish(r *report) {
	close(p.quit)
	p.done.Wait()
	r.check(p.looks > 0, "the sampler saw both sides", "looks", p.looks)
	r.check(p.violation == "", "the guest never ran on both sides", "one side", p.violation)
	r.note("the sampler looked %d times", p.looks)
}
