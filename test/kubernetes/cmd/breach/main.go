// Command breach runs the escape suite with walls left out, which the program
// that people use cannot: a suite that stays green then would prove nothing.
//
//	breach [-off WALL,WALL] [-races N] [-only CASE,CASE]
//
// It prints the report as JSON and ends with status 1 if it is red.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"sallyport/internal/attack"
	"sallyport/internal/confine"
)

func main() {
	if handled, status := attack.Payload(os.Args); handled {
		os.Exit(status)
	}
	var o attack.Options
	flag.Func("off", "walls to leave out", func(s string) error {
		for name := range strings.SplitSeq(s, ",") {
			w, err := confine.ParseWall(name)
			if err != nil {
				return err
			}
			o.Off |= w
		}
		return nil
	})
	flag.Func("only", "cases to run", func(s string) error { o.Only = strings.Split(s, ","); return nil })
	flag.IntVar(&o.Races, "races", 0, "how often a race is run")
	flag.Parse()
	r, err := attack.Run(context.Background(), o)
	if err == nil {
		err = r.JSON(os.Stdout)
	}
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case r.Red():
		os.Exit(1)
	}
}
