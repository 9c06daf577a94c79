package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/vishvananda/netlink"
)

// The addresses that clouds use for what is nobody's business but the node's.
const metadataAddress = "169.254.169.254"

// webScript serves a page, a git repository and a registry of packages.
const webScript = `set -e; cd /work; export HOME=/work GIT_CONFIG_GLOBAL=/work/.gitconfig
git config --global user.email web@shop; git config --global user.name web
git init -q -b main src; echo cloned > src/README; git -C src add .; git -C src commit -qm one
git clone -q --bare src repo.git; git -C repo.git update-server-info
mkdir package; echo '{"name":"tiny","version":"1.0.0"}' > package/package.json; echo 'module.exports="installed"' > package/index.js
python3 -c 'import tarfile; t = tarfile.open("tiny-1.0.0.tgz", "w:gz"); t.add("package"); t.close()'
cat > tiny <<END
{"name":"tiny","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"tiny","version":"1.0.0","dist":{"tarball":"http://$1.shop.svc.cluster.local/tiny-1.0.0.tgz"}}}}
END
echo "REACHED $1" > page
exec python3 -m http.server 8080`

// dbScript is a PostgreSQL server that trusts everybody.
const dbScript = `set -e; export HOME=/work LC_ALL=C
initdb -D /work/db -U agent -A trust >/dev/null
echo 'host all all all trust' >> /work/db/pg_hba.conf
exec postgres -D /work/db -c listen_addresses='*' -c unix_socket_directories=/work -c fsync=off`

// server is one pod of the shop and its service.
type server struct {
	name, script string
	port, target int
}

var servers = []server{
	{"web", webScript, 80, 8080}, {"other", webScript, 80, 8080},
	{"db", dbScript, 5432, 5432}, {"otherdb", dbScript, 5432, 5432},
}

func (s server) objects() []any {
	labels := object{"app": s.name}
	meta := object{"name": s.name, "namespace": shop, "labels": labels}
	return []any{
		object{"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": object{
			"selector": labels, "ports": []any{object{"port": s.port, "targetPort": s.target}},
		}},
		object{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": object{
			"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
			"securityContext": object{"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": object{"type": "RuntimeDefault"}},
			"containers": []any{object{
				"name": "server", "image": os.Getenv("SALLYPORT_E2E_AGENT"), "imagePullPolicy": "Never",
				"command":         []any{"sh", "-c", s.script, "sh", s.name},
				"readinessProbe":  object{"tcpSocket": object{"port": s.target}, "periodSeconds": 1},
				"securityContext": object{"allowPrivilegeEscalation": false, "capabilities": object{"drop": []any{"ALL"}}},
				"volumeMounts":    []any{object{"name": "work", "mountPath": "/work"}},
			}},
			"volumes": []any{object{"name": "work", "emptyDir": object{}}},
		}},
	}
}

func namespace(name string, labels object) object {
	return object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": name, "labels": labels}}
}

// furnish makes the namespaces, the shop, the Secret, and a metadata service on
// the node.
func furnish() error {
	strict := object{}
	for _, way := range []string{"enforce", "warn", "audit"} {
		strict["pod-security.kubernetes.io/"+way] = "restricted"
		strict["pod-security.kubernetes.io/"+way+"-version"] = "latest"
	}
	all := []any{
		namespace(sandboxes, strict), namespace(shop, object{}),
		object{"apiVersion": "v1", "kind": "Secret", "metadata": object{"name": "keys", "namespace": sandboxes}, "stringData": object{"token": secretValue}},
	}
	if err := metadata(); err != nil {
		return err
	}
	if err := applyAll(all); err != nil {
		return err
	}
	for _, ns := range []string{sandboxes, shop} {
		if err := until("service account of "+ns, aWhile, func() (bool, error) {
			_, err := execute("", "kubectl", "-n", ns, "get", "serviceaccount", "default")
			return err == nil, err
		}); err != nil {
			return err
		}
	}
	all = nil
	for _, s := range servers {
		all = append(all, s.objects()...)
	}
	if err := applyAll(all); err != nil {
		return err
	}
	_, err := execute("", "kubectl", "-n", shop, "wait", "pod", "--all", "--for=condition=Ready", "--timeout=180s")
	if err != nil {
		for _, about := range [][]string{{"get", "pods", "-o", "wide"}, {"get", "events"}, {"logs", "-l", "app", "--prefix"}} {
			out, _ := execute("", "kubectl", append([]string{"-n", shop}, about...)...)
			err = fmt.Errorf("%w\n%s%s", err, out.stdout, out.stderr)
		}
	}
	return err
}

func applyAll(objects []any) error {
	raw, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		return err
	}
	_, err = execute(string(raw), "kubectl", "apply", "-f", "-")
	return err
}

// metadata puts a server where a cloud has the node's credentials. The network
// namespace is the cluster's own.
func metadata() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(metadataAddress + "/32")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, addr); err != nil {
		return err
	}
	l, err := net.Listen("tcp", metadataAddress+":80")
	if err != nil {
		return err
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "REACHED metadata") }))
	return nil
}
