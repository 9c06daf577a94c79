package inference

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"sallyport/internal/policy"
)

// anthropicKinds are the words that Anthropic's clients know for a status.
var anthropicKinds = map[int]string{
	400: "invalid_request_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
	502: "api_error", 503: "overloaded_error", 504: "timeout_error",
}

// refuse is an answer of our own, in the words of the dialect.
func refuse(req *http.Request, api policy.API, status int, reason, detail string) *http.Response {
	kind := anthropicKinds[status]
	problem := map[string]any{"type": kind, "message": "sallyport: " + detail}
	body := map[string]any{"type": "error", "error": problem}
	if api == policy.OpenAI {
		problem["code"] = reason
		body = map[string]any{"error": problem}
	}
	resp := own(req, status, body)
	resp.Status = detail
	resp.Header.Set("X-Sallyport-Policy", "error="+reason)
	return resp
}

// own is an answer with a JSON body.
func own(req *http.Request, status int, body any) *http.Response {
	b, err := json.Marshal(body)
	if err != nil {
		b = []byte("{}")
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(b)), Body: io.NopCloser(bytes.NewReader(b)),
	}
}

// names are the models of a dialect that are allowed, as the configuration has
// them.
func (r *Router) names(api policy.API) []string {
	var out []string
	for _, route := range r.routes {
		for _, m := range route.Models {
			if route.API == api && !slices.Contains(out, m.Name) {
				out = append(out, m.Name)
			}
		}
	}
	return out
}

// models answers GET /v1/models and GET /v1/models/NAME: from the configuration
// where it lists models, from the backend where it does not.
func (r *Router) models(req *http.Request, api policy.API) *http.Response {
	name := modelOf(req.URL.EscapedPath())
	if name != "" {
		route, use, ok := r.route(api, name)
		switch {
		case !ok:
			return refuse(req, api, 404, "inference_model", "no route serves model "+clip(name))
		case len(route.Models) == 0:
			return r.forward(req, route, http.MethodGet, modelsPath+"/"+url.PathEscape(use), nil)
		}
		return own(req, 200, describe(api, name))
	}
	if route, _, ok := r.route(api, ""); ok && len(route.Models) == 0 {
		return r.forward(req, route, http.MethodGet, modelsPath, nil)
	}
	list := []any{}
	for _, n := range r.names(api) {
		if !strings.ContainsAny(n, "*?") {
			list = append(list, describe(api, n))
		}
	}
	if api == policy.Anthropic {
		return own(req, 200, map[string]any{"data": list, "has_more": false, "first_id": nil, "last_id": nil})
	}
	return own(req, 200, map[string]any{"object": "list", "data": list})
}

func describe(api policy.API, name string) map[string]any {
	if api == policy.Anthropic {
		return map[string]any{"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
	}
	return map[string]any{"object": "model", "id": name, "created": 0, "owned_by": "sallyport"}
}
