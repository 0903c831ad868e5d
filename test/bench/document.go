package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"

	"zos.internal/identity"
	"zos.internal/workload"
)

// document compares the whole check of a 16 KiB deployment document, as a node
// does it, with the least that anybody could do: the standard library's decoder
// into the same types of values, SHA-256, and one ed25519 verification.
func document(_ context.Context, b *bench) error {
	src := bigDocument(16 << 10)
	key := identity.FromSeed([32]byte{1})
	doc, err := workload.Parse(src, workload.Final)
	if err != nil {
		return fmt.Errorf("the document of the benchmark: %w", err)
	}
	sig, err := doc.Sign(17, key, 0)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(src)
	message := append([]byte(identity.TagDeployment+"\x00"), sum[:]...)
	public := ed25519.PublicKey(key.Public()[1:])
	const times = 200
	theirs := func() (float64, error) {
		s, err := spent(func() error {
			for range times {
				var d plainDocument
				if err := json.Unmarshal(src, &d); err != nil || len(d.Workloads) == 0 {
					return fmt.Errorf("decode: %v", err)
				}
				if h := sha256.Sum256(src); h != sum {
					return fmt.Errorf("the hash differs")
				}
				if !ed25519.Verify(public, message, sig.Signature.Bytes) {
					return fmt.Errorf("the signature doesn't fit")
				}
			}
			return nil
		})
		return s / times, err
	}
	keys := oneKey{17, key.Public()}
	ours := func() (float64, error) {
		s, err := spent(func() error {
			for range times {
				d, err := workload.Parse(src, workload.Final)
				if err != nil {
					return err
				}
				if d.Hash() != workload.Hash(sum) {
					return fmt.Errorf("the hash differs")
				}
				e := workload.Envelope{Document: src, Signatures: []workload.TwinSignature{sig}}
				signers, err := e.Signers(keys)
				if err != nil {
					return err
				}
				if err := workload.Consent(d, nil, signers, false); err != nil {
					return err
				}
			}
			return nil
		})
		return s / times, err
	}
	return b.compare(fmt.Sprintf("processor time to check a document of %d bytes", len(src)), "std decode, SHA-256, ed25519", atMost(3), micros, theirs, ours)
}

// spent is the processor time that this process takes for f, in seconds: other
// programs of a busy machine don't count.
func spent(f func() error) (float64, error) {
	begin, err := processorTime()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	end, err := processorTime()
	return (end - begin).Seconds(), err
}

// oneKey is the only key there is.
type oneKey struct {
	twin identity.Party
	key  identity.PublicKey
}

func (k oneKey) Key(twin identity.Party, index uint32) (identity.PublicKey, identity.Role, error) {
	if twin != k.twin || index != 0 {
		return "", 0, fmt.Errorf("no such key")
	}
	return k.key, identity.RoleFull, nil
}

// plainDocument is what a decoder without checks fills.
type plainDocument struct {
	Format, Chain string
	TwinID        uint64 `json:"twin_id"`
	ContractID    uint64 `json:"contract_id"`
	NodeID        uint64 `json:"node_id"`
	Version       uint64
	Networks      []struct {
		Name       string
		ContractID uint64 `json:"contract_id"`
	}
	Workloads []struct {
		Version    uint64
		Name, Type string
		Data       struct {
			Size     uint64
			Flist    string
			Root     string `json:"flist_root"`
			Capacity struct {
				CPU    uint64 `json:"cpu_milli"`
				Memory uint64
			} `json:"compute_capacity"`
			Entrypoint []string
			Env        map[string]string
			Mounts     []struct{ Name, Mountpoint string }
			Network    struct {
				Interfaces []struct{ Network, IP string }
			}
		}
	}
}

// bigDocument is a valid document of about n bytes: containers with volumes.
func bigDocument(n int) []byte {
	var b strings.Builder
	b.WriteString(`{"format":"zos/deployment/1","chain":"grid-1","twin_id":17,"contract_id":285212675,"node_id":42,"version":1,"networks":[{"name":"net","contract_id":285212674}],"workloads":[`)
	for i := 0; b.Len() < n-600; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"version":1,"name":"data-%d","type":"volume","data":{"size":1073741824}},`, i)
		fmt.Fprintf(&b, `{"version":1,"name":"app-%d","type":"container","data":{"flist":"hub.example/acme/app:1","flist_root":"%064x","compute_capacity":{"cpu_milli":500,"memory":268435456},`+
			`"entrypoint":["/bin/app","--listen","0.0.0.0:8080"],"env":{"MODE":"production","DATABASE":"postgres://db.net.zos/app","WORKERS":"4"},`+
			`"mounts":[{"name":"data-%d","mountpoint":"/data"}],"network":{"interfaces":[{"network":"net","ip":"10.7.3.%d"}]}}}`, i, i+1, i, i+2)
	}
	b.WriteString("]}\n")
	return []byte(b.String())
}
