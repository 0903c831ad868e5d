package workload

import (
	"fmt"
	"testing"
)

// big is a valid document of about 16 KiB.
func big() string {
	list := vol[:len(vol)-1]
	for i := 0; len(list) < 16<<10-300; i++ {
		list += "," + w(1, fmt.Sprintf("c%d", i), "container", ctr(fmt.Sprintf(`,"entrypoint":["/bin/app","--listen"],"env":{"MODE":"production","WORKERS":"4"},"mounts":[{"name":"v","mountpoint":"/data"}],"network":{"interfaces":[{"network":"net0","ip":"10.7.3.%d"}]}`, i+2)))
	}
	return deployment(1, "", list)
}

func BenchmarkParse(b *testing.B) {
	src := []byte(big())
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(src, Final); err != nil {
			b.Fatal(err)
		}
	}
}
