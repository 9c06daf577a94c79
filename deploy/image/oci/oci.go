// Package oci writes container images as OCI archives: one tar file that
// containerd, podman, skopeo and registries' tools read. No daemon and no
// registry takes part.
//
// Deliberately not here: what is in an image, and pushing one.
//
// What must hold: equal input gives equal bytes. Times are the caller's, owners
// are numbers, files are sorted, and nothing of the building machine gets in.
package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Media types of the image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
	typeLayerGz  = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// Image is one image for one architecture.
type Image struct {
	Arch       string // amd64, arm64
	User       string // "uid:gid", numbers
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkingDir string
	Labels     map[string]string
	Layers     []Layer // lowest first
}

// Layer is a tar stream, compressed or not. The digest of the uncompressed
// stream is part of the image's configuration.
type Layer struct {
	Data   []byte
	Gzip   bool
	diffID string
}

// NewLayer takes a tar stream and compresses it if told to. It keeps data.
func NewLayer(data []byte, compress bool) (Layer, error) {
	l := Layer{Data: data, diffID: digest(data)}
	if !compress {
		return l, nil
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return Layer{}, fmt.Errorf("oci: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return Layer{}, fmt.Errorf("oci: %w", err)
	}
	if err := w.Close(); err != nil {
		return Layer{}, fmt.Errorf("oci: %w", err)
	}
	return Layer{Data: b.Bytes(), Gzip: true, diffID: l.diffID}, nil
}

// Archive is what one file holds: an image under one name, for one or more
// architectures.
type Archive struct {
	Name    string // registry/repository:tag, as container runtimes will know it
	Tag     string
	Images  []Image
	Created time.Time // of every file and of the image; whole seconds
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type imageConfig struct {
	Created      time.Time     `json:"created"`
	Architecture string        `json:"architecture"`
	OS           string        `json:"os"`
	Config       runConfig     `json:"config"`
	RootFS       rootFS        `json:"rootfs"`
	History      []historyLine `json:"history"`
}

type runConfig struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Cmd        []string          `json:"Cmd,omitempty"`
	WorkingDir string            `json:"WorkingDir,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type historyLine struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// archiver collects blobs, each once.
type archiver struct {
	tar  *tar.Writer
	when time.Time
	seen map[string]bool
}

// Write writes the archive to w.
func Write(w io.Writer, a Archive) error {
	out := &archiver{tar: tar.NewWriter(w), when: a.Created.UTC().Truncate(time.Second), seen: map[string]bool{}}
	if err := out.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	var list []descriptor
	for _, img := range a.Images {
		d, err := out.image(img)
		if err != nil {
			return err
		}
		list = append(list, d)
	}
	if len(list) > 1 {
		d, err := out.json(typeIndex, index{2, typeIndex, list})
		if err != nil {
			return err
		}
		list = []descriptor{d}
	}
	list[0].Annotations = map[string]string{
		"io.containerd.image.name":          a.Name,
		"org.opencontainers.image.ref.name": a.Tag,
	}
	raw, err := json.Marshal(index{2, typeIndex, list})
	if err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	if err := out.file("index.json", raw); err != nil {
		return err
	}
	if err := out.tar.Close(); err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	return nil
}

func (o *archiver) image(img Image) (descriptor, error) {
	m := manifest{SchemaVersion: 2, MediaType: typeManifest}
	c := imageConfig{
		Created: o.when, Architecture: img.Arch, OS: "linux", RootFS: rootFS{Type: "layers"},
		Config: runConfig{img.User, img.Env, img.Entrypoint, img.Cmd, img.WorkingDir, img.Labels},
	}
	for _, l := range img.Layers {
		kind := typeLayer
		if l.Gzip {
			kind = typeLayerGz
		}
		d, err := o.blob(kind, l.Data)
		if err != nil {
			return d, err
		}
		m.Layers = append(m.Layers, d)
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.diffID)
		c.History = append(c.History, historyLine{o.when, "sallyport image"})
	}
	var err error
	if m.Config, err = o.json(typeConfig, c); err != nil {
		return descriptor{}, err
	}
	d, err := o.json(typeManifest, m)
	d.Platform = &platform{img.Arch, "linux"}
	return d, err
}

func (o *archiver) json(kind string, v any) (descriptor, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, fmt.Errorf("oci: %w", err)
	}
	return o.blob(kind, raw)
}

func (o *archiver) blob(kind string, data []byte) (descriptor, error) {
	d := descriptor{MediaType: kind, Digest: digest(data), Size: len(data)}
	if o.seen[d.Digest] {
		return d, nil
	}
	o.seen[d.Digest] = true
	return d, o.file("blobs/sha256/"+d.Digest[len("sha256:"):], data)
}

func (o *archiver) file(name string, data []byte) error {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), ModTime: o.when, Format: tar.FormatUSTAR}
	if err := o.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	if _, err := o.tar.Write(data); err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	return nil
}
