package supervisor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/egress/inspect"
	"sallyport/internal/policy/match"
)

// ends are both sides of an inspected connection, as the proxy wants them.
type ends struct {
	authority func() (*inspect.Authority, error) // made beside the start, once
	*inspect.Upstream
}

// ServerOnHost is inspect.Authority's.
func (e ends) ServerOnHost(hello *tls.ClientHelloInfo, host string, h2 bool) (*tls.Config, error) {
	a, err := e.authority()
	if err != nil {
		return nil, err
	}
	return a.ServerOnHost(hello, host, h2)
}

// trust is how programs inside come to accept the session's authority: files in
// a directory of the session's own. The authority's key is not among them.
type trust struct {
	dir     string // known once made is closed
	lock    *os.File
	made    chan struct{} // closed when the directory is there, or err says why not
	written chan struct{} // closed when the PEM files are there, or err says why not
	err     error
	ctx     context.Context // ends when nobody wants the files any more
	cancel  context.CancelFunc
	done    chan struct{} // closed when nothing is written any more
	closed  sync.Once
}

// The files. A program that takes further roots gets the authority; one whose
// roots are replaced gets the system's too, for servers that it reaches through
// a tunnel.
const (
	authorityFile = "ca.pem"
	bundleFile    = "bundle.pem"
	keystoreFile  = "truststore.jks"
)

// maxBundle bounds what is read of the roots, in bytes; a system's have 200 KiB.
const maxBundle = 8 << 20

// trusting are the variables by which runtimes and tools are told of roots.
var trusting = []struct{ name, file, of string }{
	{"SSL_CERT_FILE", bundleFile, "OpenSSL, Go, Ruby, .NET, rustls-native-certs, httpx"},
	{"CURL_CA_BUNDLE", bundleFile, "curl"},
	{"GIT_SSL_CAINFO", bundleFile, "git"},
	{"REQUESTS_CA_BUNDLE", bundleFile, "requests"},
	{"PIP_CERT", bundleFile, "pip"},
	{"CARGO_HTTP_CAINFO", bundleFile, "cargo"},
	{"AWS_CA_BUNDLE", bundleFile, "AWS's command line and SDKs"},
	{"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", bundleFile, "Google's command line"},
	{"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", bundleFile, "gRPC's C core"},
	{"NIX_SSL_CERT_FILE", bundleFile, "programs of Nix"},
	{"npm_config_cafile", bundleFile, "npm, pnpm and yarn whose npmrc names roots"},
	{"NODE_EXTRA_CA_CERTS", authorityFile, "Node, npm, Bun"},
	{"DENO_CERT", authorityFile, "Deno"},
}

// systemRoots are where distributions keep the system's roots in one file.
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
}

// newTrust makes the directory and its files, beside what the caller does
// meanwhile. Java's comes last and is not waited for: it takes longer than all
// others, and a Java machine to start takes longer still.
func newTrust(authority func() (*inspect.Authority, error), further []byte) *trust {
	t := &trust{made: make(chan struct{}), written: make(chan struct{}), done: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(t.done)
		t.err = t.makeDir()
		close(t.made)
		var bundle *os.File
		if t.err == nil {
			bundle, t.err = t.writeRoots(authority, further)
		}
		close(t.written)
		if bundle != nil {
			t.writeKeystore(bundle)
		}
	}()
	return t
}

func (t *trust) makeDir() (err error) {
	for _, parent := range []string{os.Getenv("XDG_RUNTIME_DIR"), os.TempDir(), "/tmp", "/var/tmp", "/dev/shm"} {
		if parent == "" {
			continue
		}
		if t.dir, err = os.MkdirTemp(parent, trustPrefix); err == nil {
			t.lock, err = lockDir(t.dir)
			break
		}
	}
	if err != nil {
		return refused("set TMPDIR to a directory that can be written", "a directory for the session's certificate: %w", err)
	}
	return nil
}

// writeRoots writes the PEM files. Nobody looks at them before they are whole. It
// returns the one with all roots, open for reading; the caller closes it.
func (t *trust) writeRoots(authority func() (*inspect.Authority, error), further []byte) (bundle *os.File, err error) {
	a, err := authority()
	if err == nil {
		err = t.write(authorityFile, a.PEM())
	}
	if err == nil {
		bundle, err = t.create(bundleFile)
	}
	if err == nil {
		err = writeBundle(bundle, further, a.PEM())
	}
	if err != nil {
		bundle.Close() // nil is fine
		return nil, refused("", "the session's certificate: %w", err)
	}
	return bundle, nil
}

// writeKeystore writes Java's file. Without it, Java trusts nobody: closed, not
// open. It owns bundle.
func (t *trust) writeKeystore(bundle *os.File) {
	defer bundle.Close()
	if _, err := bundle.Seek(0, io.SeekStart); err != nil {
		return
	}
	pem, err := io.ReadAll(io.LimitReader(bundle, maxBundle)) // the agent may have made it longer
	if err != nil {
		return
	}
	store, err := inspect.Keystore(t.ctx, pem)
	if err != nil {
		return
	}
	t.write(keystoreFile, store)
	removeStale(filepath.Dir(t.dir))
}

