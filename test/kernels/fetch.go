package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// metapackage, with the architecture, depends on the newest kernel of a suite; the
// cloud flavour has the serial console built in and nothing that a virtual machine lacks.
const metapackage = "linux-image-cloud-"

// archive is the file beside a kernel that holds its modules for a guest.
const archive = "modules"

// shell is the file beside a kernel that holds the shell for a guest.
const shell = "busybox"

// fetch returns the path of a row's kernel, from dir where it is kept or from
// the same server that this machine gets its packages from, and beside it the shell
// and the archive of modules, if they are wanted.
func fetch(ctx context.Context, k kernel, dir string) (string, error) {
	kept, _ := filepath.Glob(filepath.Join(dir, "vmlinuz-*"))
	whole := len(kept) > 0 && there(dir, shell) && (!k.modules || there(dir, archive))
	switch {
	case whole:
		return kept[0], nil
	case len(kept) > 0: // a kernel and its modules are of one package
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	a, err := newApt(ctx, k, dir)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(a.state)
	if _, err := a.run("apt-get", "update"); err != nil {
		return "", err
	}
	name, err := a.dependency(metapackage+k.arch, "linux-image-")
	if err == nil && name == "" {
		err = fmt.Errorf("%s: %s depends on no kernel", k.suite, metapackage+k.arch)
	}
	if err != nil {
		return "", err
	}
	// Newer suites have the image in a package of its own.
	if binary, err := a.dependency(name, "linux-binary-"); err != nil {
		return "", err
	} else if binary != "" {
		name = binary
	}
	if _, err := a.run("apt-get", "download", name, "busybox-static"); err != nil {
		return "", err
	}
	return a.unpack(k.modules)
}

func there(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// apt is an apt that knows one suite and architecture, and touches nothing of the system's.
type apt struct {
	ctx        context.Context
	dir, state string
	options    []string
}

func newApt(ctx context.Context, k kernel, dir string) (*apt, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	state, err := os.MkdirTemp(dir, "apt-")
	if err != nil {
		return nil, err
	}
	a := &apt{ctx: ctx, dir: dir, state: state}
	server, err := a.run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Label: Debian")
	if err != nil {
		return nil, err
	}
	site, _, _ := strings.Cut(strings.TrimSpace(server), "\n")
	if site == "" {
		return nil, fmt.Errorf("this machine's apt knows no server of Debian")
	}
	list, status := filepath.Join(state, "sources.list"), filepath.Join(state, "status") // nothing is installed
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	line := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", strings.TrimSuffix(site, "/"), k.suite)
	if err := os.WriteFile(list, []byte(line), 0o644); err != nil {
		return nil, err
	}
	for _, sub := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, sub), 0o755); err != nil {
			return nil, err
		}
	}
	a.options = []string{
		"-qq", "-o", "APT::Architecture=" + k.arch, "-o", "APT::Architectures=" + k.arch, "-o", "Dir::State::status=" + status, "-o", "Dir::Etc::sourcelist=" + list, "-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::State::lists=" + filepath.Join(state, "lists"), "-o", "Dir::Cache=" + state, "-o", "APT::Sandbox::User=root",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "-o", "Acquire::Languages=none",
	}
	return a, nil
}

// dependency is what a package depends on whose name begins so, or nothing.
func (a *apt) dependency(of, prefix string) (string, error) {
	depends, err := a.run("apt-cache", "depends", "--important", of)
	for f := range strings.FieldsSeq(depends) {
		if strings.HasPrefix(f, prefix) && f != of {
			return f, err
		}
	}
	return "", err
}

func (a *apt) run(program string, args ...string) (string, error) {
	cmd := exec.CommandContext(a.ctx, program, append(a.options[:len(a.options):len(a.options)], args...)...)
	cmd.Dir = a.state
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, args[0], err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// unpack keeps the kernel and the shell of the packages that were downloaded.
func (a *apt) unpack(modules bool) (string, error) {
	debs, _ := filepath.Glob(filepath.Join(a.state, "*.deb"))
	tree := filepath.Join(a.state, "tree")
	for _, deb := range debs {
		if out, err := exec.CommandContext(a.ctx, "dpkg-deb", "-x", deb, tree).CombinedOutput(); err != nil {
			return "", fmt.Errorf("dpkg-deb: %w: %s", err, out)
		}
	}
	image, err := oneOf(tree, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
	if err != nil {
		return "", err
	}
	busybox, err := oneOf(tree, "bin/busybox", "usr/bin/busybox")
	if err != nil {
		return "", err
	}
	if modules {
		if err := keepModules(tree, filepath.Join(a.dir, archive)); err != nil {
			return "", err
		}
	}
	if err := os.Rename(busybox, filepath.Join(a.dir, shell)); err != nil {
		return "", err
	}
	release, err := oneOf(tree, "lib/modules/*", "usr/lib/modules/*")
	if err != nil {
		return "", err
	}
	to := filepath.Join(a.dir, "vmlinuz-"+filepath.Base(release))
	return to, os.Rename(image, to)
}

// oneOf is the one file that a pattern has, of the first pattern that has some.
func oneOf(tree string, patterns ...string) (string, error) {
	for _, p := range patterns {
		found, _ := filepath.Glob(filepath.Join(tree, p))
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return "", fmt.Errorf("the packages hold %d of %s, expected one", len(found), p)
		}
	}
	return "", fmt.Errorf("the packages hold no %s", patterns[0])
}
