package programs

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const loopbackPolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [READABLE]
  read_write: [/dev/null, /tmp]
sockets: {bind: [3000, "8000-8019"], publish: [8010]}
host_services: [{host: model.local, port: 80, to: "127.0.0.1:11434"}]
network_policies:
  model: {endpoints: [{host: model.local, port: 80}], binaries: [{path: "/**"}]}
`

// TestLoopback runs what developers run on localhost: many servers and many
// connections, all of one sandbox.
func TestLoopback(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.policy = s.writePolicy(t, "loopback.yaml", loopbackPolicy)
		serveHost(t, "127.0.0.1:11434", "the model")
		serveHost(t, "127.0.0.1:11435", "the host's secret")
		for _, w := range workloads {
			t.Run(w.name, func(t *testing.T) {
				s.requireAll(t, w.needs...)
				work := s.work(t)
				for name, text := range w.files {
					fatal(t, os.WriteFile(filepath.Join(work, name), []byte(text), 0o644))
				}
				if o := s.run(t, work, w.script); o.status != 0 || !strings.Contains(o.out, w.want) {
					t.Errorf("want %q: %v", w.want, o)
				}
			})
		}
		t.Run("only what is there is denied", func(t *testing.T) {
			o := s.run(t, s.work(t), `curl -s http://127.0.0.1:11435/; a=$?; curl -s http://127.0.0.1:11436/; b=$?; curl -s 'http://[::1]:3000/'; echo $a $b $?`)
			if !strings.Contains(o.out, "7 7 7") || !strings.Contains(o.told, "127.0.0.1:11435") || strings.Contains(o.told, "11436") || strings.Contains(o.told, "3000") {
				t.Errorf("want the service of the host to be denied, and nothing else: %v", o)
			}
		})
		t.Run("publish", s.publishes)
	})
}

// serveHost is a service of the host, on its loopback interface.
func serveHost(t *testing.T, addr, says string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	fatal(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, says) })}
	done := make(chan struct{})
	go func() { srv.Serve(l); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	r, err := http.Get("http://" + addr) // control: the host itself reaches it
	fatal(t, err)
	r.Body.Close()
}

type workload struct {
	name   string
	needs  []string
	files  map[string]string
	script string
	want   string
}

var workloads = []workload{
	{name: "a build daemon and its workers, as of Gradle", needs: []string{"java"}, want: "1200 answers from 3 workers",
		files: map[string]string{"Daemon.java": javaDaemon}, script: `java -XX:TieredStopAtLevel=1 Daemon.java`},
	{name: "node with a cluster on a declared port", needs: []string{"node"}, want: "300 answers, 100 by name",
		files: map[string]string{"dev.js": nodeDev}, script: `node dev.js`},
	{name: "pytest-xdist", needs: []string{"python3", "pytest"}, want: "40 passed",
		files: map[string]string{"test_servers.py": xdistTests}, script: `/usr/bin/python3 -m pytest -q -p no:cacheprovider -n 3 test_servers.py`},
	{name: "asyncio on both loopback addresses", needs: []string{"python3"}, want: "4 4 6 6",
		files: map[string]string{"both.py": pythonBoth}, script: `/usr/bin/python3 both.py`},
	{name: "the host's services", needs: []string{"curl"}, want: "the model\n7 7",
		script: unset + `curl -sS http://model.local/; curl -s http://127.0.0.1:11435/; a=$?; curl -s http://localhost:11434/; echo $a $?`},
	{name: "ports that the policy does not name", needs: []string{"python3"}, want: "EACCES",
		script: `/usr/bin/python3 -c 'import socket,errno
s = socket.socket()
try: s.bind(("127.0.0.1", 8020))
except OSError as e: print(errno.errorcode[e.errno])'`},
}

// javaDaemon starts workers as processes of their own, each with a server on an
// ephemeral port, as Gradle, Maven's Surefire and Kotlin's daemon do. It asks
// each worker over many connections, and each worker calls back.
const javaDaemon = `import java.io.*; import java.net.*; import java.util.*; import java.util.concurrent.*; import java.util.concurrent.atomic.*;
public class Daemon {
  static String ask(int port, String what) throws IOException {
    try (Socket s = new Socket(InetAddress.getLoopbackAddress(), port)) {
      s.getOutputStream().write((what + "\n").getBytes());
      return new BufferedReader(new InputStreamReader(s.getInputStream())).readLine();
    }
  }
  static void serve(ServerSocket l, AtomicInteger n) {
    Thread t = new Thread(() -> { while (true) try (Socket s = l.accept()) {
      String line = new BufferedReader(new InputStreamReader(s.getInputStream())).readLine();
      n.incrementAndGet(); s.getOutputStream().write(("re: " + line + "\n").getBytes());
    } catch (IOException e) { return; } });
    t.setDaemon(true); t.start();
  }
  public static void main(String[] a) throws Exception {
    AtomicInteger got = new AtomicInteger();
    if (a.length == 1) { // a worker: a server on every address, as ServerSocket(0) makes it
      ServerSocket l = new ServerSocket(0); serve(l, got);
      ask(Integer.parseInt(a[0]), "" + l.getLocalPort());
      System.in.read(); return;
    }
    BlockingQueue<Integer> ports = new LinkedBlockingQueue<>();
    ServerSocket l = new ServerSocket(0, 50, InetAddress.getByName(null));
    Thread t = new Thread(() -> { while (true) try (Socket s = l.accept()) {
      ports.add(Integer.parseInt(new BufferedReader(new InputStreamReader(s.getInputStream())).readLine()));
      s.getOutputStream().write("ok\n".getBytes());
    } catch (IOException e) { return; } });
    t.setDaemon(true); t.start();
    List<Process> workers = new ArrayList<>();
    for (int i = 0; i < 3; i++) workers.add(new ProcessBuilder(ProcessHandle.current().info().command().get(), "-XX:TieredStopAtLevel=1", "Daemon.java", "" + l.getLocalPort()).redirectError(ProcessBuilder.Redirect.INHERIT).start());
    ExecutorService pool = Executors.newFixedThreadPool(16);
    List<Future<String>> answers = new ArrayList<>();
    for (int w = 0; w < 3; w++) { int p = ports.take(); for (int i = 0; i < 400; i++) { int n = i; answers.add(pool.submit(() -> ask(p, "" + n))); } }
    int n = 0; for (Future<String> f : answers) if (f.get().startsWith("re: ")) n++;
    pool.shutdown(); for (Process p : workers) { p.getOutputStream().close(); p.waitFor(); }
    System.out.println(n + " answers from 3 workers");
  }
}
`

