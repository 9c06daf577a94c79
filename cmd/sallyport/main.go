// Command sallyport runs a program so that its only way out is a proxy whose
// rules somebody wrote.
package main

import (
	"os"

	"sallyport/internal/attack"
	"sallyport/internal/cli"
)

func main() {
	if handled, status := attack.Payload(os.Args); handled {
		os.Exit(status)
	}
	os.Exit(cli.Main(os.Args...))
}
