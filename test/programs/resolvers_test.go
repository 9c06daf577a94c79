package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// resolver is one implementation of name resolution, driven by a real client of
// it. The script prints the address of HOST.
type resolver struct {
	name   string
	way    string // how it asks here
	needs  []string
	script string
	denied string // what it says of a name that does not exist
}

const noTCP = "unset RES_OPTIONS; "

var resolvers = []resolver{
	{"glibc", "TCP, by `RES_OPTIONS=use-vc`", []string{"getent"}, `getent ahosts HOST || echo "status $?"`, "status 2"},
	{"glibc, without `RES_OPTIONS`", "UDP, connected", []string{"getent"}, noTCP + `getent ahosts HOST || echo "status $?"`, "status 2"},
	{"Go's own", "UDP, connected", nil, `TOOLS/client lookup HOST`, "no such host"},
	{"Go's own, by TCP", "TCP, by `use-vc` in resolv.conf or its options", nil, `TOOLS/client lookup-tcp HOST`, "no such host"},
	{"c-ares (node's dns.resolve)", "UDP, connected", []string{"node"}, noTCP + `node -e 'require("dns").resolve4("HOST", (e, a) => console.log(e ? e.code : a))'`, "ENOTFOUND"},
	{"Java", "glibc's", []string{"java"}, `java -cp TOOLS/java Lookup HOST`, "UnknownHostException"},
	{"musl", "UDP, not connected", []string{"musl-gcc"}, `TOOLS/musl HOST`, "EAI_NONAME"},
	{"musl 1.2.4 and later (its calls)", "UDP, not connected, recvmsg", []string{"musl-gcc"}, `TOOLS/recvmsg HOST`, "NXDOMAIN"},
	{"busybox nslookup", "UDP", []string{"busybox"}, `busybox nslookup HOST`, "NXDOMAIN"},
}

const javaLookup = `public class Lookup { public static void main(String[] a) throws Exception {
  for (java.net.InetAddress i : java.net.InetAddress.getAllByName(a[0])) System.out.println(i.getHostAddress()); } }
`

const muslLookup = `#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int n, char **a) {
	struct addrinfo hint = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *r;
	int e = getaddrinfo(a[1], 0, &hint, &r);
	char s[64];
	if (e) return printf("%s\n", e == EAI_NONAME ? "EAI_NONAME" : e == EAI_AGAIN ? "EAI_AGAIN" : gai_strerror(e)), 1;
	for (; r; r = r->ai_next) puts(inet_ntop(AF_INET, &((struct sockaddr_in *)r->ai_addr)->sin_addr, s, sizeof s));
	return 0;
}
`

// recvmsgLookup makes the calls of __res_msend in musl 1.2.4 and later, which
// Debian 12 does not have: a socket that is bound and not connected, a query to
// the server's address, and an answer that counts only if it names that address.
const recvmsgLookup = `#include <arpa/inet.h>
#include <poll.h>
#include <resolv.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
int main(int n, char **a) {
	unsigned char q[512], r[512];
	struct sockaddr_in ns = {.sin_family = AF_INET, .sin_port = htons(53)}, sa = {0}, any = {.sin_family = AF_INET};
	inet_pton(AF_INET, "203.0.113.53", &ns.sin_addr);
	int len = res_mkquery(0, a[1], 1, 1, 0, 0, 0, q, sizeof q);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (void *)&any, sizeof any)) return perror("socket"), 1;
	if (sendto(fd, q, len, MSG_NOSIGNAL, (void *)&ns, sizeof ns) != len) return perror("sendto"), 1;
	struct pollfd p = {fd, POLLIN};
	if (poll(&p, 1, 5000) != 1) return puts("no answer"), 1;
	struct msghdr mh = {.msg_name = &sa, .msg_namelen = sizeof sa, .msg_iovlen = 1, .msg_iov = (struct iovec[]){{r, sizeof r}}};
	if (recvmsg(fd, &mh, 0) < 4) return perror("recvmsg"), 1;
	if (memcmp(&ns, &sa, sizeof ns)) return puts("another source"), 1;
	if ((r[3] & 15) == 3) return puts("NXDOMAIN"), 1;
	printf("198.19.%d.%d\n", r[len + 14], r[len + 15]);
	return 0;
}
`

// TestResolvers asks for an allowed and a denied name through each resolver. No
// connection is made, so nothing is asked of the host's own name server.
func TestResolvers(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		// A name of protocol tcp would be pinned, and so looked up, at the start.
		s.policy = s.writePolicy(t, "resolvers.yaml", strings.ReplaceAll(policyTemplate, ", protocol: tcp", ""))
		build(t, filepath.Join(s.dir, "client"), "sallyport/test/programs/client")
		s.compile(t, "java", "java/Lookup.java", javaLookup, "java", "-m", "jdk.compiler/com.sun.tools.javac.Main", s.dir+"/java/Lookup.java")
		s.compile(t, "musl-gcc", "musl.c", muslLookup, "musl-gcc", "-static", "-o", s.dir+"/musl", s.dir+"/musl.c")
		s.compile(t, "musl-gcc", "recvmsg.c", recvmsgLookup, "musl-gcc", "-static", "-o", s.dir+"/recvmsg", s.dir+"/recvmsg.c")
		rows := "| resolver | asks by | an allowed name | a denied name |\n|---|---|---|---|\n"
		for _, r := range resolvers {
			rows += "| " + r.name + " | " + r.way + " | answered | `" + r.denied + "` |\n"
			for _, mode := range []string{"platform", "userns", "namespace"} {
				t.Run(mode+"/"+r.name, func(t *testing.T) { s.resolves(t, r, mode) })
			}
		}
		if n := s.names.times(allowedHost) + s.names.times(deniedHost); n != 0 || s.wire.frames("allowed")+s.wire.frames("denied") != 0 {
			t.Errorf("the host's resolver was asked %d times", n)
		}
		// control: the wire would show it
		if out, err := exec.Command("getent", "hosts", allowedHost).CombinedOutput(); err != nil || s.names.times(allowedHost) == 0 {
			t.Errorf("control: outside of the sandbox: %s, %v", out, err)
		}
		compareTable(t, "resolvers", rows)
	})
}

func (s *scene) resolves(t *testing.T, r resolver, mode string) {
	s.requireAll(t, r.needs...)
	work := s.work(t)
	if o := s.run(t, work, strings.ReplaceAll(r.script, "HOST", allowedHost), "--mode", mode); !strings.Contains(o.out, "198.19.") {
		t.Errorf("no synthetic address: %v", o)
	}
	o := s.run(t, work, strings.ReplaceAll(r.script, "HOST", deniedHost), "--mode", mode)
	if !strings.Contains(o.out, r.denied) || strings.Contains(o.out, "198.19.") || !strings.Contains(o.told, deniedHost) {
		t.Errorf("want %q, and a denial: %v", r.denied, o)
	}
}

// compile writes a source file and compiles it, where the compiler is there.
func (s *scene) compile(t *testing.T, compiler, name, text string, args ...string) {
	if s.installed(compiler) != nil {
		return
	}
	file := filepath.Join(s.dir, name)
	fatal(t, os.MkdirAll(filepath.Dir(file), 0o755))
	fatal(t, os.WriteFile(file, []byte(text), 0o644))
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", args, err, out)
	}
}
