package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Tree is the content of a layer, built in memory. Directories that files need
// are made, with mode 0755. Everything belongs to uid 0 and gid 0.
type Tree struct {
	entries map[string]entry
}

type entry struct {
	header tar.Header
	data   []byte
}

func (t *Tree) put(name string, h tar.Header, data []byte) {
	if t.entries == nil {
		t.entries = map[string]entry{}
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := t.entries[dir]; !ok {
			t.entries[dir] = entry{header: tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}}
		}
	}
	h.Name = name
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	t.entries[name] = entry{header: h, data: data}
}

// Dir adds a directory, or changes the mode of one.
func (t *Tree) Dir(name string, mode fs.FileMode) {
	t.put(name, tar.Header{Typeflag: tar.TypeDir, Mode: unixMode(mode)}, nil)
}

// File adds a file.
func (t *Tree) File(name string, mode fs.FileMode, data []byte) {
	t.put(name, tar.Header{Typeflag: tar.TypeReg, Mode: unixMode(mode), Size: int64(len(data))}, data)
}

// Link adds a symbolic link.
func (t *Tree) Link(name, target string) {
	t.put(name, tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}, nil)
}

// Add copies the directory root of this machine into the tree, without owners,
// times and device files.
func (t *Tree) Add(root string) error {
	return filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("oci: %w", err)
		}
		name, err := filepath.Rel(root, p)
		if err != nil || name == "." {
			return err
		}
		return t.addOne(p, name, e)
	})
}

func (t *Tree) addOne(p, name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		t.Dir(name, info.Mode())
	case fs.ModeSymlink:
		target, err := os.Readlink(p)
		if err != nil {
			return fmt.Errorf("oci: %w", err)
		}
		t.Link(name, target)
	case 0:
		data, err := os.ReadFile(p)
		if err != nil {
			return fmt.Errorf("oci: %w", err)
		}
		t.File(name, info.Mode(), data)
	}
	return nil
}

func unixMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, v := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= v
		}
	}
	return mode
}

// Layer writes the tree as a layer in which every time is when.
func (t *Tree) Layer(when time.Time, compress bool) (Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		e := t.entries[name]
		h := e.header
		h.ModTime = when.UTC().Truncate(time.Second)
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return Layer{}, fmt.Errorf("oci: %s: %w", name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return Layer{}, fmt.Errorf("oci: %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return Layer{}, errors.Join(errors.New("oci: closing the layer"), err)
	}
	return NewLayer(b.Bytes(), compress)
}
