package workload

import "zos.internal/identity"

// Format is the first word of every document of this version.
const Format = "zos/deployment/1"

// Document is a deployment: everything one contract lets run on one node, or
// one private network. Only Parse, Read and FromYAML make one; its meaning
// never changes after that.
type Document struct {
	Format      string              `json:"format" rule:"is=format" doc:"version of this format"`
	Chain       string              `json:"chain" rule:"draft? is=chain" update:"never" doc:"name of the chain that holds the contract"`
	TwinID      identity.Party      `json:"twin_id" rule:"draft? 1..2^28-1" update:"never" doc:"owner of the contract, a twin or a group"`
	ContractID  identity.ContractID `json:"contract_id" rule:"draft? 1..2^52-1" update:"never" doc:"twin_id x 2^24 + a serial number that the owner chooses"`
	NodeID      identity.Party      `json:"node_id" rule:"? 1..2^28-1" update:"never" doc:"node that runs the deployment; absent in a network document"`
	Version     uint32              `json:"version" rule:"draft? 1..2^32-1" doc:"1, then higher with each update"`
	Expiration  uint64              `json:"expiration" rule:"default=0 0..2^53-1" doc:"unix time in seconds at which the contract ends; 0 is never"`
	Description string              `json:"description" rule:"? 0..512 is=nonul" doc:"for people; at most 512 bytes"`
	Metadata    string              `json:"metadata" rule:"? 0..4096 is=nonul" doc:"for programs of the owner; at most 4096 bytes"`
	Networks    []Network           `json:"networks" rule:"? 1..64" doc:"private networks that the workloads use, all of the same owner"`
	Requirement *Requirement        `json:"signature_requirement" rule:"?" doc:"who must sign this document, beyond the owner"`
	Destroy     []string            `json:"destroy" rule:"? 1..64 unique each:is=name" doc:"workloads of the running version whose data this version gives up"`
	Workloads   []Workload          `json:"workloads" rule:"1..64" doc:"what runs"`

	raw   string
	draft bool
	place placer
}

// Network names a private network of the same owner.
type Network struct {
	Name       string              `json:"name" rule:"is=name" doc:"name inside this document"`
	ContractID identity.ContractID `json:"contract_id" rule:"draft? 1..2^52-1" doc:"network contract"`
}

// Requirement is what the node wants to see signed before it acts.
type Requirement struct {
	Requests       []SignatureRequest `json:"requests" rule:"1..16" doc:"who may sign, and with what weight"`
	WeightRequired uint32             `json:"weight_required" rule:"1..16000" doc:"sum of weights that is enough"`
}

// SignatureRequest is one signer.
type SignatureRequest struct {
	TwinID   identity.Party `json:"twin_id" rule:"1..2^28-1" doc:"signer"`
	Required bool           `json:"required" rule:"default=false" doc:"nothing runs without this signature"`
	Weight   uint32         `json:"weight" rule:"1..1000" doc:"what the signature counts"`
}

// Workload is one thing that runs or is stored.
type Workload struct {
	Version     uint32 `json:"version" rule:"draft? 1..2^32-1" doc:"version of the document in which this workload last changed"`
	Name        string `json:"name" rule:"is=name" doc:"unique in the document"`
	Type        Type   `json:"type" rule:"enum=container,vm,zmount,volume,zdb,qsfs,network,ip,gateway-name-proxy,gateway-fqdn-proxy,zlogs" update:"never" doc:"what it is"`
	Data        Data   `json:"data" doc:"fields of the type"`
	Description string `json:"description" rule:"? 0..512 is=nonul" doc:"for people; at most 512 bytes"`
	Metadata    string `json:"metadata" rule:"? 0..4096 is=nonul" doc:"for programs of the owner; at most 4096 bytes"`
}

// Type is the type of a workload.
type Type string

// The types of workloads.
const (
	TypeContainer   Type = "container"
	TypeVM          Type = "vm"
	TypeZMount      Type = "zmount"
	TypeVolume      Type = "volume"
	TypeZDB         Type = "zdb"
	TypeQSFS        Type = "qsfs"
	TypeNetwork     Type = "network"
	TypeIP          Type = "ip"
	TypeGatewayName Type = "gateway-name-proxy"
	TypeGatewayFQDN Type = "gateway-fqdn-proxy"
	TypeZLogs       Type = "zlogs"
)

// Data is the data of a workload: *Container, *VM, *Disk, *Volume, *ZDB, *QSFS,
// *PrivateNetwork, *IP, *GatewayName, *GatewayFQDN or *ZLogs.
type Data interface{ kind() Type }

// kindOf is a type with its rank in the order of work.
type kindOf struct {
	Type Type
	rank int
	what string
	data Data
}

// kinds are all types, in the order of the reference.
func kinds() []kindOf {
	return []kindOf{
		{TypeContainer, 4, "A program of an image, as a process with a seal or in a small machine.", new(Container)},
		{TypeVM, 4, "A virtual machine with a kernel of its own, or a disk image (`/image.raw`).", new(VM)},
		{TypeZMount, 1, "A block disk of one virtual machine.", new(Disk)},
		{TypeVolume, 1, "A directory that containers share and that outlives them.", new(Volume)},
		{TypeZDB, 1, "A key-value namespace that speaks the protocol of 0-db.", new(ZDB)},
		{TypeQSFS, 2, "A file system whose data is dispersed over zdb namespaces.", new(QSFS)},
		{TypeNetwork, 0, "A private network; the same document goes to every member node.", new(PrivateNetwork)},
		{TypeIP, 3, "A public address of a container or virtual machine.", new(IP)},
		{TypeGatewayName, 5, "A web name of the grid that leads to backends in private networks.", new(GatewayName)},
		{TypeGatewayFQDN, 5, "A domain of the owner that leads to backends in private networks.", new(GatewayFQDN)},
		{TypeZLogs, 6, "Sends the output of a container or virtual machine to a URL.", new(ZLogs)},
	}
}

// Types are all types of workloads, in the order of the reference.
func Types() []Type {
	ks := kinds()
	out := make([]Type, len(ks))
	for i, k := range ks {
		out[i] = k.Type
	}
	return out
}

// Workload finds a workload by name; nil if there is none.
func (d *Document) Workload(name string) *Workload {
	for i := range d.Workloads {
		if d.Workloads[i].Name == name {
			return &d.Workloads[i]
		}
	}
	return nil
}

// IsNetwork says if this is the document of a private network, which goes to
// every member node.
func (d *Document) IsNetwork() bool {
	return len(d.Workloads) == 1 && d.Workloads[0].Type == TypeNetwork
}

// Secret is a text that only the node can read. A draft says instead where
// `zos apply` finds it: exactly one of the three is set.
type Secret struct {
	Sealed string `json:"sealed" rule:"draft? is=sealed 1..98304" doc:"base64url of key epoch, encapsulated key and ciphertext, sealed to the node"`
	Env    string `json:"env" rule:"draft! is=variable" doc:"draft only: take the secret from this variable when it is sealed"`
	File   string `json:"file" rule:"draft! 1..4096 is=line" doc:"draft only: take the secret from this file when it is sealed"`
}
