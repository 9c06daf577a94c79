package pod

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// volume is a ConfigMap's volume: what a kubelet keeps under a path in a pod.
type volume struct {
	dir  string
	made int
}

// swap replaces the contents as a kubelet does: the new ones in a directory of
// their own, one rename of the link that every file leads through, and then the
// old directory is removed.
func (v *volume) swap(t *testing.T, text string) {
	t.Helper()
	v.made++
	next, old := fmt.Sprintf("..2025_%d", v.made), fmt.Sprintf("..2025_%d", v.made-1)
	data := filepath.Join(v.dir, "..data")
	for _, err := range []error{
		os.Mkdir(filepath.Join(v.dir, next), 0o755),
		os.WriteFile(filepath.Join(v.dir, next, "policy.yaml"), []byte(text), 0o644),
		os.Symlink(next, data+"_tmp"), os.Rename(data+"_tmp", data),
		os.RemoveAll(filepath.Join(v.dir, old)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestConfigMapIsFollowed: when the kubelet swaps the policy's volume, the new
// policy takes force as a whole, and one that is broken, or that changes what is
// fixed, changes nothing and is told.
func TestConfigMapIsFollowed(t *testing.T) {
	b := newBed(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "REACHED\n") }))
	defer server.Close()
	base, err := os.ReadFile(b.dir + "/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	closed := string(base) + fmt.Sprintf("host_services: [{host: model.local, port: 80, to: %q}]\n", server.Listener.Addr())
	open := closed + "network_policies: {model: {endpoints: [{host: model.local, port: 80}], binaries: [{path: /usr/bin/curl}]}}\n"
	v := &volume{dir: b.dir + "/config"}
	if err := os.Mkdir(v.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	v.swap(t, open)
	if err := os.Symlink("..data/policy.yaml", v.dir+"/policy.yaml"); err != nil {
		t.Fatal(err)
	}
	b.config["policy"] = v.dir + "/policy.yaml"

	c := b.command(t, "sh", "-c", `while [ ! -e end ]; do curl -sw '%{http_code}\n' http://model.local/; sleep 0.05; done`)
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.Stdout, c.Stderr = in, in
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	defer func() { c.Process.Kill(); c.Wait() }()
	lines := bufio.NewScanner(out)
	var said strings.Builder
	await := func(want string) {
		t.Helper()
		for lines.Scan() {
			said.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("nothing with %q in:\n%s", want, said.String())
	}
	guard := time.AfterFunc(5*time.Minute, func() { c.Process.Kill() }) // and await sees the end
	defer guard.Stop()

	await("REACHED")
	v.swap(t, open+"netwrk: {}\n")
	await("policy.yaml:5:1")
	await("sallyport: generation 1 stays in force")
	await("REACHED")
	v.swap(t, strings.Replace(open, "/dev/null]", "/dev/null, /tmp]", 1))
	await("filesystem_policy is fixed when a sandbox starts")
	await("generation 1 stays in force")
	await("REACHED")
	v.swap(t, closed)
	await("policy.yaml: generation 2 is in force")
	await("403")
	v.swap(t, open)
	await("policy.yaml: generation 3 is in force")
	await("REACHED")
	b.write(t, "work/end", "")
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}
