// Package resolvers is one table of the ways in which programs resolve names,
// each driven by a real client of it. Tests ask them in several surroundings.
//
// Deliberately not here: the surroundings, which are the tests' own.
//
// What must hold: a script prints the addresses of a name, or what its resolver
// says of a name that does not exist, and is the same everywhere.
package resolvers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Resolver is one implementation of name resolution.
type Resolver struct {
	Name   string
	Way    string   // how it asks in a sandbox
	Needs  []string // programs in the PATH of who asks
	Built  string   // file of Build; empty: none
	script string   // HOST and TOOLS stand for the name and Build's directory
	Denied string   // what it says of a name that does not exist
}

// Script is a shell script that asks for host.
func (r Resolver) Script(tools, host string) string {
	return strings.NewReplacer("TOOLS", tools, "HOST", host).Replace(r.script)
}

const noTCP = "unset RES_OPTIONS; "

// Table is all of them.
var Table = []Resolver{
	{"glibc", "TCP, by `RES_OPTIONS=use-vc`", []string{"getent"}, "", `getent ahosts HOST || echo "status $?"`, "status 2"},
	{"glibc, without `RES_OPTIONS`", "UDP, connected", []string{"getent"}, "", noTCP + `getent ahosts HOST || echo "status $?"`, "status 2"},
	{"Go's own", "UDP, connected", nil, "client", `TOOLS/client lookup HOST`, "no such host"},
	{"Go's own, by TCP", "TCP, by `use-vc` in resolv.conf or its options", nil, "client", `TOOLS/client lookup-tcp HOST`, "no such host"},
	{"c-ares (node's dns.resolve)", "UDP, connected", []string{"node"}, "", noTCP + `node -e 'require("dns").resolve4("HOST", (e, a) => console.log(e ? e.code : a))'`, "ENOTFOUND"},
	{"Java", "glibc's", []string{"java"}, "java/Lookup.class", `java -cp TOOLS/java Lookup HOST`, "UnknownHostException"},
	{"musl", "UDP, not connected", nil, "musl", `TOOLS/musl HOST`, "EAI_NONAME"},
	{"musl 1.2.4 and later (its calls)", "UDP, not connected, recvmsg", nil, "recvmsg", `TOOLS/recvmsg HOST`, "NXDOMAIN"},
	{"busybox nslookup", "UDP", []string{"busybox"}, "", `busybox nslookup HOST`, "NXDOMAIN"},
}

// Document is the table in Markdown.
func Document() string {
	var b strings.Builder
	b.WriteString("| resolver | asks by | an allowed name | a denied name |\n|---|---|---|---|\n")
	for _, r := range Table {
		b.WriteString("| " + r.Name + " | " + r.Way + " | answered | `" + r.Denied + "` |\n")
	}
	return b.String()
}

// sources are the clients that have to be compiled, each by the first word of a
// command in which DIR stands for Build's directory.
var sources = []struct{ out, file, text, command string }{
	{"client", "", "", "go build -o DIR/client sallyport/test/programs/client"},
	{"java/Lookup.class", "java/Lookup.java", javaLookup, "java -m jdk.compiler/com.sun.tools.javac.Main -nowarn -source 11 -target 11 DIR/java/Lookup.java"},
	{"musl", "musl.c", muslLookup, "musl-gcc -static -o DIR/musl DIR/musl.c"},
	{"recvmsg", "recvmsg.c", recvmsgLookup, "musl-gcc -static -o DIR/recvmsg DIR/recvmsg.c"},
}

// Build makes the clients below dir and returns their names there. It leaves out
// those whose compiler is not installed. The caller is inside of the module.
func Build(ctx context.Context, dir string) (made []string, err error) {
	for _, s := range sources {
		args := strings.Fields(strings.ReplaceAll(s.command, "DIR", dir))
		if _, err := exec.LookPath(args[0]); err != nil {
			continue
		}
		if s.file != "" {
			file := filepath.Join(dir, s.file)
			err := os.MkdirAll(filepath.Dir(file), 0o755)
			if err == nil {
				err = os.WriteFile(file, []byte(s.text), 0o644)
			}
			if err != nil {
				return nil, fmt.Errorf("resolvers: %w", err)
			}
		}
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("resolvers: %v: %w\n%s", args, err, out)
		}
		made = append(made, s.out)
	}
	return made, nil
}
