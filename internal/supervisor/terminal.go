package supervisor

import (
	"os"

	"sallyport/internal/kernel/pty"
)

// terminal is what the agent has for standard input, output and error: the
// caller's own files, or, where they are a terminal, one that belongs to the
// agent's session alone.
type terminal struct {
	stdio [3]*os.File
	own   bool // stdio[0] becomes the agent's controlling terminal
	relay *pty.Relay
	null  *os.File
}

func openTerminal(o Options) (*terminal, error) {
	t := &terminal{stdio: [3]*os.File{o.Stdin, o.Stdout, o.Stderr}}
	var err error
	if pty.IsTerminal(o.Stdin) {
		out := o.Stdout
		if !pty.IsTerminal(out) {
			out = o.Stdin
		}
		if t.relay, err = pty.Open(o.Stdin, out); err != nil {
			return nil, err
		}
		t.own = true
	}
	for i, f := range t.stdio {
		switch {
		case t.relay != nil && pty.IsTerminal(f):
			t.stdio[i] = t.relay.Slave
		case f == nil:
			if t.null == nil {
				if t.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
					t.close()
					return nil, err
				}
			}
			t.stdio[i] = t.null
		}
	}
	return t, nil
}

// started is called once the agent holds its files.
func (t *terminal) started() {
	if t.relay != nil {
		t.relay.Started()
	}
}

// close puts the caller's terminal back, after the agent's last output.
func (t *terminal) close() {
	if t.relay != nil {
		t.relay.Close()
	}
	if t.null != nil {
		t.null.Close()
	}
}
