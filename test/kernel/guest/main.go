// Guest is the only program of the emulated machine: PID 1, which loads the
// kernel's modules, runs the scenario, prints its rows and switches off.
package main

import (
	"os"

	"zos.internal/flist/mount/mounttest"
)

func main() {
	if mounttest.Play(os.Args[1:]) {
		return
	}
	boot()
}
