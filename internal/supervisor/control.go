package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/event"
	"sallyport/internal/kernel/procfs"
	"sallyport/internal/policy"
)

// Bounds of the control socket. What is beyond ends the connection.
const (
	controlTime  = 10 * time.Second // for one question and its answer
	controlSize  = 4 << 20          // bytes of a question or an answer; a policy has 256 KiB
	controlConns = 8                // at once
	deniedKept   = 256              // denials that can be asked for
)

// The questions that a sandbox answers.
const (
	AskInfo   = "info"   // which sandbox this is
	AskPolicy = "policy" // the document in force
	AskSet    = "set"    // put another document in force
	AskDenial = "denial" // the event of a denial
)

// Question is one line of JSON to the control socket; an Answer comes back.
type Question struct {
	Ask      string `json:"ask"`
	Name     string `json:"name,omitempty"`     // of Document, for messages
	Document string `json:"document,omitempty"` // of AskSet
	ID       string `json:"id,omitempty"`       // of AskDenial
}

// Answer is what comes back. Problem is empty if all went well.
type Answer struct {
	Problem  string       `json:"problem,omitempty"`
	Sandbox  *Sandbox     `json:"sandbox,omitempty"`
	Document string       `json:"document,omitempty"`
	Change   *Change      `json:"change,omitempty"`
	Denial   *event.Event `json:"denial,omitempty"`
}

// Sandbox is one that runs. The names of its fields are stable.
type Sandbox struct {
	ID         string    `json:"id"`
	PID        int       `json:"pid"` // the supervisor's, or 0 seen from another namespace of processes
	Command    []string  `json:"command"`
	Workdir    string    `json:"workdir"`
	Policy     string    `json:"policy"`
	Generation uint64    `json:"generation"`
	Since      time.Time `json:"since"`
}

// control answers people who ask a running sandbox.
type control struct {
	*sandbox
	path     string
	listener *net.UnixListener
	since    time.Time
	conns    chan struct{}
}

// controlID names this sandbox among those of its user.
func controlID() string { return strconv.Itoa(os.Getpid()) }

// openControl makes the socket, in a directory that is its user's alone and that
// the agent cannot write. Without such a place there is none, and that is said.
func (s *sandbox) openControl() error {
	if s.o.Control == "" {
		return nil
	}
	dir := filepath.Join(s.o.Control, strconv.Itoa(os.Getuid()))
	path := filepath.Join(dir, controlID()+".sock")
	l, err := listenControl(dir, path, s.writable)
	if err != nil {
		s.note("no control socket, so the policy cannot be asked for or changed by command: %v", err)
		return nil
	}
	s.control = &control{s, path, l, time.Now(), make(chan struct{}, controlConns)}
	return nil
}

