package attack

import (
	"testing"

	"sallyport/internal/confine"
	"sallyport/internal/policy"
)

// Each wall is missed: without it the suite is red, by an escape and not only
// because something broke. In the whole sandbox a second wall stops most
// attacks, so the suite has for each wall a case in which it stands alone.
func TestEachWallIsMissed(t *testing.T) {
	for _, w := range []confine.Walls{confine.WallPorts, confine.WallFiles, confine.WallScopes, confine.WallFilter, confine.WallGate} {
		t.Run(w.String(), func(t *testing.T) {
			cases := inGroup(Cases(), onlyPrefix+w.String())
			if len(cases) != 1 {
				t.Fatalf("%d cases have this wall alone, want 1", len(cases))
			}
			if why := cases[0].lacking(); why != "" {
				t.Skip(why)
			}
			r, err := Run(t.Context(), Options{Mode: policy.Platform, Only: []string{cases[0].Name}, Races: 100, Off: w})
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Results[0]; got.Verdict != Escaped || !r.Red() {
				t.Errorf("without it %s is %s, want %s: %s", got.Case, got.Verdict, Escaped, got.Detail)
			}
		})
	}
}

// An answer that comes in parts is read to its end, however long that takes.
func TestWhole(t *testing.T) {
	const one = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
	for b, want := range map[string]bool{
		"HTTP/1.1 200 OK\r\nContent-Le": false, one: false, one + "pag": false, one + "page": true, one + "page" + one: false, one + "page" + one + "page": true,
		"HTTP/1.1 200 OK\r\n\r\n": true, one + "page" + greeting: true, greeting: true,
	} {
		if got := whole([]byte(b)); got != want {
			t.Errorf("whole(%q) = %v, want %v", b, got, want)
		}
	}
}
