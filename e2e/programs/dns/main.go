// Command dns is CoreDNS with the plugins that a cluster's DNS needs, and no others.
//
// The whole of CoreDNS takes the client libraries of several clouds with it; a test cluster asks none of them.
package main

import (
	"github.com/coredns/coredns/coremain"

	// The server itself, and one line for each plugin of the Corefile.
	_ "github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	coremain.Run()
}
