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
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Ask puts a question to the sandbox behind a control socket.
func Ask(ctx context.Context, socket string, q Question) (Answer, error) {
	var a Answer
	d := net.Dialer{Timeout: controlTime}
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return a, fmt.Errorf("the sandbox does not answer: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(controlTime))
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return a, fmt.Errorf("the sandbox does not answer: %w", err)
	}
	if err := json.NewDecoder(io.LimitReader(conn, controlSize)).Decode(&a); err != nil {
		return a, fmt.Errorf("the sandbox does not answer: %w", err)
	}
	return a, nil
}

// Running finds the sandboxes whose control sockets are below a directory, and
// that answer the caller. The map leads from the path of the socket to the
// sandbox. Sockets that nobody listens on any more are removed.
func Running(ctx context.Context, base string) (map[string]Sandbox, error) {
	found := map[string]Sandbox{}
	if base == "" {
		return found, nil
	}
	sockets, err := filepath.Glob(filepath.Join(base, "*", "*.sock"))
	if err != nil {
		return nil, err
	}
	for _, socket := range sockets {
		if !trusted(filepath.Dir(socket)) {
			continue
		}
		a, err := Ask(ctx, socket, Question{Ask: AskInfo})
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			os.Remove(socket)
		case err == nil && a.Sandbox != nil:
			found[socket] = *a.Sandbox
		}
	}
	return found, nil
}

// trusted says whether a directory of sockets belongs to the caller, or to
// anybody for root, and to nobody else.
func trusted(dir string) bool {
	var st unix.Stat_t
	if unix.Lstat(dir, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o077 != 0 {
		return false
	}
	return os.Getuid() == 0 || int(st.Uid) == os.Getuid()
}

// Choose picks the sandbox with an id, or without one the only one there is.
func Choose(running map[string]Sandbox, id string) (socket string, err error) {
	var ids []string
	for path, s := range running {
		if s.ID == id || id == "" && len(running) == 1 {
			return path, nil
		}
		ids = append(ids, s.ID)
	}
	slices.Sort(ids)
	switch {
	case len(ids) == 0:
		return "", errors.New("no sandbox of yours is running")
	case id == "":
		return "", fmt.Errorf("%d sandboxes are running (%s); say which with --sandbox", len(ids), strings.Join(ids, ", "))
	}
	return "", fmt.Errorf("no sandbox has the id %q; running are %s", id, strings.Join(ids, ", "))
}
