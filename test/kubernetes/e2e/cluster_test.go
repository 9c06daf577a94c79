package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/internal/testkit/tree"
)

// The namespaces of the tests. Sandboxes are held to the strictest standard in
// every way that a namespace has; the shop's servers are not of interest.
const (
	sandboxes = "sandboxes"
	shop      = "shop"
)

// aWhile is how long a test waits for what takes a few seconds.
const aWhile = 3 * time.Minute

// runtimeName is the generation of container runtime that runs the pods.
var runtimeName = os.Getenv("SALLYPORT_E2E")

func TestMain(m *testing.M) {
	if runtimeName == "" {
		fmt.Println("e2e: skipped: make e2e-kubernetes runs these tests, in a cluster that it makes")
		return
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// modern tells whether the runtime is of the second generation.
func modern() bool { return runtimeName == "containerd-2" }

// output is what a command said.
type output struct{ stdout, stderr string }

func execute(stdin, name string, args ...string) (output, error) {
	cmd := exec.Command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, errs.String())
	}
	return output{out.String(), errs.String()}, err
}

// kubectl runs it in the sandboxes' namespace and returns its standard output.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := execute("", "kubectl", append([]string{"-n", sandboxes}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out.stdout
}

// until polls for what the cluster has no cheap way to tell.
func until(what string, limit time.Duration, ok func() (bool, error)) error {
	var last error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		done, err := ok()
		if done {
			return nil
		}
		last = err
	}
	return fmt.Errorf("%s: not within %v: %w", what, limit, last)
}

type object = tree.Object

// manifest is what `sallyport kube manifest` prints, as one list that a test may
// change before it is applied.
type manifest struct {
	name string
	list object
}

// generate calls the program. flags come before the command.
func generate(t *testing.T, name, policy string, flags []string, command ...string) manifest {
	t.Helper()
	args := []string{"kube", "manifest", "--json", "--name", name, "-n", sandboxes, "--pull-policy", "Never",
		"--image", os.Getenv("SALLYPORT_E2E_AGENT"), "--supervisor-image", os.Getenv("SALLYPORT_E2E_SUPERVISOR")}
	if policy != "" {
		file := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(file, []byte(policy), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--policy", file)
	}
	args = append(append(append(args, flags...), "--"), command...)
	out, err := execute("", os.Getenv("SALLYPORT_E2E_BIN")+"/sallyport", args...)
	if err != nil {
		t.Fatal(err)
	}
	m := manifest{name: name}
	if err := json.Unmarshal([]byte(out.stdout), &m.list); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m manifest) object(kind string) object {
	for _, o := range tree.List(m.list, "items") {
		if o["kind"] == kind {
			return o
		}
	}
	return nil
}

func (m manifest) pod() object       { return m.object("Pod") }
func (m manifest) container() object { return tree.List(m.pod(), "spec", "containers")[0] }

// plain turns the pod into one without a supervisor: the same image, user,
// limits and security context, the same command.
func (m manifest) plain() manifest {
	c := m.container()
	c["command"] = c["args"]
	delete(c, "args")
	for _, probe := range []string{"livenessProbe", "readinessProbe"} {
		delete(c, probe)
	}
	return m
}

// apply creates the objects, removes them with the test, and gives back what
// kubectl warned of.
func (m manifest) apply(t *testing.T) (warnings string) {
	t.Helper()
	raw, err := json.Marshal(m.list)
	if err != nil {
		t.Fatal(err)
	}
	out, err := execute(string(raw), "kubectl", "apply", "-f", "-")
	t.Cleanup(func() {
		execute("", "kubectl", "-n", sandboxes, "delete", "pod", m.name, "--now", "--ignore-not-found", "--wait=false")
		execute("", "kubectl", "-n", sandboxes, "delete", "configmap,networkpolicy", m.name, "--ignore-not-found", "--wait=false")
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.stderr
}

// state is what the cluster knows of a pod's agent.
type state struct {
	phase   string
	ready   bool
	ended   bool
	code    int
	reason  string // OOMKilled, Error
	message string // the termination message
	ip      string
	id      string // of the container, at the runtime
	raw     string
}

func look(name string) (state, error) {
	out, err := execute("", "kubectl", "-n", sandboxes, "get", "pod", name, "-o", "json")
	if err != nil {
		return state{}, err
	}
	var pod object
	if err := json.Unmarshal([]byte(out.stdout), &pod); err != nil {
		return state{}, err
	}
	raw, _ := json.Marshal(pod["status"])
	s := state{phase: fmt.Sprint(tree.At(pod, "status", "phase")), raw: string(raw)}
	s.ip, _ = tree.At(pod, "status", "podIP").(string)
	for _, c := range append(tree.List(pod, "status", "initContainerStatuses"), tree.List(pod, "status", "containerStatuses")...) {
		if c["name"] == "agent" {
			s.ready, _ = c["ready"].(bool)
			s.id, _ = c["containerID"].(string)
		}
		end, _ := tree.At(c, "state", "terminated").(object)
		code, _ := end["exitCode"].(float64)
		if end == nil || c["name"] != "agent" && code == 0 {
			continue
		}
		s.ended, s.code = s.phase == "Succeeded" || s.phase == "Failed", int(code)
		s.reason, s.message = fmt.Sprint(end["reason"]), fmt.Sprint(end["message"])
	}
	return s, nil
}

// wait waits until the pod's state is as wanted.
func wait(t *testing.T, name string, limit time.Duration, ok func(state) bool) state {
	t.Helper()
	var s state
	err := until("pod "+name, limit, func() (bool, error) {
		var err error
		if s, err = look(name); err != nil {
			return false, err
		}
		if s.ended && !ok(s) {
			return true, nil
		}
		return ok(s), errors.New(s.raw)
	})
	if err != nil || !ok(s) {
		events, _ := execute("", "kubectl", "-n", sandboxes, "get", "events", "--field-selector", "involvedObject.name="+name)
		t.Fatalf("pod %s: %v: %+v\n%s\n%s", name, err, s, logs(t, name), events.stdout)
	}
	return s
}

func ended(s state) bool { return s.ended }
func ready(s state) bool { return s.ready }

// finish applies a manifest and waits for the agent's end.
func (m manifest) finish(t *testing.T, limit time.Duration) (state, string) {
	t.Helper()
	m.apply(t)
	s := wait(t, m.name, limit, ended)
	return s, logs(t, m.name)
}

func logs(t *testing.T, name string) string {
	t.Helper()
	out, err := execute("", "kubectl", "-n", sandboxes, "logs", name, "-c", "agent")
	if err != nil {
		return err.Error()
	}
	return out.stdout
}

// run is finish for a script.
func script(t *testing.T, name, policy string, flags []string, text string) (state, string) {
	t.Helper()
	return generate(t, name, policy, flags, "sh", "-c", text).finish(t, aWhile)
}
