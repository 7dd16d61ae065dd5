// SPDX-License-Identifier: MIT

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
)

// report prints a TAP line for each check and one JSON object at the end. The first check that does
// not hold ends the program: what follows would only repeat the failure.
type report struct {
	mu sync.Mutex

	Scenario string         `json:"scenario"`
	Result   string         `json:"result"`
	Checks   int            `json:"checks"`
	Failed   string         `json:"failed,omitempty"`
	Expected string         `json:"expected,omitempty"`
	Got      string         `json:"got,omitempty"`
	Facts    map[string]any `json:"facts"`
}

func newReport(scenario string) *report {
	return &report{Scenario: scenario, Facts: map[string]any{}}
}

func (r *report) ok(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()

	r.Checks++
	fmt.Printf("ok %d - %s\n", r.Checks, fmt.Sprintf(format, args...))
}

// fail does not return.
func (r *report) fail(what, expected, got string) {
	r.mu.Lock()

	r.Checks++
	fmt.Printf("not ok %d - %s\n#   expected: %s\n#   got:      %s\n", r.Checks, what, expected, got)
	r.Failed, r.Expected, r.Got = what, expected, got
	r.finish("fail")
	os.Exit(1)
}

// check is ok or fail by `holds`.
func (r *report) check(holds bool, what string, expected, got any) {
	if !holds {
		r.fail(what, fmt.Sprint(expected), fmt.Sprint(got))
	}
	r.ok("%s", what)
}

// note is for the reader of the log, and proves nothing.
func (r *report) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()

	fmt.Printf("# %s\n", fmt.Sprintf(format, args...))
}

func (r *report) fact(name string, value any) {
	r.mu.Lock()
	defer r.mu.Unlock()

	r.Facts[name] = value
}

func (r *report) pass() {
	r.mu.Lock()
	defer r.mu.Unlock()

	fmt.Printf("1..%d\n", r.Checks)
	r.finish("pass")
}

func (r *report) finish(result string) {
	r.Result = result
	out, err := json.Marshal(r)
	if err != nil {
		out = []byte(fmt.Sprintf("{\"result\":%q}", "fail"))
	}
	fmt.Println(string(out))
}
