// Command image builds a container image of a command of this module, without
// a daemon: from scratch, one static binary, the certificate authorities that
// Mozilla trusts, a numeric user who is not root, for amd64 and arm64.
//
//	go run ./deploy/image -o sallyport.tar
//
// Equal sources, Go version and flags give equal bytes.
package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"sallyport/deploy/image/oci"
)

// user is not root, and a number, so that a kubelet can see that it is not. A
// platform may run the image as any other user: nothing in it has an owner.
const user = "65532:0"

// options are the command line.
type options struct {
	out, name, version string
	archs, commands    []string
	entry              string
	compress           bool
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var o options
	var archs, commands string
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	f.StringVar(&o.out, "o", "sallyport-supervisor.tar", "OCI archive to write")
	f.StringVar(&o.name, "name", "sallyport-supervisor:dev", "name of the image, with its tag")
	f.StringVar(&o.version, "version", "", "version that the commands report")
	f.StringVar(&archs, "arch", "amd64,arm64", "architectures")
	f.StringVar(&commands, "cmd", "sallyport-supervisor", "commands of this module to put in; the first is the entry point")
	f.BoolVar(&o.compress, "gzip", true, "compress layers")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	o.archs, o.commands = strings.Split(archs, ","), strings.Split(commands, ",")
	return o.build()
}

func (o options) build() error {
	when, err := created()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sallyport-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	a := oci.Archive{Name: o.name, Tag: tag(o.name), Created: when}
	for _, arch := range o.archs {
		img, err := o.image(dir, arch, when)
		if err != nil {
			return err
		}
		a.Images = append(a.Images, img)
	}
	return write(o.out, a)
}

// created is SOURCE_DATE_EPOCH, or the first second of 2026.
func created() (time.Time, error) {
	v, ok := os.LookupEnv("SOURCE_DATE_EPOCH")
	if !ok {
		return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), nil
	}
	var sec int64
	if _, err := fmt.Sscanf(v, "%d", &sec); err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %q, expected seconds", v)
	}
	return time.Unix(sec, 0), nil
}

func tag(name string) string {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[i+1:]
	}
	return "latest"
}

func (o options) image(dir, arch string, when time.Time) (oci.Image, error) {
	roots, err := authorities()
	if err != nil {
		return oci.Image{}, err
	}
	var t oci.Tree
	t.Dir("tmp", 0o777|os.ModeSticky)
	t.File("etc/ssl/certs/ca-certificates.crt", 0o644, roots)
	for _, c := range o.commands {
		bin := filepath.Join(dir, arch, c)
		if err := o.compile(bin, arch, c); err != nil {
			return oci.Image{}, err
		}
		data, err := os.ReadFile(bin)
		if err != nil {
			return oci.Image{}, err
		}
		t.File(c, 0o755, data)
	}
	layer, err := t.Layer(when, o.compress)
	if err != nil {
		return oci.Image{}, err
	}
	return oci.Image{
		Arch: arch, User: user, Entrypoint: []string{"/" + o.commands[0]}, WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":    o.commands[0],
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.version":  o.version,
		},
		Layers: []oci.Layer{layer},
	}, nil
}

// compile builds one command; the flags keep the building machine out of it.
func (o options) compile(out, arch, command string) error {
	ld := "-s -w -buildid="
	if o.version != "" {
		ld += " -X main.version=" + o.version
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", ld, "-o", out, "sallyport/cmd/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s for %s: %w\n%s", command, arch, err, msg)
	}
	return nil
}

// authorities are Mozilla's roots as one PEM file. Roots that are trusted only
// under conditions are left out: a PEM file cannot carry conditions.
func authorities() ([]byte, error) {
	var b bytes.Buffer
	for r := range bundle.Roots() {
		if r.Constraint != nil {
			continue
		}
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate}); err != nil {
			return nil, err
		}
	}
	if b.Len() == 0 {
		return nil, errors.New("the bundle of certificate authorities is empty")
	}
	return b.Bytes(), nil
}

func write(file string, a oci.Archive) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := oci.Write(f, a); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
