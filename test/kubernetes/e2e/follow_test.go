package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// setPolicy edits the policy in a pod's ConfigMap, as a person would.
func setPolicy(t *testing.T, name, text string) {
	t.Helper()
	patch, err := json.Marshal(object{"data": object{"policy.yaml": text}})
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "patch", "configmap", name, "--type=merge", "-p", string(patch))
}

// TestConfigMapIsFollowed: an edit of the ConfigMap takes force in the pod that
// runs, and a broken one changes nothing. The kubelet brings it when it next
// looks at the pod: every five seconds here, once a minute by default.
func TestConfigMapIsFollowed(t *testing.T) {
	const name, host = "follow", "web.shop.svc.cluster.local"
	m := generate(t, name, clientPolicy, nil, "sh", "-c", "while :; do curl -s http://"+host+"/page; sleep 0.5; done")
	m.apply(t)
	wait(t, name, aWhile, ready)
	// told waits for a line that comes behind the part of the log that was read.
	read := 0
	told := func(what string) {
		t.Helper()
		begun := time.Now()
		err := until(what, 3*time.Minute, func() (bool, error) {
			log := logs(t, name)
			at := strings.Index(log[min(read, len(log)):], what)
			if at < 0 {
				return false, fmt.Errorf("%s", log)
			}
			read += at + len(what)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%q after %.1f s", what, time.Since(begun).Seconds())
	}
	told("REACHED web")
	setPolicy(t, name, strings.Replace(clientPolicy, "endpoints:", "endponts:", 1))
	told(`has no field "endponts"`)
	told("sallyport: generation 1 stays in force")
	told("REACHED web")
	setPolicy(t, name, files)
	told("sallyport: /sallyport/config/policy.yaml: generation 2 is in force")
	told("sallyport: denied  curl → GET " + host)
	setPolicy(t, name, clientPolicy)
	told("generation 3 is in force")
	told("REACHED web")
}