func listenControl(dir, path string, writable []string) (*net.UnixListener, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	where, err := changeable(dir, writable)
	if err != nil {
		return nil, err
	}
	if where != "" {
		return nil, fmt.Errorf("the agent can write in %s", where)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, err
	}
	if int(st.Uid) != os.Getuid() || st.Mode&0o077 != 0 {
		return nil, fmt.Errorf("%s is not this user's alone", dir)
	}
	// A socket of this process id is a dead one's.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path + ".new", Net: "unix"})
	if err != nil {
		return nil, err
	}
	// It gets its name when it listens: a socket that nobody listens on is
	// taken for a dead one's, and removed.
	if err := errors.Join(os.Chmod(path+".new", 0o600), os.Rename(path+".new", path)); err != nil {
		l.Close()
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// close takes the socket away.
func (c *control) close() {
	if c != nil {
		os.Remove(c.path)
		c.listener.Close()
	}
}

// controlFor makes the directory of the control sockets of an identity that root
// is about to become.
func controlFor(base string, uid, gid int) error {
	if base == "" {
		return nil
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return err
	}
	dir := filepath.Join(base, strconv.Itoa(uid))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.Lchown(dir, uid, gid)
}

// serve answers until ctx is done, and waits for its connections. The socket is
// gone then.
func (c *control) serve(ctx context.Context) {
	if c == nil {
		return
	}
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	defer c.close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := c.listener.AcceptUnix()
		if err != nil {
			if ctx.Err() == nil && isTemporary(err) {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			return
		}
		select {
		case c.conns <- struct{}{}:
			wg.Go(func() {
				defer func() { <-c.conns }()
				c.answer(conn)
			})
		default:
			conn.Close()
		}
	}
}

// answer serves one question. It owns conn.
func (c *control) answer(conn *net.UnixConn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(controlTime))
	var a Answer
	if err := c.admit(conn); err != nil {
		a.Problem = err.Error()
	} else {
		a = c.read(conn)
	}
	json.NewEncoder(conn).Encode(a)
}

// admit lets in the user of this sandbox and root, and nobody from inside. The gate
// does not let the agent connect here; should that ever fail, this does: a connection
// of the agent was made by the gate, in this process, or by one of its own.
func (c *control) admit(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var who *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { who, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if int(who.Uid) != os.Getuid() && who.Uid != 0 {
		return fmt.Errorf("uid %d does not run this sandbox", who.Uid)
	}
	inside, err := procfs.Descendants(os.Getpid())
	if err != nil {
		return err
	}
	if int(who.Pid) == os.Getpid() || slices.Contains(inside, int(who.Pid)) {
		c.emit(event.Finding(event.Found{Kind: "control_socket_reached", Title: "a program of the sandbox reached the control socket",
			Detail: "it was refused", Severity: event.Critical, Who: &event.Who{PID: int(who.Pid)}}))
		return errors.New("a program of the sandbox may not ask")
	}
	return nil
}

func (c *control) read(conn io.Reader) Answer {
	var q Question
	if err := json.NewDecoder(io.LimitReader(conn, controlSize)).Decode(&q); err != nil {
		return Answer{Problem: fmt.Sprintf("the question cannot be read: %v", err)}
	}
	g := c.current.Load()
	switch q.Ask {
	case AskInfo:
		return Answer{Sandbox: c.info(g)}
	case AskPolicy:
		return Answer{Sandbox: c.info(g), Document: string(g.document)}
	case AskSet:
		return c.set(q)
	case AskDenial:
		e, known := c.denied.find(q.ID)
		if !known {
			return Answer{Problem: fmt.Sprintf("no denial has the id %q", q.ID)}
		}
		return Answer{Denial: &e}
	}
	return Answer{Problem: fmt.Sprintf("bug: control: %q is no question", q.Ask)}
}

func (c *control) info(g *generation) *Sandbox {
	return &Sandbox{
		ID: controlID(), PID: os.Getpid(), Command: c.o.Command, Workdir: c.o.Workdir,
		Policy: g.policy.Source, Generation: g.number, Since: c.since,
	}
}

func (c *control) set(q Question) Answer {
	change, err := c.replacePolicy(q.Name, []byte(q.Document))
	if err != nil {
		text := err.Error()
		if errs, ok := errors.AsType[policy.Errors](err); ok {
			text = errs.Detail()
		}
		return Answer{Problem: text, Change: &change}
	}
	c.note("%s: generation %d is in force%s", q.Name, change.Generation, change.closedText())
	return Answer{Change: &change}
}

// denied keeps the newest denials.
type denied struct {
	mu   sync.Mutex
	ring []event.Event
	next int
}

func (d *denied) keep(e event.Event) {
	if e.DispositionID != event.Blocked || e.Metadata.UID == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ring) < deniedKept {
		d.ring = append(d.ring, e)
		return
	}
	d.ring[d.next] = e
	d.next = (d.next + 1) % deniedKept
}

// find returns the newest denial with an id.
func (d *denied) find(id string) (event.Event, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.ring {
		e := d.ring[(d.next+len(d.ring)-1-i)%len(d.ring)]
		if e.Metadata.UID == id {
			return e, true
		}
	}
	return event.Event{}, false
}
