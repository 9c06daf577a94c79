package supervisor

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
	"sallyport/internal/event"
	"sallyport/internal/kernel/nft"
	"sallyport/internal/kernel/procfs"
)

// emit stamps an event and hands it to everybody who asked. An event that
// cannot be written ends the sandbox: what happens unseen is not held.
func (s *sandbox) emit(e event.Event) {
	e = s.session.Stamp(e)
	s.denied.keep(e)
	if s.o.Event != nil {
		s.o.Event(e)
	}
	if s.writer == nil {
		return
	}
	if err := s.writer.Write(e); err != nil && s.agent != nil {
		s.agent.Stop()
	}
}

// ownProcess is this process as events name it.
func ownProcess() event.Who {
	exe, _ := os.Executable()
	return event.Who{PID: os.Getpid(), Exe: exe}
}

// agentProcess is the agent's first one.
func (s *sandbox) agentProcess(path string) event.Who {
	return event.Who{PID: s.agent.PID, Exe: path, Args: s.o.Command}
}

func (s *sandbox) eventsErr() error {
	if s.writer == nil {
		return nil
	}
	if err := s.writer.Err(); err != nil {
		return fmt.Errorf("events could not be written, so the sandbox was ended: %w", err)
	}
	return nil
}

// gateDenied makes an event of a refused call. A program in a loop makes
// thousands of them, so their number is bounded for each second.
func (s *sandbox) gateDenied(d gate.Denial) {
	missed, ok := s.denials.allow(s.now())
	if !ok {
		return
	}
	who := event.Who{PID: d.TID}
	if f, err := procfs.Exe(d.TID); err == nil {
		who.Exe = f.Path
	}
	to := event.Where{Path: d.Target}
	if d.Addr.IsValid() {
		to = event.Where{Addr: d.Addr.Addr(), Port: d.Addr.Port()}
	}
	s.emit(event.Connection(event.Refuse, who, to, event.Verdict{Reason: d.Call, Detail: d.Reason + untold(missed)}))
}

// bypassed makes an event of a packet that the rules of the agent's namespace
// refused: it went around the gate. Who sent it is known while its socket lives.
func (s *sandbox) bypassed(p nft.Packet) {
	missed, ok := s.denials.allow(s.now())
	if !ok {
		return
	}
	who := event.Who{}
	if pid, err := procfs.Sender(s.members(), p.Protocol, p.From); err == nil {
		who.PID = pid
		if f, err := procfs.Exe(pid); err == nil {
			who.Exe = f.Path
		}
	}
	s.emit(event.Connection(event.Refuse, who, event.Where{Addr: p.To.Addr(), Port: p.To.Port(), Proto: protocolName(p.Protocol)},
		event.Verdict{Reason: "bypass", Detail: "refused by the packet rules of the agent's network namespace" + untold(missed)}))
}

// members are the processes of the sandbox.
func (s *sandbox) members() []int {
	m, _ := procfs.Descendants(os.Getpid())
	return m
}

// member is a process of the network namespace in which the agent's servers
// listen.
func (s *sandbox) member() int {
	if s.space == nil {
		return os.Getpid()
	}
	return s.agent.Guard()
}

func protocolName(number int) string {
	if name := protocolNames[number]; name != "" {
		return name
	}
	return strconv.Itoa(number)
}

var protocolNames = map[int]string{
	unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_UDPLITE: "udplite", unix.IPPROTO_SCTP: "sctp",
	unix.IPPROTO_DCCP: "dccp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "icmpv6",
}

// stranger reports a connection to the proxy that did not come from the
// sandbox.
func (s *sandbox) stranger(c net.Conn, err error) {
	if missed, ok := s.denials.allow(s.now()); ok {
		s.emit(event.Connection(event.Refuse, event.Who{}, event.Where{Addr: s.proxyAddr.Addr(), Port: s.proxyAddr.Port()},
			event.Verdict{Reason: "not_from_the_sandbox", Detail: fmt.Sprintf("%v: %v", c.RemoteAddr(), err) + untold(missed)}))
	}
}

// untold is the end of a detail: how many were refused before without an event.
func untold(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d before it were refused without an event", n)
}

// bucket lets so many denials through a second and counts what it drops.
type bucket struct {
	second, used atomic.Int64
	dropped      atomic.Int64
}

const denialsPerSecond = 50

// allow tells whether a denial is to be told of, and how many were not since the
// last one.
func (b *bucket) allow(unixNano int64) (missed int64, ok bool) {
	sec := unixNano / 1e9
	if old := b.second.Load(); old != sec && b.second.CompareAndSwap(old, sec) {
		b.used.Store(0)
	}
	if b.used.Add(1) > denialsPerSecond {
		b.dropped.Add(1)
		return 0, false
	}
	return b.dropped.Swap(0), true
}
