package workload_test

import (
	"errors"
	"fmt"

	"zos.internal/identity"
	"zos.internal/workload"
)

func Example() {
	src := []byte(`{"format":"zos/deployment/1","chain":"grid-1","twin_id":17,"contract_id":285212675,"node_id":42,"version":1,
"workloads":[{"version":1,"name":"data","type":"volume","data":{"size":67108864}}]}`)
	doc, err := workload.Parse(src, workload.Final)
	if err != nil {
		fmt.Println(err)
		return
	}
	signature, err := doc.Sign(17, identity.FromSeed([32]byte{}), 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	wire, err := doc.Envelope(signature).Encode()
	fmt.Println(len(wire), "bytes", err)

	_, err = workload.Parse([]byte(`{"format":"zos/deployment/1",
 "workloads":[{"name":"data","type":"volumes","data":{}}]}`), workload.Draft)
	var problems workload.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			fmt.Println(p)
		}
	}
	// Output:
	// 269 bytes <nil>
	// line 2, column 37, byte 66: workloads[0].type: "volumes" is not known here; did you mean "volume"?
}