const nodeDev = `const cluster = require("cluster"), http = require("http");
if (cluster.isPrimary) {
  let up = 0;
  for (let i = 0; i < 2; i++) cluster.fork().on("listening", () => { if (++up == 2) ask(); });
  const get = (url) => new Promise((ok, no) => http.get(url, {agent: false}, r => { r.resume(); r.on("end", () => ok(r.statusCode)); }).on("error", no));
  async function ask() {
    const own = http.createServer((q, r) => r.end("own")).listen(0);
    let n = 0, named = 0;
    const jobs = [];
    for (let i = 0; i < 100; i++) {
      jobs.push(get("http://127.0.0.1:3000/").then(c => n += c == 200), get("http://127.0.0.1:" + own.address().port).then(c => n += c == 200));
      jobs.push(fetch("http://localhost:3000/").then(async r => { await r.text(); n++; named++; }));
    }
    await Promise.all(jobs);
    console.log(n + " answers, " + named + " by name");
    process.exit(0);
  }
} else {
  http.createServer((q, r) => r.end("dev")).listen(3000);
}
`

const xdistTests = `import http.server, threading, urllib.request, socket, pytest
@pytest.mark.parametrize("n", range(40))
def test_server(n):
    class H(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers(); self.wfile.write(b"%d" % n)
        def log_message(self, *a): pass
    s = http.server.ThreadingHTTPServer(("localhost", 0), H)
    threading.Thread(target=s.serve_forever, args=(0.01,), daemon=True).start()
    try:
        for host in "127.0.0.1", "localhost", s.server_address[0]:
            for _ in range(10):
                assert urllib.request.urlopen("http://%s:%d/" % (host, s.server_port)).read() == b"%d" % n
    finally:
        s.shutdown(); s.server_close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", s.server_port))
`

// pythonBoth serves both loopback addresses on one port, a server for each, and
// asks which of them answers.
const pythonBoth = `import asyncio, socket
async def main():
    async def four(r, w): w.write(b"4"); w.close()
    async def six(r, w): w.write(b"6"); w.close()
    both = await asyncio.start_server(lambda r, w: w.close(), "localhost", 8001)
    assert len(both.sockets) == len(socket.getaddrinfo("localhost", 8001, type=socket.SOCK_STREAM)), both.sockets
    a = await asyncio.start_server(four, "127.0.0.1", 8000)
    b = await asyncio.start_server(six, "::1", 8000)
    async def ask(h):
        r, w = await asyncio.open_connection(h, 8000)
        return (await r.read()).decode()
    print(await ask("127.0.0.1"), await ask("127.0.0.1"), await ask("::1"), await ask("::1"))
asyncio.run(main())
`

// publishes asks a server of the sandbox from the host: the published port
// answers, the other one does not exist there.
func (s *scene) publishes(t *testing.T) {
	s.requireAll(t, "python3")
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	const script = `exec /usr/bin/python3 -c 'import http.server as h, threading as t
for p in 8010, 8011:
  s = h.HTTPServer(("0.0.0.0", p), h.SimpleHTTPRequestHandler)
  t.Thread(target=s.serve_forever).start()
print("up", flush=True)'`
	work := s.work(t)
	fatal(t, os.WriteFile(filepath.Join(work, "page"), []byte("from inside"), 0o644))
	cmd := exec.CommandContext(ctx, s.bin, s.args(work, script, nil)...)
	cmd.Env, cmd.Stderr = []string{"PATH=" + s.path}, os.Stderr
	out, err := cmd.StdoutPipe()
	fatal(t, err)
	fatal(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: runLimit}
	r, err := client.Get("http://127.0.0.1:8010/page")
	fatal(t, err)
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "from inside" {
		t.Errorf("the published port said %q, %v", b, err)
	}
	if c, err := net.Dial("tcp", "127.0.0.1:8011"); err == nil {
		c.Close()
		t.Error("a port that is not published is reachable at 127.0.0.1 of the host")
	}
}