// trustPrefix begins the name of every such directory.
const trustPrefix = "sallyport-trust-"

// lockDir holds a lock on a directory for as long as the file is open: it tells
// others that its session lives. The agent may have put something else there.
func lockDir(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// removeStale removes what sessions have left that were killed. Nobody holds a
// lock on it, and it is not just being made.
func removeStale(parent string) {
	found, _ := filepath.Glob(filepath.Join(parent, trustPrefix+"*"))
	for _, dir := range found {
		st, err := os.Lstat(dir)
		if err != nil || !st.IsDir() || time.Since(st.ModTime()) < time.Minute {
			continue
		}
		if f, err := lockDir(dir); err == nil {
			os.RemoveAll(dir)
			f.Close()
		}
	}
}

// create makes a file in the directory. The last one is made while the agent
// runs, and where the policy grants the directory above, as the default one does
// with /tmp, the agent can put a link in the file's place or the directory's. So
// nothing is looked up but in the directory that is held open, and what is there
// already is not written to.
func (t *trust) create(name string) (*os.File, error) {
	fd, err := unix.Openat(int(t.lock.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: filepath.Join(t.dir, name), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// write makes a file that is whole as soon as it has its name.
func (t *trust) write(name string, b []byte) error {
	f, err := t.create(name + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	at := int(t.lock.Fd())
	return unix.Renameat(at, name+".new", at, name)
}

// writeBundle makes a file of the system's roots, the caller's and the session's.
// The kernel copies the first, which are most of it.
func writeBundle(f *os.File, further, authority []byte) error {
	for _, name := range append([]string{os.Getenv("SSL_CERT_FILE")}, systemRoots...) {
		if appendFile(f, name) == nil {
			break
		}
		_, err := f.Seek(0, io.SeekStart)
		if err = errors.Join(err, f.Truncate(0)); err != nil {
			return err
		}
	}
	_, err := f.Write(slices.Concat([]byte{'\n'}, further, authority))
	return err
}

func appendFile(to *os.File, name string) error {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(to, from)
	return err
}

// environment is what a program finds its roots by.
func (t *trust) environment(env map[string]string) {
	for _, v := range trusting {
		env[v.name] = filepath.Join(t.dir, v.file)
	}
	env["JAVA_TOOL_OPTIONS"] = fmt.Sprintf("-Djavax.net.ssl.trustStore=%s -Djavax.net.ssl.trustStoreType=jks -Djavax.net.ssl.trustStorePassword=%s",
		filepath.Join(t.dir, keystoreFile), inspect.KeystorePassword)
}

// place waits for the directory.
func (t *trust) place() (string, error) {
	<-t.made
	if t.dir == "" || t.lock == nil {
		return "", t.err
	}
	return t.dir, nil
}

// ready waits for the files.
func (t *trust) ready() error {
	<-t.written
	return t.err
}

// close removes the files. It may be called again.
func (t *trust) close() {
	t.closed.Do(func() {
		t.cancel()
		<-t.done
		if t.dir != "" {
			os.RemoveAll(t.dir)
		}
		if t.lock != nil {
			t.lock.Close()
		}
	})
}

// loadUpstream reads what servers are to be verified with, and what we show
// them, while the files can still be read.
func (s *sandbox) loadUpstream() error {
	var o inspect.UpstreamOptions
	var err error
	if s.o.UpstreamCA != "" {
		if o.CA, err = inspect.ReadCA(s.o.UpstreamCA); err != nil {
			return refused("", "--upstream-ca: %w", err)
		}
	}
	for _, text := range s.o.UpstreamCerts {
		host, cert, err := parseUpstreamCert(text)
		if err != nil {
			return refused("", "--upstream-cert %s: %w", text, err)
		}
		if o.Certs == nil {
			o.Certs = map[string]tls.Certificate{}
		}
		o.Certs[host] = cert
	}
	s.ends, s.roots = ends{sync.OnceValues(inspect.NewAuthority), inspect.NewUpstream(o)}, o.CA
	go s.ends.authority()
	return nil
}

// parseUpstreamCert reads HOST=CERT[,KEY], both files PEM.
func parseUpstreamCert(text string) (host string, cert tls.Certificate, err error) {
	host, files, ok := strings.Cut(text, "=")
	if !ok || files == "" {
		return "", cert, errors.New("expected HOST=CERT[,KEY]")
	}
	if host, err = match.CanonicalHost(host); err != nil {
		return "", cert, err
	}
	certFile, keyFile, _ := strings.Cut(files, ",")
	cert, err = inspect.LoadCert(certFile, keyFile)
	return host, cert, err
}
