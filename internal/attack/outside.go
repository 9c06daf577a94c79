package attack

import (
	"net"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// takePort puts a service of the host on the port that the agent has left.
func takePort(s *scene, address string) string {
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return err.Error()
	}
	s.stream("host service on the agent's old port", l)
	return "taken"
}

// victimHeard says what signals the victim got, or forgets them.
func victimHeard(s *scene, question string) string {
	if question == "forget" {
		if s.spec.Inside {
			return "kept" // what it got inside is evidence
		}
		s.victim.forget()
		return "forgotten"
	}
	// A signal that the kernel sends is on its way when the call returns; how long
	// the victim takes to say so is a matter of how busy the host is.
	for end := time.Now().Add(answerLimit); time.Now().Before(end); {
		if heard := s.victim.signals(); len(heard) > 0 {
			var names []string
			for _, h := range heard {
				names = addOnce(names, h.name)
			}
			return strings.Join(names, " ")
		}
		if s.spec.Inside {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	return ""
}

// killSupervisor ends the supervisor in the middle of its work.
func killSupervisor(s *scene, _ string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killed = time.Now()
	unix.Kill(s.runner.Process.Pid, unix.SIGKILL)
	return "killed"
}

// strangerAsks uses the proxy from here, which is outside of the sandbox.
func strangerAsks(s *scene, how string) string {
	c, err := net.DialTimeout("tcp", s.proxyNow(), answerLimit)
	if err != nil {
		return wordClosed + " " + err.Error()
	}
	defer c.Close()
	if how == "connect" {
		return askOrigin(c, s.spec.Origin)
	}
	c.SetDeadline(time.Now().Add(answerLimit))
	if _, err := c.Write([]byte("GET http://" + s.spec.Origin + "/ HTTP/1.1\r\nHost: " + s.spec.Origin + "\r\n\r\n")); err != nil {
		return wordClosed
	}
	b := make([]byte, 4096)
	n, _ := c.Read(b)
	if strings.Contains(string(b[:n]), originPage) {
		return "ok"
	}
	return status(b[:n])
}

// whereOrigin tells where the host service really listens.
func whereOrigin(s *scene, _ string) string { return s.origin }

// proxyNow is where the proxy of the running sandbox is, as its driver found it.
func (s *scene) proxyNow() string {
	spec, err := readSpec(filepath.Join(s.spec.Workdir, "spec.json"))
	if err != nil {
		return s.spec.Proxy
	}
	return spec.Proxy
}
