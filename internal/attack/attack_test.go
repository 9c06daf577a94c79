package attack

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var (
	only  = flag.String("only", "", "run these cases, separated by commas")
	races = flag.Int("races", 0, "how often a race is run")
)

func TestMain(m *testing.M) {
	if handled, exit := Payload(os.Args); handled {
		os.Exit(exit)
	}
	os.Exit(m.Run())
}

func TestSuite(t *testing.T) {
	o := Options{Races: *races}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r.Table(t.Output())
	if r.Red() {
		t.Error("red")
	}
}
