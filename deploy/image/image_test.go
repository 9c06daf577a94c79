package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// build makes the image as the command line does, in a working directory and
// with temporary files of its own.
func build(t *testing.T, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	t.Setenv("TMPDIR", t.TempDir())
	if err := run(append([]string{"-o", out}, args...)); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func entries(t *testing.T, r io.Reader) map[string]*tar.Header {
	t.Helper()
	out := map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = h
	}
}

func blobs(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImage: the same sources give the same digest, for both architectures,
// wherever they are built; and the image holds what it should, for everybody.
func TestImage(t *testing.T) {
	raw := build(t, "-gzip=false") // compressing is tested in oci
	if one, two := sha256.Sum256(raw), sha256.Sum256(build(t, "-gzip=false")); one != two {
		t.Errorf("two builds: %x and %x", one, two)
	}
	all := blobs(t, raw)
	var images []string
	for name, raw := range all {
		var m struct {
			Config struct{ Digest string }
			Layers []struct{ Digest string }
		}
		if json.Unmarshal(raw, &m) != nil || len(m.Layers) == 0 {
			continue
		}
		var c struct {
			Architecture string
			Config       struct {
				User       string
				Entrypoint []string
			}
		}
		if err := json.Unmarshal(all["blobs/sha256/"+m.Config.Digest[7:]], &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		images = append(images, c.Architecture)
		// a number that is not 0, so that runAsNonRoot can be judged
		if c.Config.User != "65532:0" || len(c.Config.Entrypoint) != 1 || c.Config.Entrypoint[0] != "/sallyport-supervisor" {
			t.Errorf("%s: user %q, entry point %q", c.Architecture, c.Config.User, c.Config.Entrypoint)
		}
		layer := all["blobs/sha256/"+m.Layers[0].Digest[7:]]
		files := entries(t, bytes.NewReader(layer))
		if f := files["sallyport-supervisor"]; f == nil || f.Mode&0o777 != 0o755 || f.Uid != 0 {
			t.Errorf("%s: the supervisor is %+v: every user must be able to execute it, and nobody to write it", c.Architecture, f)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(blobs(t, layer)["etc/ssl/certs/ca-certificates.crt"]) {
			t.Errorf("%s: no certificate authorities", c.Architecture)
		}
		for name, f := range files {
			if f.Mode&0o6000 != 0 {
				t.Errorf("%s: %s is set-uid", c.Architecture, name)
			}
		}
	}
	if len(images) != 2 {
		t.Errorf("images for %v, want amd64 and arm64", images)
	}
}
