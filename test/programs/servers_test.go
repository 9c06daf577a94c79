package programs

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/testkit"
)

// serverWait is how long a server may take to listen, or what a test waits for to happen.
const serverWait = time.Minute

// await waits until addr accepts connections.
func await(t *testing.T, what, addr string) {
	t.Helper()
	for end := time.Now().Add(serverWait); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s does not listen on %s: %v", what, addr, err)
			return
		}
	}
}

// servePostgres starts a database server of its own on the other host, as
// nobody: it does not run as root.
func (s *scene) servePostgres(t *testing.T) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Log("no PostgreSQL server is installed")
		return
	}
	bin, data := bins[len(bins)-1], filepath.Join(s.dir, "pg")
	fatal(t, os.Mkdir(data, 0o700))
	fatal(t, os.Chown(data, testkit.NobodyID, testkit.NobodyID))
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: testkit.NobodyID, Gid: testkit.NobodyID}}
	start := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "agent", "-A", "trust", "-N", "--locale=C", "--no-instructions")
	start.Dir, start.SysProcAttr = data, as
	if out, err := start.CombinedOutput(); err != nil {
		t.Errorf("initdb: %v\n%s", err, out)
		return
	}
	conf := filepath.Join(data, "pg_hba.conf")
	fatal(t, os.WriteFile(conf, []byte("host all all 203.0.113.0/24 trust\n"), 0o600))
	fatal(t, os.Chown(conf, testkit.NobodyID, testkit.NobodyID))
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-h", allowedAddr, "-k", "", "-F")
	server.Dir, server.SysProcAttr = data, as
	s.n.Start(t, server)
	await(t, "PostgreSQL", net.JoinHostPort(allowedAddr, "5432"))
}

func (s *scene) serveRedis(t *testing.T) {
	if s.installed("redis-server") != nil {
		t.Log("no Redis server is installed")
		return
	}
	server := exec.Command("redis-server", "--bind", allowedAddr, "--port", "6379", "--save", "", "--protected-mode", "no", "--daemonize", "no")
	server.Dir = t.TempDir()
	s.n.Start(t, server)
	await(t, "Redis", net.JoinHostPort(allowedAddr, "6379"))
}

// serveSSH starts an SSH server that takes one key and runs git only.
func (s *scene) serveSSH(t *testing.T) {
	const sshd = "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		t.Log("no SSH server is installed")
		return
	}
	dir := t.TempDir()
	host, id := filepath.Join(dir, "host"), filepath.Join(s.dir, "id")
	for _, key := range []string{host, id} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Errorf("ssh-keygen: %v\n%s", err, out)
			return
		}
	}
	fatal(t, os.Chown(id, testkit.NobodyID, testkit.NobodyID))
	public, err := os.ReadFile(host + ".pub")
	fatal(t, err)
	fatal(t, os.WriteFile(filepath.Join(s.dir, "known_hosts"), []byte(allowedHost+","+deniedHost+" "+string(public)), 0o644))
	conf := filepath.Join(dir, "sshd_config")
	fatal(t, os.WriteFile(conf, []byte(strings.Join([]string{
		"ListenAddress " + allowedAddr, "Port 22", "HostKey " + host, "AuthorizedKeysFile " + id + ".pub", "PermitRootLogin prohibit-password",
		"StrictModes no", "UsePAM no", "PidFile none", "PasswordAuthentication no", "LogLevel ERROR", `SetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*`, "",
	}, "\n")), 0o600))
	fatal(t, os.MkdirAll("/run/sshd", 0o755)) // its privilege separation
	server := exec.Command(sshd, "-D", "-e", "-f", conf)
	s.n.Start(t, server)
	await(t, "sshd", net.JoinHostPort(allowedAddr, "22"))
}
