// Command sallyport runs a program so that its only way out is a proxy whose
// rules somebody wrote.
package main

import (
	"os"

	"sallyport/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args...)) }
