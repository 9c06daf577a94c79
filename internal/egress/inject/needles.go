package inject

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strings"
)

// needles are the forms in which an answer could hold one credential's secrets.
type needles struct {
	last  string // the secret that forms were made of last
	forms [][]byte
}

// kept bounds the forms of earlier secrets that are still looked for.
const keptForms = 128

// add makes the forms of one more secret.
func (n *needles) add(s string) {
	if s == n.last {
		return
	}
	n.last = s
	n.forms = append(forms(s), n.forms...)
	n.forms = n.forms[:min(len(n.forms), keptForms)]
}

// forms are the ways in which programs write a text: as it is, in JSON, in a URL,
// in hexadecimal, and in base64 at each of the three places where it can begin,
// as in what follows Basic.
func forms(s string) [][]byte {
	all := []string{s, jsonText(s), strings.ReplaceAll(jsonText(s), "/", `\/`), url.QueryEscape(s), url.PathEscape(s), hex.EncodeToString([]byte(s)), strings.ToUpper(hex.EncodeToString([]byte(s)))}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			coded := e.EncodeToString(append(make([]byte, shift), s...))
			// The letters that are made of the secret's bits alone.
			from, to := (shift*8+5)/6, (shift+len(s))*8/6
			all = append(all, coded[from:to])
		}
	}
	var out [][]byte
	for _, f := range all {
		if b := []byte(f); len(b) > 0 && !contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

func contains(list [][]byte, b []byte) bool {
	for _, o := range list {
		if bytes.Equal(o, b) {
			return true
		}
	}
	return false
}

// mask overwrites every needle in b and tells whether there was one. The length
// stays, so that no framing changes.
func mask(b []byte, list [][]byte) (found bool) {
	for _, n := range list {
		for at := 0; ; {
			i := bytes.Index(b[at:], n)
			if i < 0 {
				break
			}
			at += i
			for j := range n {
				b[at+j] = '*'
			}
			found = true
		}
	}
	return found
}

// open is the length of the end of b with which a needle could begin.
func open(b []byte, list [][]byte) int {
	most := 0
	for _, n := range list {
		for k := min(len(n)-1, len(b)); k > most; k-- {
			if b[len(b)-k] == n[0] && bytes.HasPrefix(n, b[len(b)-k:]) {
				most = k
				break
			}
		}
	}
	return most
}
