package inject

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"sallyport/internal/policy/profile"
)

func TestAuthorize(t *testing.T) {
	c := credential(&held{value: canary})
	for _, x := range []struct {
		place  profile.Place
		header string
		want   string
	}{
		{profile.Place{Kind: profile.Header, Name: "X-Api-Key"}, "X-Api-Key", canary},
		{profile.Place{Kind: profile.Header, Name: "Authorization", Scheme: "Bearer"}, "Authorization", "Bearer " + canary},
	} {
		c.Places = []profile.Place{{Kind: profile.Query, Name: "key"}, x.place}
		in, h := injector(t, c), http.Header{}
		if err := in.Authorize(t.Context(), "forge", h); err != nil || h.Get(x.header) != x.want || !in.CanAuthorize("forge") {
			t.Errorf("%v: %v, %v", x.place, h, err)
		}
	}
	c.Places = c.Places[:1]
	in := injector(t, c)
	if err := in.Authorize(t.Context(), "forge", http.Header{}); codeOf(err) != Unavailable || in.CanAuthorize("forge") {
		t.Errorf("a key for the query: %v", err)
	}
	c = credential(&held{err: errors.New("locked")})
	if err := injector(t, c).Authorize(t.Context(), "forge", http.Header{}); codeOf(err) != Unavailable {
		t.Errorf("no key: %v", err)
	}
}

func TestScrubFor(t *testing.T) {
	in := injector(t, credential(&held{value: canary}))
	for provider, want := range map[string]string{"forge": stars(len(canary)), "other": canary} {
		resp := answer(200, strings.NewReader(canary))
		if err := in.ScrubFor(provider, resp); err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(resp.Body); string(got) != want {
			t.Errorf("%s: %q, want %q", provider, got, want)
		}
	}
}

func TestFree(t *testing.T) {
	in := injector(t, credential(&held{value: canary}))
	if err := in.Free([]byte("x" + ph)); codeOf(err) != Misplaced {
		t.Errorf("Free = %v", err)
	}
	if err := in.Free([]byte(ph[1:])); err != nil {
		t.Errorf("Free = %v", err)
	}
}
