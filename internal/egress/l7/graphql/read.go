package graphql

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"

	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/policy"
)

// Options bound what is read. Zero means the default.
type Options struct {
	MaxBody  int64 // bytes, of a GET the URL's query. Default 64 KiB
	MaxBatch int   // requests in one body. Default 16
	Tokens   int   // of a document. Default 20,000
	Depth    int   // of nested selections. Default 128
}

func (o Options) withDefaults() Options {
	if o.MaxBody <= 0 {
		o.MaxBody = 64 << 10
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = 16
	}
	if o.Tokens <= 0 {
		o.Tokens = 20000
	}
	if o.Depth <= 0 {
		o.Depth = 128
	}
	return o
}

// parts are the members of a request, in a JSON body and in a URL.
var parts = []string{"query", "operationName", "variables", "extensions"}

// otherIDs are how servers let a request name a query by other things than the hash of its text. Which query
// that is, nobody but the server knows.
var otherIDs = []string{"id", "queryId", "documentId", "doc_id", "docId", "hash", "sha256Hash", "persistedQuery", "persistedQueryId", "operationId"}

// Read returns the operations of a request, never none: of a batch, all of them. r has the method and the
// query, h the headers. The errors are *jsonval.Malformed and *jsonval.TooLarge.
func Read(r policy.Request, h http.Header, body []byte, o Options) ([]policy.Operation, error) {
	o = o.withDefaults()
	if int64(len(body)) > o.MaxBody {
		return nil, &jsonval.TooLarge{What: "bytes of GraphQL", Limit: o.MaxBody}
	}
	inURL, err := fromURL(r.Query, o)
	if err != nil {
		return nil, err
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if len(body) > 0 {
			return nil, jsonval.Malformedf("a GraphQL %s has no body", r.Method)
		}
		return one(inURL.operation(o))
	case http.MethodPost:
	default:
		return nil, jsonval.Malformedf("a GraphQL request is a GET or a POST, not %.20s", r.Method)
	}
	if inURL.has {
		return nil, jsonval.Malformedf("a GraphQL POST has its parts in the body, and this one has some in the URL")
	}
	if mt, err := jsonval.MediaType(h, "application/json", "application/graphql"); err != nil {
		return nil, err
	} else if mt == "application/graphql" {
		return one(request{query: string(body)}.operation(o))
	}
	return fromBody(body, o)
}

func one(op policy.Operation, err error) ([]policy.Operation, error) {
	if err != nil {
		return nil, err
	}
	return []policy.Operation{op}, nil
}

// request is what one request says about what to run.
type request struct {
	has   bool // any part is there
	query string
	name  string // operationName
	hash  string // of a persisted query
}

func fromURL(query map[string][]string, o Options) (request, error) {
	var r request
	size := 0
	for name, values := range query {
		for _, v := range values {
			size += len(name) + len(v)
		}
		if like := jsonval.Looks(name, parts...); like != "" {
			return r, jsonval.Malformedf("the URL's query has %.80q, which could be taken for %q", name, like)
		}
		if jsonval.Looks(name, otherIDs...) != "" || isIn(name, otherIDs) {
			return r, jsonval.Malformedf("the URL's query has %.80q, which could name a stored query", name)
		}
		if !isIn(name, parts) {
			continue
		}
		if r.has = true; len(values) != 1 {
			return r, jsonval.Malformedf("the URL's query has %q %d times", name, len(values))
		}
	}
	if int64(size) > o.MaxBody {
		return r, &jsonval.TooLarge{What: "bytes of GraphQL", Limit: o.MaxBody}
	}
	first := func(name string) string {
		if v := query[name]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	r.query, r.name = first("query"), first("operationName")
	if text := first("variables"); text != "" {
		if _, err := object("variables", text); err != nil {
			return r, err
		}
	}
	if text := first("extensions"); text != "" {
		v, err := object("extensions", text)
		if err != nil {
			return r, err
		}
		return r, r.extensions(v)
	}
	return r, nil
}

func isIn(s string, list []string) bool {
	for _, l := range list {
		if s == l {
			return true
		}
	}
	return false
}

func object(what, text string) (*jsonval.Value, error) {
	v, err := jsonval.Read([]byte(text), jsonval.Limits{})
	if err == nil && v.Kind != jsonval.Object && v.Kind != jsonval.Null {
		err = jsonval.Malformedf("%s is %v, expected an object", what, v.Kind)
	}
	return v, err
}

func fromBody(body []byte, o Options) ([]policy.Operation, error) {
	batch, err := jsonval.Batch(body, "GraphQL", "requests", o.MaxBatch)
	if err != nil {
		return nil, err
	}
	ops := make([]policy.Operation, len(batch))
	for i := range batch {
		if ops[i], err = fromObject(&batch[i], o); err != nil {
			return nil, err
		}
	}
	return ops, nil
}

func fromObject(v *jsonval.Value, o Options) (policy.Operation, error) {
	var r request
	err := v.Only("a GraphQL request", parts...)
	if err != nil {
		return policy.Operation{}, err
	}
	if r.query, err = v.String("query"); err != nil {
		return policy.Operation{}, err
	}
	if r.name, err = v.String("operationName"); err != nil {
		return policy.Operation{}, err
	}
	if vars := v.Get("variables"); vars != nil && vars.Kind != jsonval.Object && vars.Kind != jsonval.Null {
		return policy.Operation{}, jsonval.Malformedf("variables is %v, expected an object", vars.Kind)
	}
	if ext := v.Get("extensions"); ext != nil {
		if err := r.extensions(ext); err != nil {
			return policy.Operation{}, err
		}
	}
	return r.operation(o)
}

var sha256Hex = regexp.MustCompile(`^[0-9a-f]+$`) // of 64 digits

// extensions reads extensions.persistedQuery: {"version": 1, "sha256Hash": "…"}.
func (r *request) extensions(v *jsonval.Value) error {
	if v.Kind == jsonval.Null {
		return nil
	}
	if v.Kind != jsonval.Object {
		return jsonval.Malformedf("extensions is %v, expected an object", v.Kind)
	}
	for _, m := range v.Members {
		if like := jsonval.Looks(m.Name, "persistedQuery"); like != "" {
			return jsonval.Malformedf("extensions has %.80q, which could be taken for %q", m.Name, like)
		}
	}
	p := v.Get("persistedQuery")
	if p == nil || p.Kind == jsonval.Null {
		return nil
	}
	if err := p.Only("persistedQuery", "version", "sha256Hash"); err != nil {
		return err
	}
	if version := p.Get("version"); version == nil || version.Kind != jsonval.Number || version.Text != "1" {
		return jsonval.Malformedf("persistedQuery has version 1")
	}
	var err error
	if r.hash, err = p.String("sha256Hash"); err == nil && (len(r.hash) != 64 || !sha256Hex.MatchString(r.hash)) {
		err = jsonval.Malformedf("sha256Hash is %.80q, expected 64 hexadecimal digits in lower case", r.hash)
	}
	return err
}

// operation tells what a request runs.
func (r request) operation(o Options) (policy.Operation, error) {
	switch {
	case r.query == "" && r.hash == "":
		return policy.Operation{}, jsonval.Malformedf("the request has no GraphQL query")
	case r.query == "":
		return policy.Operation{Name: r.name, Persisted: r.hash}, nil
	case r.hash != "":
		if sum := sha256.Sum256([]byte(r.query)); hex.EncodeToString(sum[:]) != r.hash {
			return policy.Operation{}, jsonval.Malformedf("sha256Hash is not the hash of the query beside it")
		}
	}
	return document(r.query, r.name, o)
}
