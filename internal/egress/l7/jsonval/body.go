package jsonval

import (
	"mime"
	"net/http"
	"slices"
	"strings"
)

// MediaType returns the media type of a body, which must be one of accepted. A body that is encoded, whose
// charset is another than UTF-8, or whose type is not said or said twice, is refused with a *Malformed: the
// server could read something else in it.
func MediaType(h http.Header, accepted ...string) (string, error) {
	for _, encoding := range h["Content-Encoding"] {
		if !strings.EqualFold(encoding, "identity") {
			return "", Malformedf("the body is encoded as %.40q, and an encoded body is not read", encoding)
		}
	}
	types := h["Content-Type"]
	if len(types) != 1 {
		return "", Malformedf("expected one Content-Type, found %d", len(types))
	}
	mt, params, err := mime.ParseMediaType(types[0])
	if err != nil || !slices.Contains(accepted, mt) {
		return "", Malformedf("the body is %.80q, expected %s", types[0], strings.Join(accepted, " or "))
	}
	for name, v := range params {
		if name == "charset" && !strings.EqualFold(v, "utf-8") {
			return "", Malformedf("the body's charset is %.40q, expected utf-8", v)
		}
	}
	return mt, nil
}
