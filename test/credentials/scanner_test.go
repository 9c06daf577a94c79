package credentials

import (
	"context"
	"net"
	"net/http"
	"os"
	"testing"

	middlewarev1 "sallyport/api/middleware/v1"
	"sallyport/api/middleware/v1/middlewarev1connect"
	"sallyport/internal/testkit"
)

// scanner is a middleware that wants to see all and changes nothing.
type scanner struct {
	middlewarev1connect.UnimplementedMiddlewareServiceHandler
}

func (scanner) Describe(context.Context, *middlewarev1.DescribeRequest) (*middlewarev1.DescribeResponse, error) {
	return &middlewarev1.DescribeResponse{Name: "scanner", MaxBodyBytes: 1 << 20, Hooks: []middlewarev1.Hook{
		middlewarev1.Hook_HOOK_HTTP_REQUEST, middlewarev1.Hook_HOOK_HTTP_RESPONSE,
	}}, nil
}

func (scanner) ValidateConfig(context.Context, *middlewarev1.ValidateConfigRequest) (*middlewarev1.ValidateConfigResponse, error) {
	return &middlewarev1.ValidateConfigResponse{Valid: true}, nil
}

func (scanner) EvaluateHttpRequest(context.Context, *middlewarev1.EvaluateHttpRequestRequest) (*middlewarev1.EvaluateHttpRequestResponse, error) {
	return &middlewarev1.EvaluateHttpRequestResponse{Decision: middlewarev1.Decision_DECISION_ALLOW}, nil
}

func (scanner) EvaluateHttpResponse(context.Context, *middlewarev1.EvaluateHttpResponseRequest) (*middlewarev1.EvaluateHttpResponseResponse, error) {
	return &middlewarev1.EvaluateHttpResponseResponse{Decision: middlewarev1.Decision_DECISION_ALLOW}, nil
}

// serveScanner starts the middleware. Every byte that it gets is kept.
func (s *scene) serveScanner(t *testing.T) {
	l, err := net.Listen("unix", s.file("scanner"))
	fatal(t, err)
	fatal(t, os.Chmod(s.file("scanner"), 0o666))
	v := &server{}
	s.servers["scanner"] = v
	mux := http.NewServeMux()
	mux.Handle(middlewarev1connect.NewMiddlewareServiceHandler(scanner{}))
	testkit.Serve(t, recorded{l, v}, mux)
}
