package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var then = time.Unix(1_700_000_000, 0)

func sample(t *testing.T, compress bool, archs ...string) Archive {
	t.Helper()
	var tree Tree
	tree.File("usr/bin/tool", 0o755, []byte("#!"))
	tree.Dir("tmp", 0o777|os.ModeSticky)
	tree.Link("bin", "usr/bin")
	l, err := tree.Layer(then, compress)
	if err != nil {
		t.Fatal(err)
	}
	a := Archive{Name: "registry.local/tool:1", Tag: "1", Created: then}
	for _, arch := range archs {
		a.Images = append(a.Images, Image{Arch: arch, User: "65532:0", Entrypoint: []string{"/usr/bin/tool"}, Layers: []Layer{l}})
	}
	return a
}

func write(t *testing.T, a Archive) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, a); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func files(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWriteIsReproducible(t *testing.T) {
	one, two := write(t, sample(t, true, "amd64", "arm64")), write(t, sample(t, true, "amd64", "arm64"))
	if !bytes.Equal(one, two) {
		t.Error("two archives of the same input differ")
	}
}

// TestWriteIsClosed checks every descriptor: its blob is there, with its digest
// and its size.
func TestWriteIsClosed(t *testing.T) {
	for name, archs := range map[string][]string{"one": {"amd64"}, "two": {"amd64", "arm64"}} {
		t.Run(name, func(t *testing.T) {
			all := files(t, write(t, sample(t, false, archs...)))
			blob := func(d descriptor) []byte {
				b, ok := all["blobs/sha256/"+d.Digest[7:]]
				if !ok || digest(b) != d.Digest || len(b) != d.Size {
					t.Fatalf("descriptor %+v has no such blob", d)
				}
				return b
			}
			var idx index
			if err := json.Unmarshal(all["index.json"], &idx); err != nil {
				t.Fatal(err)
			}
			if got := idx.Manifests[0].Annotations["io.containerd.image.name"]; got != "registry.local/tool:1" {
				t.Errorf("name = %q", got)
			}
			list := idx.Manifests
			if len(archs) > 1 {
				if err := json.Unmarshal(blob(list[0]), &idx); err != nil {
					t.Fatal(err)
				}
				list = idx.Manifests
			}
			var got []string
			for _, d := range list {
				var m manifest
				var c imageConfig
				if err := json.Unmarshal(blob(d), &m); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(blob(m.Config), &c); err != nil {
					t.Fatal(err)
				}
				for i, l := range m.Layers {
					if digest(blob(l)) != c.RootFS.DiffIDs[i] {
						t.Errorf("layer %d: diff id is not that of the uncompressed layer", i)
					}
				}
				got = append(got, d.Platform.Architecture)
			}
			if diff := cmp.Diff(archs, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTreeHoldsNothingOfTheMachine(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "b"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b", "a"), []byte("x"), 0o640); err != nil {
		t.Fatal(err)
	}
	var tree Tree
	if err := tree.Add(dir); err != nil {
		t.Fatal(err)
	}
	tree.File("etc/z", 0o644, nil)
	l, err := tree.Layer(then, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	r := tar.NewReader(bytes.NewReader(l.Data))
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		got = append(got, h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(then) {
			t.Errorf("%s: owner %d:%d %q %q, time %v", h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
		}
	}
	if diff := cmp.Diff([]string{"b/", "b/a", "etc/", "etc/z"}, got); diff != "" {
		t.Error(diff)
	}
}
