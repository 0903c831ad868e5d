package workload

import "zos.internal/identity"

// PrivateNetwork is a network of one owner over several nodes.
type PrivateNetwork struct {
	Range4   string       `json:"range4" rule:"? is=range4" update:"never" doc:"a /16 inside 10.0.0.0/8; absent: derived from the contract id"`
	Nodes    []Member     `json:"nodes" rule:"1..254" update:"place" doc:"member nodes; an index never changes"`
	Access   []Access     `json:"access" rule:"? 0..250" update:"place" doc:"laptops and other machines outside the grid"`
	Gateways []NetGateway `json:"gateways" rule:"? 0..64" update:"place" doc:"gateways and exactly what each may reach"`
	Egress   *Egress      `json:"egress" rule:"?" update:"place" doc:"absent: no internet"`
	PQ       string       `json:"pq" rule:"default=required enum=required,classic" update:"place" doc:"required: no traffic before the post-quantum key is agreed"`
	KeyEpoch uint32       `json:"key_epoch" rule:"default=0 0..2^32-1" update:"grow" doc:"raise it to change every key of the network"`
}

// Member is a node of a network.
type Member struct {
	Node  identity.Party `json:"node" rule:"1..2^28-1" doc:"node"`
	Index uint32         `json:"index" rule:"1..254" doc:"third byte of its addresses"`
}

// Access is a machine outside the grid.
type Access struct {
	Name   string           `json:"name" rule:"is=name" doc:"name"`
	Host   uint32           `json:"host" rule:"2..250" doc:"last byte of its address in index 0"`
	Key    string           `json:"key" rule:"is=x25519" doc:"public key that was made on that machine"`
	Via    []identity.Party `json:"via" rule:"1..3 unique each:1..2^28-1" doc:"public member nodes it connects to"`
	Sealed []Secret         `json:"psk_sealed" rule:"? 1..3" doc:"pre-shared key, sealed for each node of via, in that order"`
}

// NetGateway is a gateway node in a network.
type NetGateway struct {
	Node  identity.Party `json:"node" rule:"1..2^28-1" doc:"gateway node"`
	Host  uint32         `json:"host" rule:"2..250" doc:"last byte of its address in index 0"`
	Allow []Tuple        `json:"allow" rule:"1..256" doc:"what it may reach, and nothing else"`
}

// Tuple is an address, protocol and port.
type Tuple struct {
	Addr  string `json:"addr" rule:"is=address" doc:"address in the network"`
	Proto string `json:"proto" rule:"enum=tcp,udp" doc:"protocol"`
	Port  uint32 `json:"port" rule:"1..65535" doc:"port"`
}

// Egress lets the machines of a network reach the internet.
type Egress struct {
	Nodes []identity.Party `json:"nodes" rule:"1..16 unique each:1..2^28-1" doc:"member nodes through which it leaves"`
	DNS   []string         `json:"dns" rule:"? 1..4 unique each:is=address" doc:"resolvers that queries are forwarded to; absent: none"`
}

// IP is a public address.
type IP struct {
	Family string   `json:"family" rule:"enum=v4,v6" update:"never" doc:"kind of address"`
	Ports  []string `json:"ports" rule:"? 1..64 unique each:is=port" update:"place" doc:"what strangers may reach, tcp/443; absent: nothing"`
	Target string   `json:"target" rule:"is=name" update:"never" doc:"container or vm that gets the address"`
}

// GatewayName publishes a name of the grid.
type GatewayName struct {
	Name     string       `json:"name" rule:"is=label" update:"never" doc:"name that a live name contract of the owner holds"`
	TLS      string       `json:"tls" rule:"enum=terminate,passthrough" update:"place" doc:"terminate: the operator of the gateway can read the traffic. passthrough: only the backend can"`
	Backends []WebBackend `json:"backends" rule:"1..16" update:"place" doc:"where requests go, in turn"`
}

// GatewayFQDN publishes a domain of the owner.
type GatewayFQDN struct {
	FQDN     string       `json:"fqdn" rule:"1..253 is=fqdn" update:"never" doc:"domain; the first live contract on the gateway holds it"`
	TLS      string       `json:"tls" rule:"enum=terminate,passthrough" update:"place" doc:"terminate: the operator of the gateway can read the traffic. passthrough: only the backend can"`
	Backends []WebBackend `json:"backends" rule:"1..16" update:"place" doc:"where requests go, in turn"`
}

// WebBackend is an address and port in a private network.
type WebBackend struct {
	Network string `json:"network" rule:"is=name" doc:"one of the networks of the document"`
	Addr    string `json:"addr" rule:"is=address" doc:"address in the network"`
	Port    uint32 `json:"port" rule:"1..65535" doc:"port"`
}

// ZLogs sends output to a URL.
type ZLogs struct {
	Target string `json:"target" rule:"is=name" update:"never" doc:"container or vm"`
	Output string `json:"output" rule:"1..2048 is=output" update:"place" doc:"wss URL; ws and redis only to addresses in private networks"`
}

func (*PrivateNetwork) kind() Type { return TypeNetwork }
func (*IP) kind() Type             { return TypeIP }
func (*GatewayName) kind() Type    { return TypeGatewayName }
func (*GatewayFQDN) kind() Type    { return TypeGatewayFQDN }
func (*ZLogs) kind() Type          { return TypeZLogs }
