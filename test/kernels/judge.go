package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// said is what a guest reported.
type said struct {
	kernel string
	holds  bool
	holes  []string // of the doctor, under the default policy
	starts []start
	runs   []suite
	tries  []try
	ended  bool
}

// start is how `sallyport run` under the default policy ended.
type start struct {
	UID, Status int
	Err         string
}

// suite is one run of the attack suite.
type suite struct {
	UID, Status int
	Err         string
	Results     []result `json:"results"`
}

type result struct {
	Case    string `json:"case"`
	Verdict string `json:"verdict"`
	Detail  string `json:"detail"`
}

func (s suite) counts() string {
	n := map[string]int{}
	for _, r := range s.Results {
		n[r.Verdict]++
	}
	words := []string{fmt.Sprintf("%d cases", len(s.Results))}
	for _, v := range slices.Sorted(maps.Keys(n)) {
		words = append(words, fmt.Sprintf("%d %s", n[v], v))
	}
	return strings.Join(words, ", ")
}

// read takes the guest's JSON lines.
func read(r io.Reader) (said, error) {
	var s said
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var l struct {
			What        string
			UID, Status int
			Out         json.RawMessage
			Err         string
		}
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return s, fmt.Errorf("the guest said %.80q: %w", in.Text(), err)
		}
		var err error
		switch l.What {
		case "doctor":
			err = s.doctor(l.Out)
		case "run":
			s.starts = append(s.starts, start{l.UID, l.Status, l.Err})
		case "attack":
			run := suite{UID: l.UID, Status: l.Status, Err: l.Err}
			if len(l.Out) > 0 {
				err = json.Unmarshal(l.Out, &run)
			}
			s.runs = append(s.runs, run)
		case "try":
			var t try
			err = json.Unmarshal(in.Bytes(), &t)
			s.tries = append(s.tries, t)
		case "end":
			s.ended = true
		}
		if err != nil {
			return s, fmt.Errorf("%s of the guest: %w", l.What, err)
		}
	}
	if err := in.Err(); err != nil {
		return s, err
	}
	if !s.ended {
		return s, errors.New("the guest did not come to its end")
	}
	return s, nil
}

func (s *said) doctor(out json.RawMessage) error {
	var d struct {
		Platform struct {
			Holds  bool
			Layers []struct{ Name, State, Detail string }
		}
		Facts struct {
			Kernel      string
			LandlockABI int `json:"landlock_abi"`
		}
	}
	if err := json.Unmarshal(out, &d); err != nil {
		return err
	}
	s.kernel = fmt.Sprintf("Linux %s, Landlock ABI %d", d.Facts.Kernel, d.Facts.LandlockABI)
	s.holds, s.holes = d.Platform.Holds, nil
	for _, l := range d.Platform.Layers {
		if l.State != "enforced" {
			s.holes = append(s.holes, fmt.Sprintf("%s %s: %s", l.Name, l.State, l.Detail))
		}
	}
	return nil
}

// judge compares what a guest said with what its kernel must do.
func (k kernel) judge(s said, triesOnly bool) error {
	if k.modules {
		if err := judgeTries(s.tries); err != nil {
			return err
		}
	}
	if triesOnly {
		return nil
	}
	if len(s.starts) != 2 || len(s.runs) != 2 {
		return fmt.Errorf("%d starts and %d runs of the suite, expected two of each", len(s.starts), len(s.runs))
	}
	for _, st := range s.starts {
		want := 0
		if !s.holds {
			want = 125 // as the doctor says: refused under the default policy
		}
		if st.Status != want {
			return fmt.Errorf("uid %d: run ended with %d, expected %d: %s", st.UID, st.Status, want, st.Err)
		}
	}
	var red []error
	for _, r := range s.runs {
		if err := k.judgeSuite(r); err != nil {
			red = append(red, fmt.Errorf("uid %d: %s: %w", r.UID, r.counts(), err))
		}
	}
	return errors.Join(red...)
}

func (k kernel) judgeSuite(r suite) error {
	if len(r.Results) == 0 {
		return fmt.Errorf("the suite said nothing: %s", r.Err)
	}
	var red []string
	stopped := 0
	for _, c := range r.Results {
		switch c.Verdict {
		case "ESCAPED", "BROKEN":
			red = append(red, fmt.Sprintf("%s %s: %s", c.Verdict, c.Case, c.Detail))
		case "stopped":
			stopped++
		}
	}
	if !k.holds {
		// Nothing may have started: every case is broken for want of a sandbox.
		if stopped > 0 {
			return fmt.Errorf("%d cases ran in a sandbox that cannot hold", stopped)
		}
		return nil
	}
	if len(red) > 0 {
		return fmt.Errorf("%d red:\n    %s", len(red), strings.Join(red, "\n    "))
	}
	if stopped == 0 {
		return errors.New("no case was stopped: the suite did not run")
	}
	return nil
}
